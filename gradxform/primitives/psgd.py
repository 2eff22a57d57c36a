"""PSGD: a preconditioner that is a Kronecker product, fitted so that it whitens the gradients."""

from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradxform.arguments import as_key, whole
from gradxform.arithmetic import compute_dtype, debias, ema_of, safe_sqrt, slot_like, sum_of_squares
from gradxform.hyperparams import (
    Hyperparam,
    Scalar,
    Schedule,
    debiased,
    fraction,
    positive,
    tunable,
    unit,
)
from gradxform.primitives.axes import along, gram
from gradxform.primitives.factorizations import solve_transposed
from gradxform.rule import Lift, Rule, Step, lift
from gradxform.schedules.curve import NONNEGATIVE, POSITIVE, Allowed, require, schedule
from gradxform.slots import Exact

__all__ = ["KronSlots", "MemorySaveMode", "precond_update_prob_schedule", "scale_by_kron"]

MemorySaveMode: TypeAlias = Literal["one_diag", "all_diag"] | None

PROBABILITY = Allowed("in [0, 1]", lambda x: 0 <= x <= 1)


class KronSlots(NamedTuple):
    """What `scale_by_kron` remembers: the momentum, and for each axis a triangle, or its diagonal."""

    mu: jax.Array
    factors: tuple[Exact, ...]


class KronShared(NamedTuple):
    """What `scale_by_kron` keeps for the tree: the part of a fit that is due, and if now is one (0 or 1)."""

    due: Any
    fits: Any


@schedule
def precond_update_prob_schedule(
    max_prob: Scalar = 1.0, min_prob: Scalar = 0.03, decay: Scalar = 0.001, flat_start: int = 500
) -> Schedule:
    r"""How often to fit a preconditioner: at first at every step, later rarely.

    .. math::
      p_t = \max\left(p_{\min},\; p_{\max} \min(1, e^{-\lambda (t - t_0)})\right)

    Args:
      max_prob: :math:`p_{\max}`, in [0, 1].
      min_prob: :math:`p_{\min}`, in [0, 1].
      decay: :math:`\lambda`, at least 0.
      flat_start: :math:`t_0`, up to which count it stays at :math:`p_{\max}`.

    Returns:
      A function of the count.

    Raises:
      ValueError: an argument is out of its bounds.

    Example:
      >>> import gradxform as gx
      >>> print(gx.precond_update_prob_schedule()([0, 500, 1500, 9000]).round(2))
      [1.   1.   0.37 0.03]
    """
    who = "precond_update_prob_schedule"
    require(who, "max_prob", max_prob, PROBABILITY)
    require(who, "min_prob", min_prob, PROBABILITY)
    require(who, "decay", decay, NONNEGATIVE)
    require(who, "flat_start", flat_start, NONNEGATIVE)

    def value(count: jax.Array) -> Any:
        return jnp.maximum(max_prob * jnp.exp(-decay * jnp.maximum(count - flat_start, 0)), min_prob)

    return value


