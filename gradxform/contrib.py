"""What Optax keeps under this name; in gradxform it all stands at the top level."""

from gradxform.optimizers.adam_family import acprop, ademamix, adopt, simplified_ademamix
from gradxform.optimizers.gradient_descent import dpsgd
from gradxform.primitives.adam_family import (
    scale_by_acprop,
    scale_by_ademamix,
    scale_by_adopt,
    scale_by_simplified_ademamix,
)
from gradxform.primitives.privacy import (
    DifferentiallyPrivateAggregateState,
    differentially_private_aggregate,
)
from gradxform.primitives.shaping import normalize
from gradxform.wrappers.layout import SplitRealAndImaginaryState, split_real_and_imaginary
from gradxform.wrappers.plateau import ReduceLROnPlateauState, reduce_on_plateau

__all__ = [
    "acprop",
    "ademamix",
    "adopt",
    "scale_by_acprop",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_simplified_ademamix",
    "simplified_ademamix",
    "DifferentiallyPrivateAggregateState",
    "ReduceLROnPlateauState",
    "SplitRealAndImaginaryState",
    "differentially_private_aggregate",
    "dpsgd",
    "normalize",
    "reduce_on_plateau",
    "split_real_and_imaginary",
]
