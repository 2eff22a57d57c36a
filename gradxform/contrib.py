"""What Optax keeps under this name; in gradxform it all stands at the top level."""

from gradxform.optimizers.adam_family import acprop, ademamix, adopt, simplified_ademamix
from gradxform.optimizers.gradient_descent import dpsgd
from gradxform.optimizers.learning_rate_free import cocob, dadapt_adamw, dog, dowg, momo, momo_adam, prodigy
from gradxform.optimizers.matrix import galore, muon
from gradxform.optimizers.schedule_free import (
    madgrad,
    scale_by_madgrad,
    schedule_free,
    schedule_free_adamw,
    schedule_free_eval_params,
    schedule_free_sgd,
)
from gradxform.optimizers.sophia import (
    HutchinsonState,
    SophiaState,
    hutchinson_estimator_diag_hessian,
    sophia,
)
from gradxform.primitives.adam_family import (
    scale_by_acprop,
    scale_by_ademamix,
    scale_by_adopt,
    scale_by_simplified_ademamix,
)
from gradxform.primitives.learning_rate_free import scale_by_cocob
from gradxform.primitives.low_rank import GaLoreDimensionNumbers, GaLoreState, scale_by_galore
from gradxform.primitives.orthogonal import MuonDimensionNumbers, scale_by_muon
from gradxform.primitives.privacy import (
    DifferentiallyPrivateAggregateState,
    differentially_private_aggregate,
)
from gradxform.primitives.shaping import normalize
from gradxform.wrappers.layout import SplitRealAndImaginaryState, split_real_and_imaginary
from gradxform.wrappers.mechanic import MechanicState, mechanize
from gradxform.wrappers.plateau import ReduceLROnPlateauState, reduce_on_plateau
from gradxform.wrappers.sharpness import SAMState, sam

__all__ = [
    "DifferentiallyPrivateAggregateState",
    "GaLoreDimensionNumbers",
    "GaLoreState",
    "HutchinsonState",
    "MechanicState",
    "MuonDimensionNumbers",
    "ReduceLROnPlateauState",
    "SAMState",
    "SophiaState",
    "SplitRealAndImaginaryState",
    "acprop",
    "ademamix",
    "adopt",
    "cocob",
    "dadapt_adamw",
    "differentially_private_aggregate",
    "dog",
    "dowg",
    "dpsgd",
    "galore",
    "hutchinson_estimator_diag_hessian",
    "madgrad",
    "mechanize",
    "momo",
    "momo_adam",
    "muon",
    "normalize",
    "prodigy",
    "reduce_on_plateau",
    "sam",
    "scale_by_acprop",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_cocob",
    "scale_by_galore",
    "scale_by_madgrad",
    "scale_by_muon",
    "scale_by_simplified_ademamix",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
    "simplified_ademamix",
    "sophia",
    "split_real_and_imaginary",
]