def scale_by_kron(
    b1: Hyperparam = 0.9,
    preconditioner_update_probability: Hyperparam | None = None,
    max_size_triangular: int = 8192,
    min_ndim_triangular: int = 2,
    memory_save_mode: MemorySaveMode = None,
    momentum_into_precond_update: bool = True,
    preconditioner_lr: Hyperparam = 0.1,
    preconditioner_init_scale: Scalar = 1.0,
    mu_dtype: Any = None,
    precond_dtype: Any = None,
    *,
    max_rms: Hyperparam = 1.1,
    key: jax.Array | int = 0,
) -> Lift:
    r"""Momentum, whitened by a Kronecker product of triangular matrices.

    .. math::
      m &\leftarrow \beta m + (1 - \beta) g, \quad \hat m = m / (1 - \beta^t), \quad
      Q = Q_1 \otimes \dots \otimes Q_d \\
      A &= Q \hat m, \quad B = Q^{-\top} v, \quad v \sim \mathcal{N}(0, I) \\
      Q_i &\leftarrow Q_i - \mu \operatorname{triu}\left(
        \frac{A_{(i)} A_{(i)}^\top - B_{(i)} B_{(i)}^\top}
        {\lVert A_{(i)} A_{(i)}^\top + B_{(i)} B_{(i)}^\top \rVert}\right) Q_i \\
      u &= Q^\top Q \hat m, \text{ shortened to a root mean square of at most } c

    where :math:`X_{(i)}` is the array as a matrix, axis :math:`i` its rows.
    In the mean :math:`Q` is at rest where
    :math:`Q^\top Q = (\mathbb{E}\, \hat m \hat m^\top)^{-1/2}`, if a Kronecker
    product can be that: :math:`u` is white.

    :math:`Q` is fitted when the sum of the probabilities reaches the next
    integer: for all leaves at once, and with no chance in it, so that other
    steps cost nothing. A leaf whose gradient is all zero keeps its :math:`Q`.
    A fit also gives all :math:`Q_i` the same largest element, which leaves
    their product as it was. The norm is estimated by a power step from the
    longest column; as this is at least that column's length, the diagonals of
    :math:`Q_i` stay positive. Leaves of equal shape are preconditioned together.

    Args:
      b1: :math:`\beta`, in [0, 1).
      preconditioner_update_probability: at which part of the steps to fit
        :math:`Q`, in [0, 1]; left out, `precond_update_prob_schedule()`.
      max_size_triangular: :math:`Q_i` of a longer axis is diagonal.
      min_ndim_triangular: all :math:`Q_i` of an array with fewer axes are.
      memory_save_mode: ``"one_diag"``: the longest axis has a diagonal
        :math:`Q_i` (of equals the last); ``"all_diag"``: all have.
      momentum_into_precond_update: whether :math:`Q` is fitted to
        :math:`\hat m`; otherwise to :math:`g`.
      preconditioner_lr: :math:`\mu`, in [0, 1).
      preconditioner_init_scale: :math:`Q` starts as this times the identity.
      mu_dtype: the dtype to keep the momentum in; by default the parameter's,
        and at least float32.
      precond_dtype: the dtype to keep :math:`Q` in; likewise.
      max_rms: :math:`c`, above 0; ``inf`` leaves the update as it is.
      key: a random key for :math:`v`, or a number to make one from. It stands
        in the state. Leaf `i` of the tree draws at step `t`, both counted from
        0, with ``jax.random.fold_in(jax.random.fold_in(key, t), i)``.

    Returns:
      A `GradientTransformation` with a slot the size of the parameters, and a
      square or a vector for each axis of each array.

    Raises:
      ValueError: an argument is out of its bounds.
      TypeError: an argument is no integer, or no key; in `init`, a parameter is complex.

    References:
      Li, `Preconditioned stochastic gradient descent
      <https://arxiv.org/abs/1512.04202>`_, 2018; Pooladzandi and Li,
      `Curvature-informed SGD via general purpose Lie-group preconditioners
      <https://arxiv.org/abs/2402.04553>`_, 2024; Li, `Stochastic Hessian
      fittings with Lie groups <https://arxiv.org/abs/2402.11858>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
      >>> [factor.shape for factor in gx.scale_by_kron().init(params).slots[0].factors["kernel"]]
      [(3, 3), (2, 2)]
    """
    if preconditioner_update_probability is None:
        preconditioner_update_probability = precond_update_prob_schedule()
    if memory_save_mode not in (None, "one_diag", "all_diag"):
        raise ValueError(
            "scale_by_kron: memory_save_mode must be one of None, 'one_diag', 'all_diag', "
            f"got {memory_save_mode!r}"
        )
    sizes = {"max_size_triangular": max_size_triangular, "min_ndim_triangular": min_ndim_triangular}
    whole("scale_by_kron", least=0, **sizes)
    require("scale_by_kron", "preconditioner_init_scale", preconditioner_init_scale, POSITIVE)

    def triangular(shape: tuple[int, ...]) -> list[bool]:
        if len(shape) < min_ndim_triangular or memory_save_mode == "all_diag":
            return [False] * len(shape)
        longest = np.argsort(shape, kind="stable")[-1] if memory_save_mode == "one_diag" else None
        return [1 < size <= max_size_triangular and axis != longest for axis, size in enumerate(shape)]

    def init(param: Any) -> KronSlots:
        if jnp.issubdtype(jnp.result_type(param), jnp.complexfloating):
            raise TypeError("scale_by_kron whitens real numbers; wrap it in split_real_and_imaginary")
        shape = jnp.shape(param) or (1,)
        dtype = compute_dtype(jnp.result_type(param)) if precond_dtype is None else precond_dtype
        scale = preconditioner_init_scale ** (1 / len(shape))
        factors = [
            jnp.asarray(scale * (jnp.eye(size) if full else jnp.ones(size)), dtype)
            for size, full in zip(shape, triangular(shape), strict=True)
        ]
        return KronSlots(slot_like(param, dtype=mu_dtype), tuple(factors))

    def advance(total: Any, step: Step) -> KronShared:
        due = step.last.due + step.preconditioner_update_probability
        return KronShared(due - (due >= 1), due >= 1)

    def update(grad: Any, slots: KronSlots, param: Any, step: Step) -> tuple[Any, KronSlots]:
        if not grad.size:
            return grad, slots
        mu, shape = ema_of(slots.mu, grad, step.b1), grad.shape or (1,)
        average = debias(mu, step.b1, step.t).astype(grad.dtype)
        old = tuple(factor.astype(grad.dtype) for factor in slots.factors)

        def fitted() -> tuple[jax.Array, ...]:
            seen = average if momentum_into_precond_update else grad
            probe = jax.random.normal(step.key, grad.shape, grad.dtype)
            return _fit(old, seen.reshape(shape), probe.reshape(shape), step.preconditioner_lr)

        factors = lax.cond(step.shared.fits > 0, fitted, lambda: old)
        direction = average.reshape(shape)
        for axis, factor in enumerate(factors):
            for q in (factor, factor.T):
                direction = along(axis, direction, partial(_times, q))
        rms = safe_sqrt(sum_of_squares(direction) / grad.size)
        return (direction / jnp.maximum(1, rms / step.max_rms)).reshape(grad.shape), KronSlots(mu, factors)

    hyperparams = {
        "b1": debiased(b1),
        "preconditioner_update_probability": unit(preconditioner_update_probability),
        "preconditioner_lr": fraction(preconditioner_lr),
        "max_rms": positive(max_rms),
        "key": tunable(as_key("scale_by_kron", key)),
    }
    return lift(
        Rule(
            "scale_by_kron",
            update,
            init,
            hyperparams,
            equation="Q ← Q − lr · triu(A Aᵀ − B Bᵀ) / ‖A Aᵀ + B Bᵀ‖ · Q, A = Q m̂, B = Q⁻ᵀ v, u = Qᵀ Q m̂",
            scope="array",
            shared=KronShared(0.0, 0.0),
            advance=advance,
            batched=True,
            random=True,
            counts=True,
        )
    )


