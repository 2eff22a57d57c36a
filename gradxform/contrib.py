"""What Optax keeps under this name; in gradxform it all stands at the top level."""

from gradxform.optimizers.gradient_descent import dpsgd
from gradxform.primitives.privacy import (
    DifferentiallyPrivateAggregateState,
    differentially_private_aggregate,
)
from gradxform.primitives.shaping import normalize
from gradxform.wrappers.layout import SplitRealAndImaginaryState, split_real_and_imaginary
from gradxform.wrappers.plateau import ReduceLROnPlateauState, reduce_on_plateau

__all__ = [
    "DifferentiallyPrivateAggregateState",
    "ReduceLROnPlateauState",
    "SplitRealAndImaginaryState",
    "differentially_private_aggregate",
    "dpsgd",
    "normalize",
    "reduce_on_plateau",
    "split_real_and_imaginary",
]
