"""What Optax keeps under this name; in gradxform it all stands at the top level."""

from gradxform.optimizers.gradient_descent import dpsgd
from gradxform.optimizers.matrix import galore, muon
from gradxform.primitives.low_rank import GaLoreDimensionNumbers, GaLoreState, scale_by_galore
from gradxform.primitives.orthogonal import MuonDimensionNumbers, scale_by_muon
from gradxform.primitives.privacy import (
    DifferentiallyPrivateAggregateState,
    differentially_private_aggregate,
)
from gradxform.primitives.shaping import normalize
from gradxform.wrappers.layout import SplitRealAndImaginaryState, split_real_and_imaginary
from gradxform.wrappers.plateau import ReduceLROnPlateauState, reduce_on_plateau

__all__ = [
    "DifferentiallyPrivateAggregateState",
    "GaLoreDimensionNumbers",
    "GaLoreState",
    "MuonDimensionNumbers",
    "ReduceLROnPlateauState",
    "SplitRealAndImaginaryState",
    "differentially_private_aggregate",
    "dpsgd",
    "galore",
    "muon",
    "normalize",
    "reduce_on_plateau",
    "scale_by_galore",
    "scale_by_muon",
    "split_real_and_imaginary",
]