# A factor with one axis is a diagonal.


def _times(factor: jax.Array, x: jax.Array) -> jax.Array:
    return factor[:, None] * x if factor.ndim == 1 else factor @ x


def _divide_transposed(factor: jax.Array, x: jax.Array) -> jax.Array:
    return x / factor[:, None] if factor.ndim == 1 else solve_transposed(factor, x)


def _gram(factor: jax.Array, axis: int, x: jax.Array) -> jax.Array:
    """The products of the rows, or of each row with itself for a diagonal."""
    if factor.ndim == 2:
        return gram(axis, x)
    return lax.square(x).sum([other for other in range(x.ndim) if other != axis])


def _norm(gram: jax.Array) -> jax.Array:
    """The spectral norm of a diagonal, or about that of a matrix, from below."""
    if gram.ndim == 1:
        return gram.max()
    lengths = jnp.linalg.norm(gram, axis=0)
    longest = lengths.argmax()
    norm: jax.Array = jnp.linalg.norm(gram @ (gram[:, longest] / lengths[longest]))
    return norm


def _fit(
    factors: tuple[jax.Array, ...], grad: jax.Array, probe: jax.Array, rate: Scalar
) -> tuple[jax.Array, ...]:
    """One step of the factors towards whitening the gradient, unless that is zero."""
    a, b = grad, probe
    for axis, factor in enumerate(factors):
        a, b = along(axis, a, partial(_times, factor)), along(axis, b, partial(_divide_transposed, factor))
    # The step does not depend on how large both are; their squares might overflow.
    largest = jnp.maximum(abs(a).max(), abs(b).max())
    a, b, moved = a / largest, b / largest, []
    for axis, factor in enumerate(factors):
        ours, theirs = _gram(factor, axis, a), _gram(factor, axis, b)
        gap = (ours - theirs) / _norm(ours + theirs)
        moved.append(factor - rate * (gap * factor if factor.ndim == 1 else jnp.triu(gap) @ factor))
    sizes = jnp.stack([abs(factor).max() for factor in moved])
    balance = jnp.exp(jnp.log(sizes).mean()) / sizes
    known = grad.any()
    return tuple(jnp.where(known, factor * balance[axis], factors[axis]) for axis, factor in enumerate(moved))
