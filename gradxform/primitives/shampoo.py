"""Rules that see a matrix in the eigenvectors of its gradients' second moments: Shampoo and SOAP."""

import math
import numbers
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradxform.arguments import whole
from gradxform.arithmetic import abs_squared, debias, ema_of, real_dtype, safe_divide, safe_sqrt, slot_like
from gradxform.hyperparams import Checked, Hyperparam, debiased, fraction, nonnegative, positive, unit
from gradxform.primitives.axes import along, gram
from gradxform.primitives.factorizations import eigenvectors, orthogonal_factor
from gradxform.rule import Lift, Rule, Step, lift
from gradxform.slots import Exact, NonNegative

__all__ = ["ShampooSlots", "SoapSlots", "inverse_root", "scale_by_shampoo", "scale_by_soap"]


class ShampooSlots(NamedTuple):
    """What `scale_by_shampoo` remembers, for each axis a matrix in each block.

    Attributes:
      moments: the second moments.
      roots: their inverse roots, as of the last time that they were taken.
    """

    moments: tuple[Exact, ...]
    roots: tuple[Exact, ...]


class SoapSlots(NamedTuple):
    """What `scale_by_soap` remembers.

    Attributes:
      mu: the first moment, in the parameter's own axes.
      nu: the second moment, in the eigenvectors.
      moments: for each rotated axis the second moment of its rows.
      basis: for each rotated axis the eigenvectors.
    """

    mu: jax.Array
    nu: NonNegative
    moments: tuple[Exact, ...]
    basis: tuple[Exact, ...]


def _power(eigenvalues: jax.Array, order: int, eps: Any) -> jax.Array:
    """The inverse roots of eigenvalues; what rounding made of zeros counts as rounding's size."""
    size, largest = eigenvalues.shape[-1], eigenvalues[..., -1:]
    floor = size * jnp.finfo(eigenvalues.dtype).eps * largest
    powers: jax.Array = (jnp.maximum(eigenvalues, jnp.maximum(floor, 0)) + eps) ** (-1 / order)
    return powers


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def inverse_root(matrix: jax.Array, order: int, eps: jax.Array) -> jax.Array:
    r"""The inverse root of a matrix: :math:`(A + \epsilon I)^{-1/p}`.

    Its derivative is finite where eigenvalues are equal, unlike that of the
    eigenvectors.

    Args:
      matrix: :math:`A`, Hermitian and with no negative eigenvalue; leading axes are batches.
      order: :math:`p`.
      eps: :math:`\epsilon`, above 0.

    Returns:
      An array like `matrix`.

    References:
      Higham, `Functions of matrices <https://doi.org/10.1137/1.9780898717778>`_,
      2008, theorem 3.11.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform.primitives.shampoo import inverse_root
      >>> inverse_root(jnp.diag(jnp.asarray([16.0, 1.0])), 4, 1e-12).round(4).tolist()
      [[0.5, 0.0], [0.0, 1.0]]
    """
    eigenvalues, vectors = eigenvectors(matrix)
    root: jax.Array = (vectors * _power(eigenvalues, order, eps)[..., None, :]) @ vectors.mT.conj()
    return root


@inverse_root.defjvp
def _inverse_root_jvp(order: int, primals: Any, tangents: Any) -> Any:
    (matrix, eps), (change, change_of_eps) = primals, tangents
    eigenvalues, vectors = eigenvectors(matrix)
    powers = _power(eigenvalues, order, eps)
    gaps = eigenvalues[..., :, None] - eigenvalues[..., None, :]
    differences = powers[..., :, None] - powers[..., None, :]
    # The slope at the mean of both where they are so close that their difference is rounding.
    mean = (powers[..., :, None] + powers[..., None, :]) / 2
    slope = -(mean ** (order + 1)) / order
    close = abs(gaps) <= 1e-3 * jnp.maximum(mean**-order, eps)
    quotients = jnp.where(close, slope, differences / jnp.where(close, 1, gaps))
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    rotated = vectors.mT.conj() @ (change + change_of_eps * identity) @ vectors
    root = (vectors * powers[..., None, :]) @ vectors.mT.conj()
    return root, vectors @ (quotients * rotated) @ vectors.mT.conj()


