"""Gradients that every device takes of its part of the batch, and of which each gets a part of the sum."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradxform.parallel.sharding import (
    automatic,
    axis_size,
    given_layouts,
    is_explicit,
    mesh_of,
    shard_over,
)
from gradxform.trees import PyTree

__all__ = ["scatter_gradients"]


def scatter_gradients(
    fun: Callable[..., Any],
    mesh: Mesh,
    axis: str | Sequence[str],
    params_sharding: PyTree | None = None,
    *,
    has_aux: bool = False,
) -> Callable[..., Any]:
    r"""Value and gradient of a mean over the batch; each device gets a part of the gradient.

    .. math::
      g = \frac1N \sum_{i=1}^N \nabla J_{B_i}(w)

    Device :math:`i` takes the gradient of its part :math:`B_i` of the batch, and
    of the sum gets its own part only (reduce-scatter), which is what
    `shard_state` works on. Under plain `jax.jit` XLA does the same by itself on
    GPUs and TPUs, for any loss; on CPUs it sums up whole gradients (all-reduce).

    `fit` takes it as ``value_and_grad=functools.partial(gx.scatter_gradients, mesh=mesh, axis="data")``.

    Args:
      fun: ``fun(params, batch, *more)`` -> a scalar that is the mean over the
        batch, or with `has_aux` a pair of it and a tree of means. It sees a part
        of the batch, and the axis is there by its name: a key for dropout goes
        through `fold_in_axis`.
      mesh: the devices.
      axis: the name of the mesh's axis that the batch is split over, or names.
      params_sharding: how the parameters lie, as in `shard_over`; by default
        they are whole on each device.
      has_aux: whether `fun` returns a pair.

    Returns:
      A function of ``(params, batch, *more)`` that returns the value and the
      gradient with respect to `params`, laid out as by `shard_over`. It is for
      `jax.jit`. A batch that cannot be cut into as many equal parts as there are
      devices is taken whole by each.

    Raises:
      ValueError: the mesh has no such axis.

    References:
      Rajbhandari et al., `ZeRO: memory optimizations toward training trillion
      parameter models <https://arxiv.org/abs/1910.02054>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
      >>> loss = lambda w, batch: jnp.mean((w - batch) ** 2)
      >>> value, grad = jax.jit(gx.scatter_gradients(loss, mesh, "data"))(1.0, jnp.arange(8.0))
      >>> value.item(), grad.item()
      (11.5, -5.0)
    """
    names = (axis,) if isinstance(axis, str) else tuple(axis)
    size = axis_size(mesh, names, "scatter_gradients")
    differentiated = jax.value_and_grad(fun, has_aux=has_aux)

    def value_and_grad(params: PyTree, batch: PyTree, *more: Any) -> Any:
        here = mesh_of((params, batch), automatic(mesh))
        given = given_layouts(params_sharding, params, here, "scatter_gradients")
        split = shard_over(params, here, names, given)
        if any(leaf.shape[0] % size for leaf in jax.tree.leaves(batch)):
            return differentiated(params, batch, *more)

        def on_each(params: PyTree, batch: PyTree, more: Any) -> Any:
            value, grads = differentiated(params, batch, *more)
            return lax.pmean(value, names), jax.tree.map(own_part, grads, split)

        def own_part(grad: Any, sharding: NamedSharding) -> Any:
            cut = _cut(sharding, names)
            if names not in cut:
                return lax.pmean(grad, names)
            return lax.psum_scatter(grad, names, scatter_dimension=cut.index(names), tiled=True) / size

        def run(params: PyTree, batch: PyTree, more: Any) -> Any:
            specs = jax.tree.map(lambda sharding: PartitionSpec(*_cut(sharding, names)), split)
            return jax.shard_map(
                on_each,
                mesh=None if is_explicit(here) else automatic(here),
                in_specs=(PartitionSpec(), PartitionSpec(names), PartitionSpec()),
                out_specs=(PartitionSpec(), specs),
                axis_names=set(names),
                check_vma=False,
            )(params, batch, more)

        if is_explicit(here):
            whole = NamedSharding(here, PartitionSpec())
            run = jax.sharding.auto_axes(run, out_sharding=(whole, split))
        return run(params, batch, more)

    return value_and_grad


def _cut(sharding: NamedSharding, names: tuple[str, ...]) -> list[tuple[str, ...] | None]:
    """Which axis is cut over the named ones."""
    entries = [(entry,) if isinstance(entry, str) else tuple(entry or ()) for entry in sharding.spec]
    return [names if set(names) <= set(entry) else None for entry in entries]
