"""Gradients that tell little of any one example."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util

from gradxform.arguments import as_key, check_number
from gradxform.arithmetic import Scalar
from gradxform.hyperparams import Checked, nonnegative
from gradxform.primitives.clipping import example_count, sum_of_shortened
from gradxform.transformation import GradientTransformation, Params, Updates
from gradxform.trees import check_inexact, flatten, flatten_like, paths

__all__ = ["DifferentiallyPrivateAggregateState", "differentially_private_aggregate"]


class DifferentiallyPrivateAggregateState(NamedTuple):
    """The state of `differentially_private_aggregate`.

    Attributes:
      rng_key: the random key of the next step.
    """

    rng_key: jax.Array


def differentially_private_aggregate(
    l2_norm_clip: Scalar,
    noise_multiplier: Scalar,
    key: jax.Array | int | None = None,
    *,
    seed: int | None = None,
) -> GradientTransformation:
    r"""The mean of the examples' gradients, each shortened, with noise.

    .. math::
      u = \frac1B \Bigl(\sum_{b=1}^B g_b \min\bigl(1, C / \lVert g_b \rVert\bigr)
        + \mathcal{N}(0, \sigma^2 C^2)\Bigr)

    The norm of an example's gradient is taken over all leaves together. Real
    and imaginary parts of a complex gradient both get noise of this size.

    The gradients come with the examples along their first axis, so this must
    be the first part of a chain; ``jax.vmap(jax.grad(loss), in_axes=(None, 0))``
    takes them. What gathers gradients, such as `MultiSteps`, cannot stand around it.

    Args:
      l2_norm_clip: :math:`C`, above 0.
      noise_multiplier: :math:`\sigma`, at least 0.
      key: a random key, or a number to make one from. The privacy rests on its
        being unknown.
      seed: another name for a number as `key`.

    Returns:
      A `GradientTransformation` with a `DifferentiallyPrivateAggregateState`.
      Its updates have the shapes and dtypes of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds, or there is no key, or
        two; in `update`, a gradient has no axis of examples, one of another
        length than the others', or one of length 0.
      TypeError: the key is neither a random key nor an integer.

    References:
      Abadi et al., `Deep learning with differential privacy
      <https://arxiv.org/abs/1607.00133>`_, 2016.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.differentially_private_aggregate(l2_norm_clip=2.5, noise_multiplier=0.0, key=0)
      >>> grads = jnp.asarray([[3.0, 4.0], [0.0, 1.0]])
      >>> tx.update(grads, tx.init(jnp.zeros(2)))[0].tolist()
      [0.75, 1.5]
    """
    # An infinite bound would ask for infinite noise.
    bound = Checked(l2_norm_clip, "above 0 and finite", lambda c: 0 < c < math.inf)
    check_number(_WHO, "l2_norm_clip", bound)
    check_number(_WHO, "noise_multiplier", nonnegative(noise_multiplier))
    if (key is None) == (seed is None):
        raise ValueError(f"{_WHO} needs one random key: pass key=jax.random.key(0), or a number")
    first = as_key(_WHO, seed if key is None else key)
    noise_std = l2_norm_clip * noise_multiplier

    def init(params: Params) -> DifferentiallyPrivateAggregateState:
        # A copy: the state may be donated, and the next one is made of the same key.
        return DifferentiallyPrivateAggregateState(jnp.copy(first))

    def update(
        grads: Updates, state: DifferentiallyPrivateAggregateState, params: Params | None = None
    ) -> tuple[Updates, DifferentiallyPrivateAggregateState]:
        leaves, treedef = flatten(grads)
        examples = example_count(grads, _WHO)
        dtypes = _dtypes(grads, params)
        present = [i for i, leaf in enumerate(leaves) if leaf is not None]
        if present and not examples:
            raise ValueError(
                f"{_WHO}: {paths(grads, 'grads')[present[0]]} is of no examples: there is no mean"
            )
        sums, _ = sum_of_shortened(leaves, l2_norm_clip)
        next_key, *keys = jax.random.split(state.rng_key, len(present) + 1)
        for i, leaf_key in zip(present, keys, strict=True):
            leaves[i] = _noisy_mean(sums[i], leaf_key, noise_std, examples).astype(dtypes[i])
        return treedef.unflatten(leaves), DifferentiallyPrivateAggregateState(next_key)

    return GradientTransformation(init, update)


_WHO = "differentially_private_aggregate"


def _dtypes(grads: Updates, params: Params | None) -> list[Any]:
    """The dtype that each update is to have; raises where a gradient is not one of its parameter."""
    leaves, treedef = flatten(grads)
    originals = leaves
    if params is not None:
        originals = flatten_like(treedef, grads, params, root="params", like="grads", who=_WHO)
    dtypes: list[Any] = []
    for i, (leaf, param) in enumerate(zip(leaves, originals, strict=True)):
        if leaf is None:
            dtypes.append(None)
            continue
        check_inexact(leaf, grads, i, root="grads", who=_WHO)
        shape = np.shape(param) if tree_util.all_leaves([param]) else type(param).__name__
        if params is not None and leaf.shape[1:] != shape:
            raise ValueError(
                f"{_WHO}: {paths(grads, 'grads')[i]} has shape {leaf.shape}, its parameter {shape}; a "
                "gradient for each example has one more axis, the first. Take it by "
                "jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batch)."
            )
        if np.iscomplexobj(leaf) and not np.iscomplexobj(param):
            raise TypeError(
                f"{_WHO}: {paths(grads, 'grads')[i]} is complex, its parameter has dtype "
                f"{jnp.result_type(param)}. Take the real part of the gradient first."
            )
        dtypes.append(jnp.result_type(param))
    return dtypes


@jax.jit
def _noisy_mean(total: Any, key: Any, deviation: Any, examples: Any) -> Any:
    noise = jax.random.normal(key, total.shape, total.dtype)
    if jnp.iscomplexobj(total):
        noise = noise * math.sqrt(2)  # complex noise of variance 1 has 1/2 in each part
    return (total + deviation * noise) / examples
