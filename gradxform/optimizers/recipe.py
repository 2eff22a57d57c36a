"""What nearly every optimizer ends with."""

from gradxform.chain import chain, identity
from gradxform.hyperparams import Hyperparam, is_zero
from gradxform.primitives.decay import add_decayed_weights
from gradxform.primitives.scaling import scale_by_learning_rate
from gradxform.rule import Mask
from gradxform.transformation import GradientTransformation

__all__ = ["decay", "descend"]


def decay(weight_decay: Hyperparam | None, mask: Mask | None = None) -> GradientTransformation:
    """Weight decay, if there is any."""
    if weight_decay is None or is_zero(weight_decay):
        return identity()
    return add_decayed_weights(weight_decay, mask)


def descend(
    direction: GradientTransformation,
    learning_rate: Hyperparam,
    weight_decay: Hyperparam | None = None,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Go down in a direction, with decoupled weight decay."""
    return chain(direction, decay(weight_decay, mask), scale_by_learning_rate(learning_rate))
