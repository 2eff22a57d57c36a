"""Copies of parameters that follow them: gradually, or now and then."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradxform.arithmetic import Scalar, compute_dtype, ema_of
from gradxform.transformation import Params
from gradxform.trees import check_all_inexact, map_leaves

__all__ = ["incremental_update", "periodic_update"]


def incremental_update(new_tensors: Params, old_tensors: Params, step_size: Scalar) -> Params:
    r"""Move a copy some way towards the parameters: :math:`\bar w \leftarrow \bar w + c (w - \bar w)`.

    Args:
      new_tensors: :math:`w`, a tree of arrays; where it holds ``None``, so does the result.
      old_tensors: :math:`\bar w`, a tree of the same structure and shapes.
      step_size: :math:`c`, in [0, 1].

    Returns:
      The new copy, in the dtypes of the old one.

    Raises:
      TypeError: a leaf is not floating-point or complex; the message names its path.
      ValueError: the structures or shapes disagree, naming the path; or
        `step_size` is out of its bounds.

    References:
      Polyak and Juditsky, `Acceleration of stochastic approximation by
      averaging <https://doi.org/10.1137/0330046>`_, 1992.

    Example:
      >>> import gradxform as gx
      >>> gx.incremental_update({"w": 4.0}, {"w": 0.0}, step_size=0.25)["w"].item()
      1.0
    """
    who = "incremental_update"
    if isinstance(step_size, int | float | np.generic) and not 0 <= step_size <= 1:
        raise ValueError(f"{who}: step_size must be in [0, 1], got {step_size}")
    check_all_inexact(new_tensors, root="new_tensors", who=who)

    def move(new: Any, old: Any) -> jax.Array:
        dtype = compute_dtype(jnp.result_type(new), jnp.result_type(old))
        return ema_of(jnp.asarray(old, dtype), jnp.asarray(new, dtype), 1 - step_size)

    return _with_new(who, new_tensors, old_tensors, move)


def periodic_update(
    new_tensors: Params, old_tensors: Params, steps: ArrayLike, update_period: ArrayLike
) -> Params:
    r"""Replace a copy by the parameters at every `k`-th step: :math:`\bar w \leftarrow w` if :math:`k | t`.

    Args:
      new_tensors: :math:`w`, a tree of arrays; where it holds ``None``, so does the result.
      old_tensors: :math:`\bar w`, a tree of the same structure and shapes.
      steps: :math:`t`, the number of steps taken.
      update_period: :math:`k`, at least 1.

    Returns:
      The new copy, in the dtypes of the old one.

    Raises:
      ValueError: the structures or shapes disagree, naming the path; or
        `update_period` is below 1.

    References:
      Mnih et al., `Playing Atari with deep reinforcement learning
      <https://arxiv.org/abs/1312.5602>`_, 2013; Grill et al., `Bootstrap your
      own latent <https://arxiv.org/abs/2006.07733>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> new, old = {"w": 4.0}, {"w": 0.0}
      >>> [gx.periodic_update(new, old, steps, 2)["w"].item() for steps in (1, 2)]
      [0.0, 4.0]
    """
    if isinstance(update_period, int | float | np.generic) and not update_period >= 1:
        raise ValueError(f"periodic_update: update_period must be at least 1, got {update_period}")
    due = jnp.mod(steps, update_period) == 0
    return _with_new("periodic_update", new_tensors, old_tensors, lambda new, old: jnp.where(due, new, old))


def _with_new(
    who: str, new_tensors: Params, old_tensors: Params, combine: Callable[[Any, Any], jax.Array]
) -> Params:
    """`combine` of each leaf and its copy, which must have its shape and keeps its dtype."""

    def leaf(new: Any, old: Any) -> jax.Array:
        if jnp.shape(new) != jnp.shape(old):
            raise ValueError(
                f"{who}: the new leaf has shape {jnp.shape(new)}, the old one {jnp.shape(old)}; "
                "pass trees of the same parameters"
            )
        dtype = jnp.result_type(old)
        if jnp.iscomplexobj(new) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{who}: the new leaf is complex, the old one has dtype {dtype}")
        return jnp.asarray(combine(new, old)).astype(dtype)

    return map_leaves(leaf, new_tensors, old_tensors, who=who, names=("new_tensors", "old_tensors"))
