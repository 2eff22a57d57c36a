"""Rules that bring the singular values of matrices near one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradxform.arguments import whole
from gradxform.arithmetic import (
    abs_squared,
    compute_dtype,
    debias,
    ema_of,
    real_dtype,
    safe_divide,
    safe_sqrt,
    slot_like,
)
from gradxform.hyperparams import Hyperparam, Scalar, Tunable, debiased, nonnegative
from gradxform.primitives.factorizations import eigenvalues
from gradxform.rule import Lift, Rule, Slots, Step, lift
from gradxform.trees import PyTree

__all__ = [
    "DimensionNumbers",
    "MatrixAxes",
    "MuonDimensionNumbers",
    "MuonSlots",
    "Preconditioning",
    "orthogonalize_via_newton_schulz",
    "scale_by_muon",
    "scale_by_shape",
]


@dataclass(frozen=True)
class MatrixAxes:
    """Which axes of an array are a matrix's rows and which are its columns."""

    reduction_axis: int | Sequence[int] = 0
    output_axis: int | Sequence[int] = 1

    def __post_init__(self) -> None:
        for name in ("reduction_axis", "output_axis"):
            axis = getattr(self, name)
            if not isinstance(axis, int):
                object.__setattr__(self, name, tuple(axis))  # so that it can be hashed

    def of(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The axes of the rows and of the columns in an array of this shape, counted from the front.

        Raises:
          ValueError: it has no such axes, or one of them comes twice.
        """
        both = self.reduction_axis, self.output_axis
        rows, columns = (axis if isinstance(axis, tuple) else (axis,) for axis in both)
        named = [axis + len(shape) * (axis < 0) for axis in (*rows, *columns)]
        if len(set(named)) < len(named) or not set(named) <= set(range(len(shape))):
            raise ValueError(
                f"{self} does not fit an array of shape {shape}: "
                "the axes of a matrix must be there and differ from each other"
            )
        return tuple(named[: len(rows)]), tuple(named[len(rows) :])

    def matrices(self, x: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
        """The array as one matrix, or a stack of them if it has other axes; and the way back."""
        rows, columns = self.of(x.shape)
        others = tuple(axis for axis in range(x.ndim) if axis not in rows + columns)
        order = (*others, *rows, *columns)
        parts = (others, rows, columns) if others else (rows, columns)
        ordered = lax.transpose(x, order)
        flat = lax.reshape(ordered, [math.prod(x.shape[axis] for axis in part) for part in parts])
        back = [order.index(axis) for axis in range(x.ndim)]
        return flat, lambda y: lax.transpose(lax.reshape(y, ordered.shape), back)


class MuonDimensionNumbers(MatrixAxes):
    """Which axes of an array are the matrix that Muon orthogonalizes.

    All other axes are batch axes: each of their places has a matrix to itself.

    Attributes:
      reduction_axis: the axis or axes that a layer sums over, its inputs.
      output_axis: the axis or axes of its outputs.

    Example:
      >>> import gradxform as gx
      >>> heads_last = gx.MuonDimensionNumbers(reduction_axis=0, output_axis=(1, 2))
      >>> heads_last.output_axis
      (1, 2)
    """


DimensionNumbers = PyTree | Callable[[Any], PyTree] | None
Coefficients = Hyperparam | Sequence[Scalar] | Sequence[Sequence[Scalar]] | str
Preconditioning = Literal["frobenius", "spectral", "aol", "schatten"]


class MuonSlots(NamedTuple):
    """What `scale_by_muon` remembers: the momentum."""

    mu: jax.Array


PRESETS: dict[str, Any] = {
    "standard": (3.4445, -4.7750, 2.0315),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}


def _frobenius(x: jax.Array, gram: jax.Array, eps: Scalar) -> jax.Array:
    return safe_sqrt(abs_squared(x).sum((-2, -1), keepdims=True)) + eps


def _spectral(x: jax.Array, gram: jax.Array, eps: Scalar) -> jax.Array:
    largest = eigenvalues(gram)[..., -1:, None]
    return safe_sqrt(jnp.maximum(largest, 0)) + eps


def _schatten(x: jax.Array, gram: jax.Array, eps: Scalar) -> jax.Array:
    norm = safe_sqrt(abs_squared(gram).sum((-2, -1), keepdims=True))
    return lax.sqrt(jnp.maximum(norm, 1e-8))


def _almost_orthogonal(x: jax.Array, gram: jax.Array, eps: Scalar) -> jax.Array:
    return lax.sqrt(jnp.maximum(abs(gram).sum(-1, keepdims=True), 1e-8))


# By what the rows are divided, so that no singular value is above 1, given also their products.
_NORMS = {"frobenius": _frobenius, "spectral": _spectral, "schatten": _schatten, "aol": _almost_orthogonal}


def orthogonalize_via_newton_schulz(
    x: jax.Array,
    ns_coeffs: Any,
    ns_steps: int = 5,
    preconditioning: Preconditioning = "frobenius",
    eps: Scalar = 1e-8,
    dimension_numbers: MatrixAxes | None = None,
) -> jax.Array:
    r"""Bring the singular values of a matrix near one, by polynomials of it.

    .. math::
      A = X X^\top, \quad X \leftarrow a X + (b A + c A^2) X

    Of :math:`X = U \Sigma V^\top` it makes nearly :math:`U V^\top`: with the
    usual coefficients the singular values end up between 0.7 and 1.2.

    The polynomials commute. So where a matrix is wide, a few steps are taken
    on the small :math:`A` alone and their product meets :math:`X` once.

    Args:
      x: a matrix, or with `dimension_numbers` an array of matrices.
      ns_coeffs: :math:`a, b, c`, or a row of them for every step.
      ns_steps: how many steps, if there is one row.
      preconditioning: what divides :math:`X` at first, to bring its singular
        values below 1: its Frobenius norm; its ``"spectral"`` norm, which is
        tight but dear; the root of the Frobenius norm of :math:`A`
        (``"schatten"``); or row by row the root of the sum of :math:`|A|`
        (``"aol"``).
      eps: added to the first two norms; the others are at least 1e-4.
      dimension_numbers: which axes are the matrix; not asked for matrices.

    Returns:
      An array like `x`.

    Raises:
      ValueError: `x` is no matrix and has no dimension numbers, or an argument
        is none that there is.

    References:
      Bernstein and Newhouse, `Old optimizer, new norm: an anthology
      <https://arxiv.org/abs/2409.20325>`_, 2024; Boissin et al., `Turbo-Muon
      <https://arxiv.org/abs/2512.04632>`_, 2025; Grishina et al., `Accelerating
      Newton-Schulz iteration for orthogonalization via Chebyshev-type
      polynomials <https://arxiv.org/abs/2506.10935>`_, 2025.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> x = gx.orthogonalize_via_newton_schulz(jnp.eye(3) * 9, (2.0, -1.5, 0.5), ns_steps=9)
      >>> [round(value, 5) for value in x.diagonal().tolist()]
      [1.0, 1.0, 1.0]
    """
    if preconditioning not in _NORMS:
        raise ValueError(f"preconditioning must be one of {list(_NORMS)}, got {preconditioning!r}")
    if x.ndim == 2:
        dimension_numbers = MuonDimensionNumbers()
    elif not isinstance(dimension_numbers, MatrixAxes):
        raise ValueError(
            f"an array of shape {x.shape} is no matrix: say by MuonDimensionNumbers which axes are, "
            "or leave it to another optimizer"
        )
    matrices, restore = dimension_numbers.matrices(lax.convert_element_type(x, compute_dtype(x.dtype)))
    steps = _rows(jnp.asarray(ns_coeffs, real_dtype(matrices.dtype)), ns_steps)
    if x.size and steps:
        tall = matrices.shape[-2] > matrices.shape[-1]
        result = _newton_schulz(matrices.mT if tall else matrices, steps, _NORMS[preconditioning], eps)
        matrices = result.mT if tall else result
    return lax.convert_element_type(restore(matrices), x.dtype)


def _rows(coefficients: jax.Array, steps: int) -> list[list[jax.Array]]:
    """For every step its three coefficients."""
    check_coefficients(coefficients)
    if coefficients.ndim == 1:
        return [[coefficients[i] for i in range(3)]] * steps
    return [[row[i] for i in range(3)] for row in coefficients]


def check_coefficients(coefficients: Any) -> None:
    if coefficients.ndim not in (1, 2) or coefficients.shape[-1] != 3:
        raise ValueError(f"ns_coeffs must have shape (3,) or (n, 3), got {coefficients.shape}")


def _spans(steps: int, rows: int, columns: int) -> list[int]:
    r"""How many steps each :math:`A` serves.

    Within a span a step takes 6 or 8 :math:`n^3` operations more and two
    products with :math:`X`, of :math:`2 n^2 m` each, less. So spans pay from
    :math:`m = 1.5 n`, if the products are what takes the time. They are short,
    and shorter late, because rounding in :math:`A` grows in the course of one.
    """
    if columns <= 1.5 * rows or rows < 128:
        return [1] * steps
    first = [3] if steps % 2 and steps > 3 else []
    pairs, single = divmod(steps - sum(first), 2)
    return first + [2] * pairs + [1] * single


def _newton_schulz(x: jax.Array, steps: list[list[jax.Array]], norm_of: Any, eps: Scalar) -> jax.Array:
    """The steps, on matrices with at least as many columns as rows."""
    gram = _times(x, x.mT.conj())
    norm = norm_of(x, gram, eps)
    scale = safe_divide(jnp.ones_like(norm), norm)
    x, gram = scale * x, scale * gram * scale.mT
    done = 0
    for span in _spans(len(steps), *x.shape[-2:]):
        factor, rest = _product(gram if done == 0 else _times(x, x.mT.conj()), steps[done : done + span])
        x, done = factor * x + _times(rest, x), done + span
    return x


def _product(gram: jax.Array, steps: list[list[jax.Array]]) -> tuple[jax.Array, jax.Array]:
    """The product of the steps' polynomials, as a factor of the identity and the rest.

    Kept apart they spare the small singular values, which rounding the sum would drown.
    """
    (a, b, c), *later = steps
    factor, rest = a, b * gram + c * _times(gram, gram)
    polynomial = rest
    for following, b, c in later:
        for _ in range(2):
            gram = a * gram + _times(polynomial, gram)
        a, polynomial = following, b * gram + c * _times(gram, gram)
        factor, rest = a * factor, a * rest + factor * polynomial + _times(polynomial, rest)
    return factor, rest


def _times(x: jax.Array, y: jax.Array) -> jax.Array:
    return lax.batch_matmul(x, y)


def _coefficients(given: Coefficients) -> Hyperparam:
    """The coefficients as a hyperparameter."""
    if isinstance(given, str):
        if given not in PRESETS:
            raise ValueError(f"scale_by_muon: ns_coeffs must be one of {list(PRESETS)}, got {given!r}")
        given = PRESETS[given]
    if isinstance(given, Tunable) or callable(given):
        return given
    array: Any = given if isinstance(given, jax.Array) else np.asarray(given, float)
    check_coefficients(array)
    coefficients: Hyperparam = array
    return coefficients


def scale_by_muon(
    ns_coeffs: Coefficients = PRESETS["standard"],
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Preconditioning = "frobenius",
    weight_dimension_numbers: DimensionNumbers = None,
    bias_correction: bool = True,
) -> Lift:
    r"""Momentum, its singular values brought near one.

    .. math::
      m \leftarrow \beta m + (1 - \beta) g, \quad
      \hat m = \beta \frac{m}{1 - \beta^{t+1}} + (1 - \beta) \frac{g}{1 - \beta^t}, \quad
      u = \mathrm{NewtonSchulz}(\hat m)

    Without Nesterov's look-ahead :math:`\hat m = m / (1 - \beta^t)`. Matrices
    of equal shape are orthogonalized together.

    Args:
      ns_coeffs: the coefficients of `orthogonalize_via_newton_schulz`: three,
        a row of three for every step, or ``"standard"`` or ``"dion"``.
      ns_steps: how many steps; of more rows the last ones count, of fewer all.
      beta: :math:`\beta`, in [0, 1).
      eps: added to the norm that :math:`\hat m` is divided by, at least 0.
      mu_dtype: the dtype to keep the momentum in; by default the parameter's,
        and at least float32.
      nesterov: whether to look ahead.
      adaptive: whether to multiply by the dual norm :math:`\langle \hat m, u \rangle`, taken of
        the whole leaf: the matrices of its batch axes are multiplied by one number, as in Optax.
      preconditioning: as in `orthogonalize_via_newton_schulz`.
      weight_dimension_numbers: `MuonDimensionNumbers` for the leaves that are
        no matrices: a tree like the parameters, a prefix of one, or a function
        from the parameters to it.
      bias_correction: whether to correct the averages' bias to zero; the
        original does not.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters. Its
      update raises `ValueError` for a leaf that is no matrix and has no
      dimension numbers, and names it.

    Raises:
      TypeError, ValueError: an argument is out of its bounds or unknown.

    References:
      Jordan et al., `Muon: an optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024; Bernstein and
      Newhouse, `Old optimizer, new norm: an anthology
      <https://arxiv.org/abs/2409.20325>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.scale_by_muon((2.0, -1.5, 0.5), ns_steps=9)
      >>> updates, _ = tx.update(-5 * jnp.eye(2), tx.init(jnp.eye(2)))
      >>> [round(value, 5) for value in updates.diagonal().tolist()]
      [-1.0, -1.0]
    """
    whole("scale_by_muon", ns_steps=ns_steps)
    if preconditioning not in _NORMS:
        raise ValueError(
            f"scale_by_muon: preconditioning must be one of {list(_NORMS)}, got {preconditioning!r}"
        )

    def init(param: Any) -> MuonSlots:
        return MuonSlots(slot_like(param, dtype=mu_dtype))

    def momentum(grad: Any, slots: MuonSlots, param: Any, step: Step) -> tuple[Any, MuonSlots]:
        average = mu = ema_of(slots.mu, grad, step.beta)
        if bias_correction:
            average, grad = debias(mu, step.beta, step.t + nesterov), debias(grad, step.beta, step.t)
        return ema_of(average, grad, step.beta) if nesterov else average, MuonSlots(mu)

    def orthogonalize(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        rows = step.ns_coeffs[-ns_steps:] if step.ns_coeffs.ndim == 2 else step.ns_coeffs
        update = orthogonalize_via_newton_schulz(grad, rows, ns_steps, preconditioning, step.eps, step.option)
        return (jnp.sum(grad.conj() * update) * update if adaptive else update), slots

    equation = "m ← avg g, u = " + ("m̂ looking ahead" if nesterov else "m̂")
    return lift(
        Rule("scale_by_muon", momentum, init, {"beta": debiased(beta)}, equation, counts=bias_correction),
        Rule(
            "orthogonalize",
            orthogonalize,
            hyperparams={"ns_coeffs": _coefficients(ns_coeffs), "eps": nonnegative(eps)},
            equation=f"u = NewtonSchulz(g, {ns_steps} steps)" + (" · ⟨g, u⟩" if adaptive else ""),
            scope="array",
            options=weight_dimension_numbers,
            batched=True,
        ),
    )


def scale_by_shape(
    weight_dimension_numbers: DimensionNumbers = None, consistent_rms: Hyperparam | None = None
) -> Lift:
    r"""Fit an orthogonal update to its matrix's shape: :math:`u = \sqrt{\max(1, d_{out} / d_{in})}\, g`.

    With `consistent_rms` :math:`u = r \sqrt{\max(d_{in}, d_{out})}\, g`, which
    has the root mean square :math:`r` whatever the shape.

    Args:
      weight_dimension_numbers: as in `scale_by_muon`.
      consistent_rms: :math:`r`, at least 0; 0.2 makes the updates as large as
        AdamW's are.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: `consistent_rms` is negative.

    References:
      Liu et al., `Muon is scalable for LLM training
      <https://arxiv.org/abs/2502.16982>`_, 2025.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.scale_by_shape()
      >>> tx.update(jnp.ones((1, 4)), tx.init(jnp.ones((1, 4))))[0].tolist()
      [[2.0, 2.0, 2.0, 2.0]]
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        axes = (step.option or MuonDimensionNumbers()).of(grad.shape)
        fan_in, fan_out = (math.prod(grad.shape[axis] for axis in part) for part in axes)
        if consistent_rms is None:
            return math.sqrt(max(1, fan_out / max(1, fan_in))) * grad, slots
        return math.sqrt(max(fan_in, fan_out)) * step.consistent_rms * grad, slots

    return lift(
        Rule(
            "scale_by_shape",
            update,
            hyperparams={} if consistent_rms is None else {"consistent_rms": nonnegative(consistent_rms)},
            equation="u = √max(1, out / in) · g"
            if consistent_rms is None
            else "u = consistent_rms · √max(in, out) · g",
            scope="array",
            options=weight_dimension_numbers,
        )
    )
