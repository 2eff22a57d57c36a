"""Transformations on low-rank projections of gradient matrices."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradxform.arguments import whole
from gradxform.arithmetic import compute_dtype, next_count
from gradxform.chain import chain, identity
from gradxform.hyperparams import Hyperparam
from gradxform.primitives.factorizations import singular_vectors
from gradxform.primitives.moments import scale_by_adam
from gradxform.primitives.orthogonal import DimensionNumbers, MatrixAxes
from gradxform.primitives.scaling import scale as scale_by
from gradxform.rule import of_params
from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.trees import AnyParams, PyTree, broadcast_prefix, check_gradients, flatten, flatten_like, paths
from gradxform.wrappers.masking import masked
from gradxform.wrappers.wrapper import Wrapper, conform, no_steps

__all__ = ["GaLoreDimensionNumbers", "GaLoreState", "scale_by_galore"]


class GaLoreDimensionNumbers(MatrixAxes):
    """Which axes of an array are the matrix that GaLore projects; all of them have to be named.

    Attributes:
      reduction_axis: the axis or axes of its rows.
      output_axis: the axis or axes of its columns.

    Example:
      >>> import gradxform as gx
      >>> gx.GaLoreDimensionNumbers(output_axis=(1, 2))
      GaLoreDimensionNumbers(reduction_axis=0, output_axis=(1, 2))
    """


class GaLoreState(NamedTuple):
    """The state of `scale_by_galore`.

    Attributes:
      count: steps taken, int32; at its maximum it stays there.
      base_optimizer_state: the base optimizer's state, of the projected gradients.
      projector: the singular vectors that each leaf is projected on; ``None`` for those that are not.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple's own method, which no one calls on a state
    base_optimizer_state: State
    projector: PyTree


def scale_by_galore(
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: Hyperparam = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_dimension_numbers: DimensionNumbers = None,
    *,
    shorter_side: bool = False,
) -> GradientTransformation:
    r"""Transform a projection of each gradient matrix on its leading singular vectors.

    .. math::
      g \approx U \Sigma V^\top, \quad P = U_{:, :r}, \quad u = s P\, T(P^\top g)

    or, for matrices with more columns than rows, :math:`P = V_{:, :r},\; u = s\,T(g P) P^\top`.

    Args:
      rank: :math:`r`, at least 1; smaller matrices keep all their vectors.
      update_proj_gap: every how many steps to compute the vectors anew, at least 1.
      scale: :math:`s`, on the leaves that are projected.
      base_optimizer: :math:`T`, any transformation that needs no parameters; left out, `scale_by_adam`.
      weight_dimension_numbers: one `GaLoreDimensionNumbers` for all leaves of
        two axes or more, or a tree of them, with ``None`` for the leaves not to
        project, or a function from the parameters to it; left out, all
        matrices are projected.
      shorter_side: whether to project the shorter side, as the paper does:
        then the vectors take less memory and the moments more.

    Returns:
      A `GradientTransformation`, with a `GaLoreState`.

    Raises:
      TypeError, ValueError: an argument is out of its bounds, or the
        dimension numbers do not fit the parameters.

    References:
      Zhao et al., `GaLore: memory-efficient LLM training by gradient low-rank
      projection <https://arxiv.org/abs/2403.03507>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx, grads = gx.scale_by_galore(1, base_optimizer=gx.identity()), jnp.diag(jnp.asarray([3.0, 1.0]))
      >>> tx.update(grads, tx.init(grads))[0].round(4).tolist()
      [[3.0, 0.0], [0.0, 0.0]]
    """
    whole("scale_by_galore", rank=rank, update_proj_gap=update_proj_gap)
    base = scale_by_adam() if base_optimizer is None else base_optimizer
    accepted = accepted_keywords(base.update)
    axes_of = partial(_axes, weight_dimension_numbers)

    def init(params: Params) -> GaLoreState:
        leaves, treedef = flatten(params)
        axes = flatten(axes_of(params))[0]
        pairs = [
            (None, leaf) if by is None else _start(by, leaf, rank, shorter_side)
            for by, leaf in zip(axes, leaves, strict=True)
        ]
        projectors, low = (treedef.unflatten(pair[i] for pair in pairs) for i in (0, 1))
        return GaLoreState(no_steps(), base.init(low), projectors)

    def update(
        grads: Updates, state: GaLoreState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, GaLoreState]:
        leaves, treedef = flatten(grads)

        def align(tree: PyTree, root: str) -> list[Any]:
            return flatten_like(treedef, grads, tree, root=root, like="grads", who="scale_by_galore")

        like = grads if params is None else params
        check_gradients(grads, like, who="scale_by_galore")
        originals = [None if g is None else p for g, p in zip(leaves, align(like, "params"), strict=True)]
        axes = [
            None if grad is None else by
            for grad, by in zip(leaves, align(axes_of(like), "weight_dimension_numbers"), strict=True)
        ]
        refresh = state.count % update_proj_gap == 0
        pairs = [
            (projector, grad) if by is None else _project(by, shorter_side, grad, projector, refresh)
            for by, grad, projector in zip(axes, leaves, align(state.projector, "projector"), strict=True)
        ]
        projectors, low = (treedef.unflatten(pair[i] for pair in pairs) for i in (0, 1))
        low, base_state = base.update(low, state.base_optimizer_state, None, **accepted(extra))
        updates = treedef.unflatten(
            update if by is None else _restore(by, shorter_side, update, projector, grad)
            for by, update, (projector, _), grad in zip(
                axes, align(low, "the base optimizer's updates"), pairs, leaves, strict=True
            )
        )
        updates = conform(updates, treedef.unflatten(originals))
        return updates, GaLoreState(next_count(state.count), base_state, projectors)

    def projected(params: Params) -> PyTree:
        axes, treedef = flatten(axes_of(params))
        return treedef.unflatten(by is not None for by in axes)

    call = f"scale_by_galore({rank}, {update_proj_gap})"
    unscaled = isinstance(scale, int | float) and scale == 1
    return chain(
        Wrapper(call, base, init, update, "base_optimizer_state"),
        identity() if unscaled else masked(scale_by(scale), projected),
    )


