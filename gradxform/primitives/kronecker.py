"""Rules with a matrix for each axis of an array: Shampoo, and SOAP, which is Adam in its eigenbasis."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from gradxform.arithmetic import debias, ema_of, safe_divide, safe_sqrt, slot_like, sum_of_squares
from gradxform.hyperparams import Hyperparam, fraction, is_zero, nonnegative, positive, unit
from gradxform.primitives.axes import along, gram
from gradxform.primitives.moments import (
    AdamSlots,
    adam_slots,
    first_moment,
    scale_by_adam,
    scale_by_rms,
    scale_by_rss,
)
from gradxform.rule import Lift, Rule, Slots, Step, lift

__all__ = ["Graft", "ShampooSlots", "SoapSlots", "inverse_root", "scale_by_shampoo", "scale_by_soap"]

Graft: TypeAlias = Literal["sgd", "adagrad", "rmsprop", "adam"]
Matrices: TypeAlias = tuple[jax.Array, ...]


class ShampooSlots(NamedTuple):
    """What `scale_by_shampoo` remembers of one array.

    Attributes:
      mu: the average of the preconditioned gradients; ``()`` without momentum.
      graft: the slots of the diagonal method; ``()`` where none is needed.
      factors: for each axis the second moments of its rows, one matrix a block.
      roots: their inverse roots, of the last step that took them.
    """

    mu: Slots
    graft: Slots
    factors: Matrices
    roots: Matrices


class SoapSlots(NamedTuple):
    """What `scale_by_soap` remembers of one array.

    Attributes:
      adam: both of Adam's moments, in the eigenbasis.
      factors: for each rotated axis the second moment of its rows.
      basis: for each rotated axis its eigenvectors, as columns.
    """

    adam: AdamSlots
    factors: Matrices
    basis: Matrices


_ADAM = scale_by_adam().rules[0]

# What gives a step its length, and vectors their direction; momentum comes after.
_DIAGONAL: dict[str, Rule] = {
    "sgd": Rule("sgd", lambda grad, slots, param, step: (grad, slots)),
    "adagrad": scale_by_rss().rules[0],
    "rmsprop": scale_by_rms(eps_in_sqrt=False).rules[0],
    "adam": scale_by_rms(eps_in_sqrt=False, bias_correction=True).rules[0],
}


def _require_integer(who: str, least: int, **given: int) -> None:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{who}: {name} must be an integer above {least - 1}, got {value!r}")


def _cut(x: jax.Array, sides: tuple[int, ...]) -> jax.Array:
    """The blocks of the array, stacked; zeros fill up those at the far ends."""
    lengths = [length for length in x.shape if length > 1]
    counts = [-(-length // side) for length, side in zip(lengths, sides, strict=True)]
    missing = [
        (0, count * side - length, 0) for count, side, length in zip(counts, sides, lengths, strict=True)
    ]
    padded = lax.pad(x.reshape(lengths), jnp.zeros((), x.dtype), missing)
    grid = padded.reshape([extent for pair in zip(counts, sides, strict=True) for extent in pair])
    return jnp.moveaxis(grid, range(0, grid.ndim, 2), range(len(counts))).reshape(-1, *sides)


def _decompose(matrix: jax.Array, order: int) -> tuple[jax.Array, jax.Array]:
    """The inverse roots of the eigenvalues, and the eigenvectors."""
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    # Below the largest one's rounding an eigenvalue is noise, which may be negative.
    known = jnp.maximum(eigenvalues, jnp.finfo(eigenvalues.dtype).eps * eigenvalues[..., -1:])
    return jnp.where(known > 0, known, jnp.inf) ** (-1 / order), vectors


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def inverse_root(matrix: jax.Array, order: int) -> jax.Array:
    r"""The inverse root :math:`A^{-1/p}` on the range of :math:`A`.

    With :math:`A = V \Lambda V^\dagger` and :math:`a_i = \lambda_i^{-1/p}`, its
    derivative in the eigenbasis is :math:`\mathrm{d}A_{ij}` times

    .. math:: \frac{a_i - a_j}{\lambda_i - \lambda_j} = -\frac{(a_i a_j)^p}{\sum_{l < p} a_i^l a_j^{p-1-l}}

    which is finite where eigenvalues coincide.

    Args:
      matrix: :math:`A`, Hermitian without negative eigenvalues; leading axes are batches.
      order: :math:`p`.

    Returns:
      An array like `matrix`; of zeros the root is zero.

    References:
      Higham, `Functions of matrices <https://doi.org/10.1137/1.9780898717778>`_, 2008.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform.primitives.kronecker import inverse_root
      >>> inverse_root(jnp.diag(jnp.asarray([16.0, 0.0])), 4).round(4).tolist()[0]
      [0.5, 0.0]
    """
    powers, vectors = _decompose(matrix, order)
    return (vectors * powers[..., None, :]) @ vectors.mT.conj()


@inverse_root.defjvp
def _inverse_root_jvp(order: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    powers, vectors = _decompose(primals[0], order)
    row, column, adjoint = powers[..., :, None], powers[..., None, :], vectors.mT.conj()
    weights = sum(row**i * column ** (order - 1 - i) for i in range(order))
    slopes = -safe_divide((row * column) ** order, jnp.asarray(weights))
    change = vectors @ (slopes * (adjoint @ tangents[0] @ vectors)) @ adjoint
    return (vectors * column) @ adjoint, change


class _Preconditioner(NamedTuple):
    """How arrays are multiplied by inverse roots of second moments, as `scale_by_shampoo` says."""

    block_size: int
    update_interval: int
    exponent_override: int | None
    relative_eps: bool
    summed: bool

    def sides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The lengths of a block's axes; none where the diagonal method does."""
        sides = tuple(min(length, self.block_size) for length in shape if length > 1)
        return sides if len(sides) > 1 and 0 not in shape else ()

    def empty(self, param: Any) -> Matrices:
        shape, dtype = jnp.shape(param), slot_like(param).dtype
        number = math.prod(-(-length // self.block_size) for length in shape)
        return tuple(jnp.zeros((number, side, side), dtype) for side in self.sides(shape))

    def damped(self, factor: jax.Array, step: Step) -> jax.Array:
        known = factor if self.summed else debias(factor, step.b2, step.t)
        # The trace, unlike the mean eigenvalue, does not see by how many zeros a block was filled up.
        size = jnp.trace(known, axis1=-2, axis2=-1).real[..., None, None] if self.relative_eps else 1
        ridge: jax.Array = step.eps * size * jnp.eye(known.shape[-1], dtype=known.dtype)
        return known + ridge

    def apply(
        self, grad: Any, factors: Matrices, roots: Matrices, step: Step
    ) -> tuple[Any, Matrices, Matrices]:
        """The preconditioned gradient, and the new factors and roots."""
        cut = partial(_cut, sides=self.sides(grad.shape))
        blocks, axes = cut(grad), range(len(factors))
        gain = 1 if self.summed else 1 - step.b2
        factors = tuple(step.b2 * factors[axis] + gain * gram(axis, blocks, lead=1) for axis in axes)

        def renew() -> Matrices:
            order = self.exponent_override or 2 * len(axes)
            new = (inverse_root(self.damped(factor, step), order) for factor in factors)
            return tuple(root.astype(old.dtype) for root, old in zip(new, roots, strict=True))

        current: Matrices = lax.cond(step.count % self.update_interval == 0, renew, lambda: roots)
        # Cutting moves numbers and adds zeros, so its transpose puts them back and drops the zeros.
        (turned,) = jax.linear_transpose(cut, grad)(_turn(blocks, axes, current, lead=1))
        return turned, factors, current


def _turn(x: jax.Array, axes: Iterable[int], matrices: Iterable[jax.Array], *, lead: int = 0) -> jax.Array:
    """The array with each of the axes multiplied by its matrix."""
    for axis, matrix in zip(axes, matrices, strict=True):
        x = along(axis, x, partial(jnp.matmul, matrix), lead=lead)
    return x


def scale_by_shampoo(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-6,
    graft: Graft | None = "adam",
    graft_eps: Hyperparam = 1e-8,
    block_size: int = 1024,
    update_interval: int = 10,
    start_preconditioning_step: int = 0,
    exponent_override: int | None = None,
    *,
    relative_eps: bool = True,
    nesterov: bool = False,
) -> Lift:
    r"""Multiply each axis by an inverse root of the second moment of its rows.

    .. math::
      L_i \leftarrow \beta_2 L_i + (1 - \beta_2) G_{(i)} G_{(i)}^\dagger, \quad
      d = g \times_1 (\hat L_1 + \rho_1 I)^{-1/p} \dots \times_k (\hat L_k + \rho_k I)^{-1/p}, \quad
      m \leftarrow \beta_1 m + (1 - \beta_1) \frac{\lVert b(g) \rVert}{\lVert d \rVert} d, \quad
      u = \hat m

    :math:`G_{(i)}` is the array as a matrix whose rows go along axis :math:`i`,
    of the :math:`k` axes longer than 1; :math:`p = 2k`; hats are without bias
    to zero. The damping :math:`\rho_i` is :math:`\epsilon \operatorname{tr} \hat L_i`.

    A leaf with fewer than two such axes takes the diagonal method :math:`b`
    instead. Leaves of equal shape are preconditioned by one call.

    Args:
      b1: :math:`\beta_1`, in [0, 1); with the number 0 no momentum is kept.
      b2: :math:`\beta_2`, in [0, 1), for :math:`b` too; or the number 1 for the
        original's sum, :math:`L_i \leftarrow L_i + G_{(i)} G_{(i)}^\dagger`.
      eps: :math:`\epsilon`, above 0.
      graft: :math:`b`, whose update's length each leaf's step has: ``"sgd"``,
        ``"adagrad"``, ``"rmsprop"`` or ``"adam"``, without momentum; ``None``
        keeps the length of :math:`d`, and gives vectors ``"adam"``, or
        ``"adagrad"`` if `b2` is 1.
      graft_eps: what :math:`b` adds to its denominator, at least 0; AdaGrad adds it under the root.
      block_size: the longest side of a block; axes beyond it are cut, each
        block with factors of its own.
      update_interval: every how many steps the roots are taken anew; the steps
        between cost the products alone.
      start_preconditioning_step: how many steps :math:`b` takes on its own first.
      exponent_override: :math:`p`, if not :math:`2k`.
      relative_eps: whether to damp in proportion to the trace; otherwise
        :math:`\rho_i = \epsilon`, as in the original.
      nesterov: whether :math:`\hat m` looks ahead, as Adam's does.

    Returns:
      A `GradientTransformation` with the slots of :math:`b`, one for the
      momentum, and two square matrices for each axis of each block.

    Raises:
      ValueError: an argument is out of its bounds or unknown, or a method that
        averages is grafted onto sums.

    References:
      Gupta, Koren and Singer, `Shampoo: preconditioned stochastic tensor
      optimization <https://arxiv.org/abs/1802.09568>`_, 2018; Anil et al.,
      `Scalable second order optimization for deep learning
      <https://arxiv.org/abs/2002.09018>`_, 2020; Shi et al., `A distributed
      data-parallel PyTorch implementation of the distributed Shampoo optimizer
      <https://arxiv.org/abs/2309.06497>`_, 2023.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform.primitives.kronecker import scale_by_shampoo
      >>> tx, grads = scale_by_shampoo(graft=None), jnp.diag(jnp.asarray([4.0, 0.25]))
      >>> tx.update(grads, tx.init(grads))[0].round(2).tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    who, summed = "scale_by_shampoo", isinstance(b2, int | float) and b2 == 1
    _require_integer(who, 1, block_size=block_size, update_interval=update_interval)
    _require_integer(who, 0, start_preconditioning_step=start_preconditioning_step)
    if exponent_override is not None:
        _require_integer(who, 1, exponent_override=exponent_override)
    if graft is not None and graft not in _DIAGONAL:
        raise ValueError(f"{who}: graft must be one of {list(_DIAGONAL)} or None, got {graft!r}")
    if summed and graft in ("rmsprop", "adam"):
        raise ValueError(f"{who}: graft={graft!r} averages squares, so b2 must be below 1, got {b2!r}")
    if start_preconditioning_step and graft is None:
        raise ValueError(f"{who}: start_preconditioning_step needs a graft, got None")
    diagonal = _DIAGONAL[graft or ("adagrad" if summed else "adam")]
    has_momentum = not is_zero(b1)
    preconditioner = _Preconditioner(block_size, update_interval, exponent_override, relative_eps, summed)

    def init(param: Any) -> ShampooSlots:
        factors, roots = (preconditioner.empty(param) for _ in range(2))
        mu = slot_like(param) if has_momentum else ()
        return ShampooSlots(mu, () if factors and not graft else diagonal.init(param), factors, roots)

    def update(grad: Any, slots: ShampooSlots, param: Any, step: Step) -> tuple[Any, ShampooSlots]:
        direction, graft_slots, factors, roots = grad, slots.graft, slots.factors, slots.roots
        if graft or not factors:
            of_graft = Step({**vars(step), "decay": step.b2, "eps": step.graft_eps})
            direction, graft_slots = diagonal.update(grad, slots.graft, param, of_graft)
        if factors:
            turned, factors, roots = preconditioner.apply(grad, factors, roots, step)
            if graft:
                lengths = [safe_sqrt(sum_of_squares(x)) for x in (direction, turned)]
                turned = safe_divide(*lengths) * turned
            direction = jnp.where(step.count < start_preconditioning_step, direction, turned)
        if not has_momentum:
            return direction, ShampooSlots((), graft_slots, factors, roots)
        mu = ema_of(slots.mu, direction, step.b1)
        return first_moment(mu, direction, step, nesterov), ShampooSlots(mu, graft_slots, factors, roots)

    hyperparams = {
        "b1": fraction(b1),
        "b2": unit(b2) if summed else fraction(b2),
        "eps": positive(eps),
        "graft_eps": nonnegative(graft_eps),
    }
    equation = f"L ← {'L +' if summed else 'avg'} G Gᵀ for each axis, u = avg L₁^(-1/2k) … Lₖ^(-1/2k) g" + (
        f" as long as {graft}'s" if graft else ""
    )
    return lift(Rule(who, update, init, hyperparams, equation, scope="array", batched=True))


def _adjoint(matrices: Iterable[jax.Array]) -> Matrices:
    return tuple(matrix.mT.conj() for matrix in matrices)


def _renew(
    adam: AdamSlots, factors: Matrices, basis: Matrices, axes: list[int]
) -> tuple[AdamSlots, Matrices]:
    """One power iteration of each basis, and Adam's moments in the new ones."""
    nu, new = adam.nu, []
    for axis, factor, old in zip(axes, factors, basis, strict=True):
        powers = factor @ old
        order = jnp.argsort(-jnp.sum(old.conj() * powers, 0).real)
        nu = jnp.take(nu, order, axis)
        new.append(jnp.linalg.qr(powers[:, order])[0].astype(old.dtype))
    mu = _turn(_turn(adam.mu, axes, basis), axes, _adjoint(new))
    return AdamSlots(mu, nu), tuple(new)


def scale_by_soap(
    b1: Hyperparam = 0.95,
    b2: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    shampoo_beta: Hyperparam | None = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    *,
    precondition_1d: bool = False,
    skip_first: bool = True,
) -> Lift:
    r"""Adam in the eigenbasis of Shampoo's second moments.

    .. math::
      L_i \leftarrow \beta L_i + (1 - \beta) G_{(i)} G_{(i)}^\dagger, \quad
      u = \mathrm{Adam}(g \times_1 Q_1^\dagger \dots \times_k Q_k^\dagger) \times_1 Q_1 \dots \times_k Q_k

    The columns of :math:`Q_i` are the eigenvectors of the first :math:`L_i`.
    Later they follow by one power iteration: they and Adam's second moments are
    put in the order of :math:`\operatorname{diag} Q_i^\dagger L_i Q_i`, and
    :math:`Q_i` is the orthogonal factor of :math:`L_i Q_i`; the first moment is
    turned from the old basis to the new one. A leaf without a rotated axis gets
    Adam. Leaves of equal shape are rotated by one call. A derivative through
    the update takes :math:`Q_i` for a constant.

    Args:
      b1: Adam's decay of the first moment, in [0, 1).
      b2: Adam's decay of the second moment, in [0, 1).
      eps: Adam's :math:`\epsilon`, at least 0.
      shampoo_beta: :math:`\beta`, in [0, 1); left out, `b2`.
      precondition_frequency: every how many steps the bases are renewed.
      max_precond_dim: the longest axis that is rotated; those of 1 never are.
      precondition_1d: whether vectors are rotated too.
      skip_first: whether the first gradient only gives the bases, as the
        authors do. In its own basis that gradient has zeros, whose rounding
        Adam would take for full steps.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters, and
      two square matrices for each rotated axis.

    Raises:
      ValueError: an argument is out of its bounds.

    References:
      Vyas et al., `SOAP: improving and stabilizing Shampoo using Adam
      <https://arxiv.org/abs/2409.11321>`_, 2024, algorithms 3 and 4.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform.primitives.kronecker import scale_by_soap
      >>> tx, grads = scale_by_soap(), jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
      >>> _, state = tx.update(grads, tx.init(grads))
      >>> [round(value, 3) for value in tx.update(grads, state)[0][0].tolist()]
      [0.6, 0.8]
    """
    who = "scale_by_soap"
    _require_integer(who, 1, precondition_frequency=precondition_frequency, max_precond_dim=max_precond_dim)

    def axes_of(shape: tuple[int, ...]) -> list[int]:
        if 0 in shape or (len(shape) < 2 and not precondition_1d):
            return []
        return [axis for axis, length in enumerate(shape) if 1 < length <= max_precond_dim]

    def init(param: Any) -> SoapSlots:
        shape, dtype = jnp.shape(param), slot_like(param).dtype
        lengths = [shape[axis] for axis in axes_of(shape)]
        basis = tuple(jnp.eye(length, dtype=dtype) for length in lengths)
        return SoapSlots(adam_slots(param), tuple(map(jnp.zeros_like, basis)), basis)

    def update(grad: Any, slots: SoapSlots, param: Any, step: Step) -> tuple[Any, SoapSlots]:
        axes, basis = axes_of(grad.shape), slots.basis
        if not axes:
            update, adam = _ADAM.update(grad, slots.adam, param, Step({**vars(step), "eps_root": 0.0}))
            return update, slots._replace(adam=adam)
        beta = step.b2 if shampoo_beta is None else step.shampoo_beta
        factors = tuple(
            ema_of(old, gram(axis, grad), beta) for axis, old in zip(axes, slots.factors, strict=True)
        )
        constant = lax.stop_gradient(factors)  # eigenvectors of equal eigenvalues have no derivative

        def start() -> Matrices:
            vectors = (jnp.linalg.eigh(factor)[1][:, ::-1] for factor in constant)
            return tuple(each.astype(old.dtype) for each, old in zip(vectors, basis, strict=True))

        later = step.count > 0
        basis = lax.cond(later, lambda: slots.basis, start)
        turned, t = _turn(grad, axes, _adjoint(basis)), step.t
        if skip_first:
            turned, t = jnp.where(later, turned, 0), jnp.maximum(t - 1, 1)
        direction, adam = _ADAM.update(
            turned, slots.adam, param, Step({**vars(step), "t": t, "eps_root": 0.0})
        )
        direction = _turn(direction, axes, basis)
        due = later & (step.count % precondition_frequency == 0)
        renew = partial(_renew, adam, constant, basis, axes)
        adam, basis = lax.cond(due, renew, lambda: (adam, basis))
        return direction, SoapSlots(adam, factors, basis)

    hyperparams = {"b1": fraction(b1), "b2": fraction(b2), "eps": nonnegative(eps)}
    if shampoo_beta is not None:
        hyperparams["shampoo_beta"] = fraction(shampoo_beta)
    equation = "L ← avg G Gᵀ for each axis, Q ← its eigenvectors, u = Q Adam(Qᵀ g)"
    return lift(Rule(who, update, init, hyperparams, equation, scope="array", batched=True))
