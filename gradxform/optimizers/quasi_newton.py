"""Quasi-Newton methods: steps by an inverse Hessian estimated from gradients."""

from gradxform.chain import chain, identity
from gradxform.hyperparams import Hyperparam
from gradxform.primitives.quasi_newton import scale_by_lbfgs
from gradxform.primitives.scaling import scale, scale_by_learning_rate
from gradxform.transformation import GradientTransformation
from gradxform.wrappers.linesearch import scale_by_zoom_linesearch

__all__ = ["lbfgs"]

_ZOOM = scale_by_zoom_linesearch(20, initial_guess_strategy="one")


def lbfgs(
    learning_rate: Hyperparam | None = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: GradientTransformation | None = _ZOOM,
) -> GradientTransformation:
    r"""L-BFGS: quasi-Newton steps from a limited memory, each as long as a line search finds good.

    .. math::
      u = -\alpha H g

    where :math:`H` is that of `scale_by_lbfgs`. It is made for losses without noise: the whole data set
    in every step.

    Args:
      learning_rate: a factor on the direction before the search; ``None`` for 1.
      memory_size, scale_init_precond: as in `scale_by_lbfgs`.
      linesearch: what finds :math:`\alpha`; by default `scale_by_zoom_linesearch` of 20 lengths that begins
        from 1. ``None`` for :math:`\alpha` = `learning_rate`.

    Returns:
      A `GradientTransformation` with ``2 memory_size + 2`` slots the size of the parameters, and one more
      of the search; with a search its update needs
      ``update(grads, state, params, value=..., grad=..., value_fn=...)``.

    Raises:
      TypeError: `memory_size` is no integer.
      ValueError: it is below 1.

    References:
      Liu and Nocedal, `On the limited memory BFGS method for large scale optimization
      <https://doi.org/10.1007/BF01589116>`_, 1989.

    Example:
      >>> import gradxform as gx
      >>> loss = lambda w: (w - 3.0) ** 2
      >>> w, tx = 0.0, gx.lbfgs()
      >>> state = tx.init(w)
      >>> for _ in range(3):
      ...     value, grad = gx.value_and_grad_from_state(loss)(w, state=state)
      ...     updates, state = tx.update(grad, state, w, value=value, grad=grad, value_fn=loss)
      ...     w = gx.apply_updates(w, updates)
      >>> w.item()
      3.0
    """
    step = scale(-1.0) if learning_rate is None else scale_by_learning_rate(learning_rate)
    direction = scale_by_lbfgs(memory_size, scale_init_precond)
    return chain(direction, step, identity() if linesearch is None else linesearch)