def _axes(given: DimensionNumbers, params: Params) -> PyTree:
    """For each leaf the axes of its matrix, or ``None`` where nothing is to project."""
    leaves, treedef = flatten(params)
    if isinstance(params, AnyParams):
        return treedef.unflatten([None])
    given = of_params(given, params)
    found: list[MatrixAxes | None]
    if given is None:
        found = [GaLoreDimensionNumbers() if np.ndim(leaf) == 2 else None for leaf in leaves]
    elif isinstance(given, MatrixAxes):
        found = [given if np.ndim(leaf) > 1 else None for leaf in leaves]
    else:
        found = broadcast_prefix(given, params, root="weight_dimension_numbers", who="scale_by_galore")
    for index, (axes, leaf) in enumerate(zip(found, leaves, strict=True)):
        if leaf is None or np.size(leaf) == 0:
            found[index] = None
        elif axes is not None and sum(map(len, axes.of(np.shape(leaf)))) < np.ndim(leaf):
            raise ValueError(
                f"scale_by_galore: {axes} does not name all axes of {paths(params, 'params')[index]}, "
                f"which has shape {np.shape(leaf)}"
            )
    return treedef.unflatten(found)


def _on_the_left(shape: tuple[int, ...], shorter_side: bool) -> bool:
    rows, columns = shape
    return rows <= columns if shorter_side else rows >= columns


def _start(axes: MatrixAxes, param: Any, rank: int, shorter_side: bool) -> tuple[jax.Array, jax.Array]:
    """The first projector, and what stands for the parameter in the projection."""
    rows, columns = jax.eval_shape(lambda x: axes.matrices(x)[0], param).shape
    dtype, rank = compute_dtype(jnp.result_type(param)), min(rank, rows, columns)
    if _on_the_left((rows, columns), shorter_side):
        return jnp.zeros((rows, rank), dtype), jnp.zeros((rank, columns), dtype)
    return jnp.zeros((columns, rank), dtype), jnp.zeros((rows, rank), dtype)


@partial(jax.jit, static_argnums=(0, 1))
def _project(
    axes: MatrixAxes, shorter_side: bool, grad: Any, projector: Any, refresh: Any
) -> tuple[jax.Array, jax.Array]:
    """The projector, new if it is to be, and the projected gradient."""
    matrix, _ = axes.matrices(lax.convert_element_type(grad, projector.dtype))
    left = _on_the_left(matrix.shape, shorter_side)

    def fresh() -> jax.Array:
        u, vh = singular_vectors(matrix)
        sought: jax.Array = u if left else vh.mT.conj()
        return sought[:, : projector.shape[1]]

    projector = lax.cond(refresh, fresh, lambda: projector)
    return projector, projector.mT.conj() @ matrix if left else matrix @ projector


@partial(jax.jit, static_argnums=(0, 1))
def _restore(axes: MatrixAxes, shorter_side: bool, low: Any, projector: Any, grad: Any) -> jax.Array:
    """The update in the gradient's shape."""
    matrix, back = axes.matrices(grad)
    left = _on_the_left(matrix.shape, shorter_side)
    return back(projector @ low if left else low @ projector.mT.conj())
