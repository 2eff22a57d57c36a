"""Searching along the updates for how far to go."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradxform.arguments import check_bounds, whole_or_array
from gradxform.arithmetic import Scalar, slot_like
from gradxform.primitives.quasi_newton import filled_grads, real_dtype_of, real_vdot
from gradxform.transformation import (
    GradientTransformation,
    Params,
    State,
    Updates,
    accepted_keywords,
    apply_updates,
)
from gradxform.trees import PyTree, check_all_inexact, map_leaves
from gradxform.wrappers.wrapper import conform, no_steps

__all__ = [
    "BacktrackingLinesearchInfo",
    "ScaleByBacktrackingLinesearchState",
    "ScaleByZoomLinesearchState",
    "ZoomLinesearchInfo",
    "scale_by_backtracking_linesearch",
    "scale_by_zoom_linesearch",
    "value_and_grad_from_state",
]


class BacktrackingLinesearchInfo(NamedTuple):
    """How a backtracking search went.

    Attributes:
      num_linesearch_steps: how many lengths were tried, int32.
      decrease_error: by how much the loss misses the decrease asked for, 0 if it does not.
    """

    num_linesearch_steps: jax.Array
    decrease_error: jax.Array


class ScaleByBacktrackingLinesearchState(NamedTuple):
    """The state of `scale_by_backtracking_linesearch`.

    Attributes:
      learning_rate: the length found; the one before, where none above 0 was.
      value: the loss there.
      grad: its gradient there; ``None`` unless it is to be stored.
      info: how the search went.
    """

    learning_rate: jax.Array
    value: jax.Array
    grad: Updates | None
    info: BacktrackingLinesearchInfo


class ZoomLinesearchInfo(NamedTuple):
    """How a zoom search went.

    Attributes:
      num_linesearch_steps: how many lengths were tried, int32.
      decrease_error: by how much the last one misses the decrease asked for, 0 if it does not.
      curvature_error: by how much its slope is too steep, 0 if it is not.
    """

    num_linesearch_steps: jax.Array
    decrease_error: jax.Array
    curvature_error: jax.Array


class ScaleByZoomLinesearchState(NamedTuple):
    """The state of `scale_by_zoom_linesearch`.

    Attributes:
      learning_rate: the length found; the one before, where none above 0 was.
      value: the loss there.
      grad: its gradient there.
      info: how the search went.
    """

    learning_rate: jax.Array
    value: jax.Array
    grad: Updates
    info: ZoomLinesearchInfo


def scale_by_backtracking_linesearch(
    max_backtracking_steps: int,
    slope_rtol: Scalar = 1e-4,
    decrease_factor: Scalar = 0.8,
    increase_factor: Scalar = 1.5,
    max_learning_rate: Scalar = 1.0,
    atol: Scalar = 0.0,
    rtol: Scalar = 0.0,
    store_grad: bool = False,
    verbose: bool = False,
) -> GradientTransformation:
    r"""Shorten the updates until the loss decreases enough: :math:`u = \alpha d`.

    Enough is Armijo's condition, with the slope :math:`\phi' = \nabla f(w)^\top d`

    .. math::
      f(w + \alpha d) \le (1 + r) f(w) + c \alpha \phi' + a

    The first length tried is the last one found times `increase_factor`; each further one is
    `decrease_factor` times the one before. The last one is taken even if it is too long, unless the loss
    is infinite or no number there: then the update is 0, and the next search starts from the last length
    found before.

    Args:
      max_backtracking_steps: how many times to shorten at most, at least 0.
      slope_rtol: :math:`c`, in [0, 1].
      decrease_factor: strictly between 0 and 1.
      increase_factor: at least 1; infinite, every search begins from `max_learning_rate`.
      max_learning_rate: the longest length to try, above 0.
      atol: :math:`a`, at least 0.
      rtol: :math:`r`, at least 0.
      store_grad: whether to keep the gradient at the point found, for `value_and_grad_from_state`.
      verbose: whether to print when no length is short enough.

    Returns:
      A `GradientTransformation` to stand last in a chain; its update needs the loss, its gradient as
      `jax.grad` returns it, and the loss as a function,
      ``update(grads, state, params, value=..., grad=..., value_fn=...)``. What else it is given goes to
      `value_fn`.

    Raises:
      ValueError: an argument is out of its bounds; in `update`, the parameters are missing.
      TypeError: the number of steps is no integer; in `update`, `value`, `grad` or `value_fn` is missing,
        or an argument fits none of them.

    References:
      Nocedal and Wright, `Numerical optimization <https://doi.org/10.1007/978-0-387-40065-5>`_, 2006,
      algorithm 3.1.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_backtracking_linesearch(10, decrease_factor=0.5)
      >>> loss = lambda w: 2 * w**2
      >>> tx.update(-4.0, tx.init(1.0), 1.0, value=2.0, grad=4.0, value_fn=loss)[0].item()
      -1.0
    """
    who = "scale_by_backtracking_linesearch"
    whole_or_array(who, least=0, max_backtracking_steps=max_backtracking_steps)
    check_bounds(
        who,
        [
            ("slope_rtol", slope_rtol, lambda x: 0 <= x <= 1, "in [0, 1]"),
            ("decrease_factor", decrease_factor, lambda x: 0 < x < 1, "strictly between 0 and 1"),
            ("increase_factor", increase_factor, lambda x: x >= 1, "at least 1"),
            ("max_learning_rate", max_learning_rate, lambda x: x > 0, "above 0"),
            ("atol", atol, lambda x: x >= 0, "at least 0"),
            ("rtol", rtol, lambda x: x >= 0, "at least 0"),
        ],
    )

    def init(params: Params) -> ScaleByBacktrackingLinesearchState:
        check_all_inexact(params, root="params", who=who)
        dtype = real_dtype_of(params)
        return ScaleByBacktrackingLinesearchState(
            learning_rate=jnp.ones((), dtype),
            value=jnp.full((), jnp.inf, dtype),
            grad=jax.tree.map(slot_like, params) if store_grad else None,
            info=BacktrackingLinesearchInfo(no_steps(), jnp.full((), jnp.inf, dtype)),
        )

    def update(
        grads: Updates,
        state: ScaleByBacktrackingLinesearchState,
        params: Params | None = None,
        *,
        value: Any = None,
        grad: Updates | None = None,
        value_fn: Callable[..., Any] | None = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByBacktrackingLinesearchState]:
        line = _Line(who, grads, params, value, grad, value_fn, extra)
        dtype = state.value.dtype

        def number(x: Any) -> jax.Array:
            return jnp.asarray(x, dtype)

        def shorten(last: tuple[Any, ...]) -> tuple[Any, ...]:
            tried, length, _, _ = last
            length = jnp.where(tried > 0, number(decrease_factor) * length, length)
            new = number(line.loss(line.at(length)))
            # The losses are subtracted first: beside them the slope's term can be less than rounding.
            rise = new - (1 + number(rtol)) * line.value
            return tried + 1, length, new, _excess(rise - length * number(slope_rtol) * line.slope)

        def go_on(last: tuple[Any, ...]) -> Any:
            tried, _, _, error = last
            return (error > number(atol)) & (tried <= max_backtracking_steps)

        longest = jnp.minimum(number(increase_factor) * state.learning_rate, number(max_learning_rate))
        start = no_steps(), longest, line.value, number(jnp.inf)
        tried, length, new, error = lax.while_loop(go_on, shorten, start)
        if verbose:
            missed = f"{who}: the loss at length {{}} misses the decrease asked for by {{}} (slope {{}})"
            _print_if(error > number(atol), missed, length, error, line.slope)
        length = jnp.where(jnp.isinf(error), 0, length)
        new_grad = conform(jax.grad(line.loss)(line.at(length)), state.grad) if store_grad else None
        info = BacktrackingLinesearchInfo(tried, error)
        kept = jnp.where(length > 0, length, state.learning_rate)
        return line.updates(length), ScaleByBacktrackingLinesearchState(kept, new, new_grad, info)

    return GradientTransformation(init, update)


class _Point(NamedTuple):
    """A point on the line: how far away, the loss there, and its slope along the line."""

    step: jax.Array
    value: jax.Array
    slope: jax.Array


class _Zoom(NamedTuple):
    """A zoom search.

    Attributes:
      tried: how many points were tried.
      trial, grad: the last one, and the gradient there.
      low: the best end of the interval.
      high: the other end, infinitely far until one is found.
      third: the end that the last point replaced, infinitely far if there was none.
      safe, safe_grad: the best point so far that decreases the loss enough, and the gradient there.
      decrease_error, curvature_error: by how much the last point misses Wolfe's conditions.
      found: whether the last point will do.
      failed: whether there is no use in going on.
    """

    tried: jax.Array
    trial: _Point
    grad: Updates
    low: _Point
    high: _Point
    third: _Point
    safe: _Point
    safe_grad: Updates
    decrease_error: jax.Array
    curvature_error: jax.Array
    found: jax.Array
    failed: jax.Array


def scale_by_zoom_linesearch(
    max_linesearch_steps: int,
    max_learning_rate: Scalar | None = None,
    tol: Scalar = 0.0,
    increase_factor: Scalar = 2.0,
    slope_rtol: Scalar = 1e-4,
    curv_rtol: Scalar = 0.9,
    approx_dec_rtol: Scalar | None = 1e-6,
    stepsize_precision: Scalar = 1e-5,
    initial_guess_strategy: str = "keep",
    verbose: bool = False,
) -> GradientTransformation:
    r"""Scale the updates to where the loss is less and flatter: :math:`u = \alpha d`.

    With :math:`\phi(\alpha) = f(w + \alpha d)`, these are the strong Wolfe conditions

    .. math::
      \phi(\alpha) \le \phi(0) + c_1 \alpha \phi'(0), \quad |\phi'(\alpha)| \le c_2 |\phi'(0)|

    Near a minimum the first cannot be told from rounding; Hager and Zhang's may hold instead:
    :math:`\phi'(\alpha) \le (2 c_1 - 1) \phi'(0)` and
    :math:`\phi(\alpha) \le \phi(0) + \epsilon |\phi(0)|`.

    The length grows until an interval is known to hold such a point; then it is narrowed down by the
    minima of cubics and parabolas through its ends. Where the search fails, the best length with enough
    decrease is taken, or else the last one; or 0, if the loss is infinite or no number there.

    Args:
      max_linesearch_steps: how many lengths to try, at least 1.
      max_learning_rate: the longest length to try, above 0; ``None`` for any.
      tol: by how much the conditions may be missed, at least 0.
      increase_factor: what the length grows by, above 1.
      slope_rtol: :math:`c_1`, in [0, 1].
      curv_rtol: :math:`c_2`, at least 0.
      approx_dec_rtol: :math:`\epsilon`, at least 0; ``None`` for the first condition alone.
      stepsize_precision: the length of an interval that it is no use to narrow down, at least 0.
      initial_guess_strategy: the first length tried: ``"one"``, or ``"keep"`` for the last one found.
      verbose: whether to print when the search fails.

    Returns:
      A `GradientTransformation` to stand last in a chain; its update needs the loss, its gradient as
      `jax.grad` returns it, and the loss as a function,
      ``update(grads, state, params, value=..., grad=..., value_fn=...)``. What else it is given goes to
      `value_fn`.

    Raises:
      ValueError: an argument is out of its bounds; in `update`, the parameters are missing.
      TypeError: the number of steps is no integer; in `update`, `value`, `grad` or `value_fn` is missing,
        or an argument fits none of them.

    References:
      Nocedal and Wright, `Numerical optimization <https://doi.org/10.1007/978-0-387-40065-5>`_, 2006,
      algorithms 3.5 and 3.6; Hager and Zhang, `Algorithm 851: CG_DESCENT
      <https://doi.org/10.1145/1132973.1132979>`_, 2006.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_zoom_linesearch(10)
      >>> loss = lambda w: 2 * w**2
      >>> tx.update(-4.0, tx.init(1.0), 1.0, value=2.0, grad=4.0, value_fn=loss)[0].item()
      -1.0
    """
    who = "scale_by_zoom_linesearch"
    whole_or_array(who, max_linesearch_steps=max_linesearch_steps)
    check_bounds(
        who,
        [
            ("max_learning_rate", max_learning_rate, lambda x: x > 0, "above 0"),
            ("tol", tol, lambda x: x >= 0, "at least 0"),
            ("increase_factor", increase_factor, lambda x: x > 1, "above 1"),
            ("slope_rtol", slope_rtol, lambda x: 0 <= x <= 1, "in [0, 1]"),
            ("curv_rtol", curv_rtol, lambda x: x >= 0, "at least 0"),
            ("approx_dec_rtol", approx_dec_rtol, lambda x: x >= 0, "at least 0"),
            ("stepsize_precision", stepsize_precision, lambda x: x >= 0, "at least 0"),
        ],
    )
    if initial_guess_strategy not in ("one", "keep"):
        raise ValueError(
            f"{who}: initial_guess_strategy must be 'one' or 'keep', got {initial_guess_strategy!r}"
        )

    def init(params: Params) -> ScaleByZoomLinesearchState:
        check_all_inexact(params, root="params", who=who)
        dtype = real_dtype_of(params)
        infinite = [jnp.full((), jnp.inf, dtype) for _ in range(3)]
        return ScaleByZoomLinesearchState(
            learning_rate=jnp.ones((), dtype),
            value=infinite[0],
            grad=jax.tree.map(slot_like, params),
            info=ZoomLinesearchInfo(no_steps(), *infinite[1:]),
        )

    def update(
        grads: Updates,
        state: ScaleByZoomLinesearchState,
        params: Params | None = None,
        *,
        value: Any = None,
        grad: Updates | None = None,
        value_fn: Callable[..., Any] | None = None,
        **extra: Any,
    ) -> tuple[Updates, ScaleByZoomLinesearchState]:
        line = _Line(who, grads, params, value, grad, value_fn, extra)
        dtype = state.value.dtype
        value_and_grad = jax.value_and_grad(line.loss)

        def number(x: Any) -> jax.Array:
            return jnp.asarray(x, dtype)

        origin = _Point(number(0), line.value, line.slope)
        infinity = _Point(number(jnp.inf), line.value, line.slope)
        guess = number(1) if initial_guess_strategy == "one" else state.learning_rate

        def decrease_error(point: _Point) -> jax.Array:
            rise = point.value - origin.value
            error = rise - number(slope_rtol) * point.step * origin.slope
            if approx_dec_rtol is not None:
                steepness = point.slope - (2 * number(slope_rtol) - 1) * origin.slope
                approximate = jnp.maximum(steepness, rise - number(approx_dec_rtol) * jnp.abs(origin.value))
                error = jnp.minimum(approximate, error)
            return _excess(error)

        def curvature_error(point: _Point) -> jax.Array:
            return _excess(jnp.abs(point.slope) - number(curv_rtol) * jnp.abs(origin.slope))

        # Looking for an interval is zooming into one whose other end is infinitely far: both choose a
        # point, and what becomes of the ends depends on it in the same way.
        def narrow(search: _Zoom) -> _Zoom:
            low, high, bracketed = search.low, search.high, jnp.isfinite(search.high.step)
            longer = jnp.where(search.tried == 0, guess, number(increase_factor) * low.step)
            at_end: Any = False
            if max_learning_rate is not None:
                at_end = ~bracketed & (longer >= number(max_learning_rate))
                longer = jnp.minimum(longer, number(max_learning_rate))
            step = jnp.where(bracketed, _interpolate(low, high, search.third), longer)
            new_value, new_grad = value_and_grad(line.at(step))
            new_grad = conform(new_grad, search.grad)
            trial = _Point(step, number(new_value), number(line.slope_of(new_grad)))

            decrease, curvature = decrease_error(trial), curvature_error(trial)
            found = jnp.maximum(decrease, curvature) <= number(tol)
            better = (decrease <= number(tol)) & (~bracketed | (trial.value < search.safe.value))
            worse = (decrease > 0) | ((trial.value >= low.value) & (search.tried > 0))
            beyond = ~worse & (trial.slope * jnp.sign(high.step - low.step) >= 0)
            found |= at_end & ~worse & ~beyond
            tried = search.tried + 1
            narrowest = jnp.abs(high.step - low.step) <= number(stepsize_precision)
            safe = _choose(better, trial, search.safe)
            return _Zoom(
                tried,
                trial,
                new_grad,
                low=_choose(worse, low, trial),
                high=_choose(worse, trial, _choose(beyond, low, high)),
                third=_choose(worse | beyond, high, low),
                safe=safe,
                safe_grad=_choose(better, new_grad, search.safe_grad),
                decrease_error=decrease,
                curvature_error=curvature,
                found=found,
                failed=~found & ((tried >= max_linesearch_steps) | (narrowest & (safe.step > 0))),
            )

        grad = filled_grads(who, grad, params)
        no = jnp.zeros((), bool)
        start = _Zoom(
            no_steps(),
            *(origin, grad),
            *(origin, infinity, infinity),
            *(origin, grad),
            *(number(jnp.inf), number(jnp.inf)),
            *(no, no),
        )
        last = lax.while_loop(lambda search: ~(search.found | search.failed), narrow, start)
        if verbose:
            missed = (
                f"{who}: no length found in {{}} steps; the last, {{}}, misses the decrease by {{}} and the "
                "curvature by {} (slope {})"
            )
            errors = last.decrease_error, last.curvature_error
            _print_if(last.failed, missed, last.tried, last.trial.step, *errors, line.slope)
        to_safety = last.failed & ((last.safe.step > 0) | jnp.isinf(last.decrease_error))
        end, end_grad = _choose(to_safety, (last.safe, last.safe_grad), (last.trial, last.grad))
        info = ZoomLinesearchInfo(last.tried, last.decrease_error, last.curvature_error)
        end_grad = conform(end_grad, state.grad)
        kept = jnp.where(end.step > 0, end.step, state.learning_rate)
        return line.updates(end.step), ScaleByZoomLinesearchState(kept, end.value, end_grad, info)

    return GradientTransformation(init, update)


def value_and_grad_from_state(value_fn: Callable[..., Any]) -> Callable[..., tuple[Any, Updates]]:
    r"""A function's value and gradient, taken from where a line search has left them: :math:`f, \nabla f`.

    They are computed where the state has none, or where the value in it is infinite or no number, as
    before the first step.

    Args:
      value_fn: ``(params, *args, **kwargs) -> value``.

    Returns:
      A function ``(params, *args, state=state, **kwargs) -> (value, grad)``. Its state is that of the
      line search or of anything that it is a part of, also of Optax.

    Raises:
      KeyError: in that function, the state has several values with a gradient.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_zoom_linesearch(10)
      >>> value, grad = gx.value_and_grad_from_state(lambda w: 2 * w**2)(1.0, state=tx.init(1.0))
      >>> value.item(), grad.item()
      (2.0, 4.0)
    """

    def value_and_grad(params: Params, *args: Any, state: State, **kwargs: Any) -> tuple[Any, Updates]:
        def compute() -> tuple[Any, Updates]:
            computed: tuple[Any, Updates] = jax.value_and_grad(value_fn)(params, *args, **kwargs)
            return computed

        nodes = jax.tree.leaves(state, is_leaf=_holds_value_and_grad)
        holders = [node for node in nodes if _holds_value_and_grad(node)]
        if len(holders) > 1:
            names = ", ".join(type(holder).__name__ for holder in holders)
            raise KeyError(
                f"value_and_grad_from_state: the state has {len(holders)} values with a gradient: {names}. "
                "Pass the state of the line search that is meant."
            )
        if not holders or (holders[0].grad is None and jax.tree.leaves(params)):
            return compute()
        stored = conform((holders[0].value, holders[0].grad), jax.eval_shape(compute))
        found: tuple[Any, Updates] = lax.cond(jnp.isfinite(holders[0].value), lambda: stored, compute)
        return found

    return value_and_grad


def _holds_value_and_grad(node: Any) -> bool:
    return isinstance(node, tuple) and {"value", "grad"} <= set(getattr(node, "_fields", ()))


class _Line:
    """The loss along the updates, and what a search starts from."""

    def __init__(
        self,
        who: str,
        grads: Updates,
        params: Params | None,
        value: Any,
        grad: Updates | None,
        value_fn: Callable[..., Any] | None,
        extra: dict[str, Any],
    ) -> None:
        if params is None:
            raise ValueError(f"{who} needs the parameters: {_CALL}")
        for name, given in (("value", value), ("grad", grad), ("value_fn", value_fn)):
            if given is None and (name != "grad" or jax.tree.leaves(params)):
                raise TypeError(f"{who} needs {name}: {_CALL}")
        assert value_fn is not None
        if jnp.shape(value) != ():
            raise ValueError(f"{who}: value must be a scalar, it has shape {jnp.shape(value)}")
        known = accepted_keywords(value_fn)(extra)
        if known.keys() != extra.keys():
            unknown = ", ".join(sorted(extra.keys() - known.keys()))
            raise TypeError(f"{who}: value_fn takes no argument {unknown}; {_CALL}")
        self.who, self.params, self.direction = who, params, grads
        self.dtype = real_dtype_of(params)
        self.value = jnp.asarray(value, self.dtype)
        self.loss: Callable[[Params], Any] = lambda params: value_fn(params, **known)
        self.wide = filled_grads(who, grads, params)
        self.slope = jnp.asarray(self.slope_of(filled_grads(who, grad, params)), self.dtype)

    def slope_of(self, grad: Updates) -> Any:
        """The slope along the line where the loss has this gradient."""
        # What `jax.grad` returns for complex parameters is the conjugate of the direction uphill.
        return real_vdot(self.wide, jax.tree.map(_conjugate, grad))

    def updates(self, step: Any) -> Updates:
        """The way to the point so far away."""

        def scaled(update: Any, param: Any) -> jax.Array:
            return jnp.asarray(step * update, jnp.result_type(param))

        return map_leaves(scaled, self.direction, self.params, who=self.who, names=("grads", "params"))

    def at(self, step: Any) -> Params:
        """The point so far away, exactly where the updates will lead."""
        return apply_updates(self.params, self.updates(step))


_CALL = "call update(grads, state, params, value=..., grad=..., value_fn=...)"


def _conjugate(x: jax.Array) -> jax.Array:
    return jnp.conj(x) if jnp.iscomplexobj(x) else x


def _excess(error: jax.Array) -> jax.Array:
    """The error above 0; infinite if it is no number."""
    return jnp.where(jnp.isnan(error), jnp.inf, jnp.maximum(error, 0))


def _choose(condition: Any, tree: PyTree, otherwise: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree, otherwise)


def _interpolate(low: _Point, high: _Point, third: _Point) -> jax.Array:
    """A length well within the interval, where the cubic, the parabola or neither has its minimum."""
    b, c = high.step - low.step, third.step - low.step
    # Equation 3.59: the loss is low + slope x + a2 x² + a3 x³ at the distance x from low.
    rest_b, rest_c = high.value - low.value - low.slope * b, third.value - low.value - low.slope * c
    scale = (b * c) ** 2 * (b - c)
    a3 = (c**2 * rest_b - b**2 * rest_c) / scale
    a2 = (b**3 * rest_c - c**3 * rest_b) / scale
    cubic = low.step + (-a2 + jnp.sqrt(a2**2 - 3 * a3 * low.slope)) / (3 * a3)
    parabola = low.step - low.slope / (2 * (rest_b / b**2))

    def within(step: jax.Array, margin: float) -> jax.Array:
        left, right = jnp.minimum(low.step, high.step), jnp.maximum(low.step, high.step)
        return (step > left + margin * jnp.abs(b)) & (step < right - margin * jnp.abs(b))

    bisected = (low.step + high.step) / 2
    return jnp.where(within(cubic, 0.2), cubic, jnp.where(within(parabola, 0.1), parabola, bisected))


def _print_if(condition: Any, message: str, *values: Any) -> None:
    lax.cond(condition, lambda: jax.debug.print(message, *values), lambda: None)