class _Blocks:
    """How an array of some shape is cut into blocks of equal size, the last ones filled up with zeros."""

    def __init__(self, shape: tuple[int, ...], block_size: int) -> None:
        # An axis of one has nothing to rotate; a lone number is an array of one axis.
        self.shape = shape
        self.sizes = tuple(size for size in shape if size > 1) or (1,)
        self.counts = tuple(-(-size // block_size) for size in self.sizes)
        self.block = tuple(-(-size // n) for size, n in zip(self.sizes, self.counts, strict=True))

    @property
    def number(self) -> int:
        return math.prod(self.counts)

    def cut(self, x: jax.Array) -> jax.Array:
        """The blocks, one after the other along the first axis."""
        padding = [(0, n * b - size) for n, b, size in zip(self.counts, self.block, self.sizes, strict=True)]
        padded = jnp.pad(x.reshape(self.sizes), padding)
        split = padded.reshape([size for pair in zip(self.counts, self.block, strict=True) for size in pair])
        axes = range(split.ndim)
        return split.transpose(*axes[::2], *axes[1::2]).reshape(-1, *self.block)

    def join(self, blocks: jax.Array) -> jax.Array:
        """The array of its blocks."""
        split = blocks.reshape(*self.counts, *self.block)
        order = len(self.counts)
        pairs = [axis for i in range(order) for axis in (i, order + i)]
        padded = split.transpose(pairs).reshape([n * b for n, b in zip(self.counts, self.block, strict=True)])
        return padded[tuple(slice(size) for size in self.sizes)].reshape(self.shape)


def scale_by_shampoo(
    b2: Hyperparam = 1.0, eps: Hyperparam = 1e-12, block_size: int = 1024, update_interval: int = 1
) -> Lift:
    r"""Precondition each axis by a root of its own second moment.

    .. math::
      L_i \leftarrow L_i + G_{(i)} G_{(i)}^\dagger, \quad
      u = g \times_1 (L_1 + \epsilon I)^{-1/2k} \times_2 \dots \times_k (L_k + \epsilon I)^{-1/2k}

    where :math:`G_{(i)}` is the array as a matrix, axis :math:`i` its rows, and
    :math:`k` is how many axes are longer than one. For a vector it is AdaGrad
    with a full matrix, for a number AdaGrad. Leaves of equal shape are
    preconditioned together.

    Args:
      b2: the number 1 for the sum, as in the paper; below, in [0, 1), the moments
        are moving averages with this decay, without bias to zero.
      eps: :math:`\epsilon`, above 0.
      block_size: longer axes are cut into as few equal blocks as fit, each
        with moments of its own.
      update_interval: every how many steps to take the roots; other steps use
        the last ones, and cost two products for each axis.

    Returns:
      A `GradientTransformation` with two square matrices for each axis of each
      block.

    Raises:
      TypeError, ValueError: an argument is out of its bounds.

    References:
      Gupta, Koren and Singer, `Shampoo: preconditioned stochastic tensor
      optimization <https://arxiv.org/abs/1802.09568>`_, 2018; Anil et al.,
      `Scalable second order optimization for deep learning
      <https://arxiv.org/abs/2002.09018>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx, grads = gx.scale_by_shampoo(), jnp.diag(jnp.asarray([4.0, 0.25]))
      >>> tx.update(grads, tx.init(grads))[0].round(3).tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    whole("scale_by_shampoo", block_size=block_size, update_interval=update_interval)
    summed = isinstance(b2, numbers.Number) and b2 == 1
    below = Checked(b2, "in [0, 1), for only the number 1, no tunable, makes it a sum", lambda x: 0 <= x < 1)

    def init(param: Any) -> ShampooSlots:
        blocks = _Blocks(jnp.shape(param), block_size)
        dtype = slot_like(param).dtype
        shapes = [(blocks.number, size, size) for size in blocks.block]
        return ShampooSlots(*(tuple(jnp.zeros(shape, dtype) for shape in shapes) for _ in range(2)))

    def update(grad: Any, slots: ShampooSlots, param: Any, step: Step) -> tuple[Any, ShampooSlots]:
        if not grad.size:
            return grad, slots
        blocks = _Blocks(grad.shape, block_size)
        parts = blocks.cut(grad)
        new = [gram(axis, parts, lead=1) for axis in range(len(slots.moments))]
        if summed:
            moments = tuple(old + now for old, now in zip(slots.moments, new, strict=True))
        else:
            moments = tuple(ema_of(old, now, step.b2) for old, now in zip(slots.moments, new, strict=True))

        def fresh() -> tuple[jax.Array, ...]:
            known = moments if summed else [debias(moment, step.b2, step.t) for moment in moments]
            order, eps = 2 * len(moments), jnp.asarray(step.eps, real_dtype(grad.dtype))
            return tuple(inverse_root(moment.astype(grad.dtype), order, eps) for moment in known)

        def last() -> tuple[jax.Array, ...]:
            return tuple(root.astype(grad.dtype) for root in slots.roots)

        roots = lax.cond(step.count % update_interval == 0, fresh, last)
        for axis, root in enumerate(roots):
            parts = along(axis, parts, partial(jnp.matmul, root), lead=1)
        return blocks.join(parts), ShampooSlots(moments, roots)

    rule = Rule(
        "scale_by_shampoo",
        update,
        init,
        {"b2": unit(b2) if isinstance(b2, numbers.Number) else below, "eps": positive(eps)},
        equation=f"L ← {'L +' if summed else 'avg'} G Gᵀ for each axis, u = L₁^(-1/2k) … Lₖ^(-1/2k) g",
        scope="array",
        batched=True,
        counts=True,
    )
    return lift(rule)


def scale_by_soap(
    b1: Hyperparam = 0.95,
    b2: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    shampoo_beta: Hyperparam | None = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    precondition_1d: bool = False,
) -> Lift:
    r"""Adam in the eigenvectors of Shampoo's second moments.

    .. math::
      g' = Q_1^\dagger g\, \bar Q_2, \quad m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
      v \leftarrow \beta_2 v + (1 - \beta_2) |g'|^2, \quad
      u = Q_1 \frac{Q_1^\dagger \hat m\, \bar Q_2}{\sqrt{\hat v} + \epsilon}\, Q_2^\top

    and likewise for arrays of more axes. After each step
    :math:`L_i \leftarrow \beta L_i + (1 - \beta) G_{(i)} G_{(i)}^\dagger`, and
    after some, :math:`Q_i` is the orthogonal factor of :math:`L_i Q_i`, its
    columns by the size of their eigenvalues and those of :math:`v` with them.

    The first gradient only starts :math:`Q_i`, and the update is 0: in its own
    eigenvectors it has zeros whose rounding Adam would take for steps. Arrays
    without a rotated axis get plain Adam. Leaves of equal shape are rotated
    together. Derivatives through the update take :math:`Q_i` for constants, as
    eigenvectors have none where eigenvalues are equal.

    It is not for leaves whose rows are mostly without a gradient, such as
    embeddings: :math:`v` stays where it was when :math:`Q_i` is renewed, and in a
    row that no gradient renews it can be 0 where :math:`Q_1^\dagger m` no longer
    is. Give those to Adam, by `partition`.

    Args:
      b1: :math:`\beta_1`, in [0, 1).
      b2: :math:`\beta_2`, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      shampoo_beta: :math:`\beta`, in [0, 1); left out, `b2`.
      precondition_frequency: every how many steps to renew :math:`Q_i`.
      max_precond_dim: the longest axis that is rotated.
      precondition_1d: whether vectors are rotated too.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters, and
      two square matrices for each rotated axis.

    Raises:
      TypeError, ValueError: an argument is out of its bounds.

    References:
      Vyas et al., `SOAP: improving and stabilizing Shampoo using Adam
      <https://arxiv.org/abs/2409.11321>`_, 2024, algorithms 3 and 4.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx, grads = gx.scale_by_soap(), jnp.asarray([[0.0, 5.0], [0.0, 0.0]])
      >>> _, state = tx.update(grads, tx.init(grads))
      >>> abs(tx.update(grads, state)[0]).round(3).tolist()
      [[0.0, 1.0], [0.0, 0.0]]
    """
    whole("scale_by_soap", precondition_frequency=precondition_frequency, max_precond_dim=max_precond_dim)

    def rotated(shape: tuple[int, ...]) -> list[int]:
        if len(shape) < 2 and not precondition_1d:
            return []
        return [axis for axis, size in enumerate(shape) if 1 < size <= max_precond_dim and 0 not in shape]

    def init(param: Any) -> SoapSlots:
        shape, dtype = jnp.shape(param), slot_like(param).dtype
        sizes = [shape[axis] for axis in rotated(shape)]
        moments = tuple(jnp.zeros((size, size), dtype) for size in sizes)
        basis = tuple(jnp.eye(size, dtype=dtype) for size in sizes)
        return SoapSlots(slot_like(param), slot_like(param, real=True), moments, basis)

    def update(grad: Any, slots: SoapSlots, param: Any, step: Step) -> tuple[Any, SoapSlots]:
        axes = rotated(grad.shape)
        # With a basis to start, Adam's first step is the second one.
        first, t = (step.count == 0, jnp.maximum(step.t - 1, 1)) if axes else (False, step.t)

        def rotate(x: jax.Array, basis: tuple[jax.Array, ...]) -> jax.Array:
            for axis, vectors in zip(axes, basis, strict=True):
                x = along(axis, x, partial(jnp.matmul, vectors))
            return x

        inverse = tuple(vectors.mT.conj() for vectors in slots.basis)
        mu = ema_of(slots.mu, grad, step.b1)
        nu = ema_of(slots.nu, abs_squared(rotate(grad, inverse)), step.b2)
        scale = safe_sqrt(debias(nu, step.b2, t)) + step.eps
        direction = safe_divide(rotate(debias(mu, step.b1, t), inverse), scale)
        direction = jnp.where(first, 0, rotate(direction, slots.basis))
        mu, nu = jnp.where(first, slots.mu, mu), jnp.where(first, slots.nu, nu)
        moments = tuple(
            ema_of(old, gram(axis, grad), step.b2 if shampoo_beta is None else step.shampoo_beta)
            for axis, old in zip(axes, slots.moments, strict=True)
        )

        def start() -> tuple[jax.Array, tuple[jax.Array, ...]]:
            return nu, tuple(eigenvectors(moment)[1][:, ::-1] for moment in map(lax.stop_gradient, moments))

        def renew() -> tuple[jax.Array, tuple[jax.Array, ...]]:
            ordered, basis = nu, []
            for axis, moment, vectors in zip(axes, *lax.stop_gradient((moments, slots.basis)), strict=True):
                eigenvalues = jnp.sum(vectors.conj() * (moment @ vectors), 0).real
                order = jnp.argsort(-eigenvalues)
                ordered = jnp.take(ordered, order, axis)
                basis.append(orthogonal_factor(moment @ vectors[:, order]))
            return ordered, tuple(basis)

        def keep() -> tuple[jax.Array, tuple[jax.Array, ...]]:
            return nu, slots.basis

        due = (step.count > 0) & (step.count % precondition_frequency == 0)
        nu, basis = lax.cond(first, start, lambda: lax.cond(due, renew, keep)) if axes else (nu, slots.basis)
        return direction, SoapSlots(mu, nu, moments, basis)

    hyperparams = {
        "b1": debiased(b1),
        "b2": debiased(b2),
        "eps": nonnegative(eps),
        **({} if shampoo_beta is None else {"shampoo_beta": fraction(shampoo_beta)}),
    }
    return lift(
        Rule(
            "scale_by_soap",
            update,
            init,
            hyperparams,
            equation="m ← avg g, v ← avg (Qᵀ g)², u = Q (Qᵀ m̂ / (√v̂ + eps)), Q ← eigenvectors of avg G Gᵀ",
            scope="array",
            batched=True,
            counts=True,
        )
    )
