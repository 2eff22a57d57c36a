"""What a sweep compiles: the functions of one run, called for every point and seed at once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from gradxform.hyperparams import show
from gradxform.training.batches import Batches, Shuffled
from gradxform.training.history import owned
from gradxform.training.program import Carry, Outcome, build_program, cached
from gradxform.transformation import GradientTransformation, Params, State

STEPS_PER_CALL = 512
"""The most steps in a compiled call."""

POINTS = "points"
"""The axis of a mesh of devices that the points are spread over."""

__all__ = [
    "POINTS",
    "STEPS_PER_CALL",
    "Draw",
    "Evaluate",
    "Start",
    "Train",
    "Training",
    "compiled",
    "drawing",
    "evaluating",
    "starting",
]


class Draw(NamedTuple):
    """``(key, given) -> params``: what a seed starts from."""

    draw: Callable[[jax.Array], Params] | None

    def __call__(self, key: jax.Array, given: Params) -> Params:
        return owned(given if self.draw is None else self.draw(jax.random.fold_in(key, 2)))


class Start(NamedTuple):
    """``(point, params) -> (params, state)``: what a run starts from."""

    make_tx: Callable[..., GradientTransformation]

    def tx(self, point: Mapping[str, Any]) -> GradientTransformation:
        try:
            return self.make_tx(**point)
        except jax.errors.ConcretizationTypeError as error:
            raise TypeError(
                f"sweep: {show(self.make_tx)} decides by the value of {' or '.join(point)}, which is traced "
                "because one program trains all points. Fill what it decides by in before "
                "(functools.partial, lambda), and sweep once for each of its values."
            ) from error

    def __call__(self, point: Mapping[str, Any], params: Params) -> tuple[Params, State]:
        return params, owned(self.tx(point).init(params))


class Train(NamedTuple):
    """``(point, carry, data, key, start, stop) -> (carry, outcome)``: what `fit` does, for one run."""

    loss_fn: Callable[..., Any]
    start: Start
    plan: Batches
    value_and_grad: Callable[..., Any]

    def __call__(self, point: Mapping[str, Any], *rest: Any) -> tuple[Carry, Outcome]:
        steps = build_program(
            self.loss_fn, self.start.tx(point), self.plan, STEPS_PER_CALL, "off", self.value_and_grad, None
        )
        trained: tuple[Carry, Outcome] = steps(*rest)
        return trained


class Evaluate(NamedTuple):
    """``params -> values``: what `evaluate` says, checked."""

    evaluate: Callable[[Params], dict[str, Any]]

    def __call__(self, params: Params) -> dict[str, jax.Array]:
        try:
            values = self.evaluate(params)
        except jax.errors.ConcretizationTypeError as error:
            raise TypeError(
                "sweep: evaluate is traced, to be called for all runs at once; it must return JAX's scalars, "
                "not float(...) of them, and cannot decide by them"
            ) from error
        if not isinstance(values, dict):
            raise TypeError(
                "sweep: evaluate must return a dictionary from name to scalar, "
                f"it returned {type(values).__name__}"
            )
        for name, value in values.items():
            if jnp.shape(value) != ():
                raise TypeError(
                    f"sweep: evaluate's {name!r} must be a scalar, it has shape {jnp.shape(value)}"
                )
        return {name: jnp.asarray(value) for name, value in values.items()}


@cached
def drawing(draw: Callable[..., Params]) -> Callable[..., Params]:
    """`draw` for every seed, compiled."""
    return jax.jit(jax.vmap(draw, (0, None)))


class _Axes(NamedTuple):
    """Where the arguments and results of a run have an axis of points and one of seeds: at 0, or not at all.

    Attributes:
      points, seeds: of the arguments.
      out_points, out_seeds: of the results.
      donated: which arguments are given away.
    """

    points: Any
    seeds: Any
    out_points: Any
    out_seeds: Any
    donated: tuple[int, ...] = ()


class _SideBySide(NamedTuple):
    """A function of one run, called for every point and seed at once."""

    run: Any
    axes: _Axes

    def __call__(self, *arguments: Any) -> Any:
        points, seeds, out_points, out_seeds, _ = self.axes
        return jax.vmap(jax.vmap(self.run, seeds, out_seeds), points, out_points)(*arguments)


_EACH: Any = 0
_SHARED: Any = None


def starting(train: Train) -> _SideBySide:
    """``(points, params of each seed) -> (params, state)``."""
    return _SideBySide(train.start, _Axes((_EACH, _SHARED), (_SHARED, _EACH), _EACH, _EACH))


def evaluating(evaluate: Evaluate) -> _SideBySide:
    """``params -> values``."""
    return _SideBySide(evaluate, _Axes((_EACH,), (_EACH,), _EACH, _EACH))


def _training(train: Train, state: Any = _EACH) -> _SideBySide:
    # The order of the examples is the seed's alone, so each batch is gathered once for all points.
    rows = _SHARED if train.plan.whole else Shuffled(_SHARED, _EACH, _SHARED)
    carry = Carry(_EACH, state)
    out = carry, Outcome(_SHARED, _SHARED, _EACH, _EACH)
    points = _EACH, carry, _SHARED, _SHARED, _SHARED, _SHARED
    return _SideBySide(train, _Axes(points, (_SHARED, carry, rows, _EACH, _SHARED, _SHARED), out, out, (1,)))


class Training(NamedTuple):
    """`_training`, in which a count that is the same in all runs is one number.

    What an optimizer does every tenth step is a branch then; where each run counts by itself, both branches
    are computed in every step.
    """

    train: Train

    @property
    def axes(self) -> _Axes:
        return _training(self.train).axes

    def __call__(self, points: Any, carry: Carry, *rest: Any) -> tuple[Carry, Outcome]:
        numbers, treedef = jax.tree.flatten(carry.state)
        counts = [leaf.ndim == 2 and jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in numbers]
        state = jax.tree.unflatten(treedef, [_SHARED if is_count else _EACH for is_count in counts])
        # Neither what they start from nor what a step makes of them may differ from run to run.
        begun = _Axes((_EACH, _EACH), (_SHARED, _EACH), (_EACH, state), (_EACH, state))
        once = [leaf[0, 0] if is_count else leaf for leaf, is_count in zip(numbers, counts, strict=True)]
        try:
            jax.eval_shape(lambda: _SideBySide(self.train.start, begun)(points, carry.params))
            shared = Carry(carry.params, jax.tree.unflatten(treedef, once))
            (params, new), outcome = _training(self.train, state)(points, shared, *rest)
        except ValueError:  # they do: a run skips steps by itself, say
            (params, new), outcome = _training(self.train)(points, carry, *rest)
        again = jax.tree.map(lambda one, each: jnp.broadcast_to(one, each.shape), new, carry.state)
        return Carry(params, again), outcome


@cached
def compiled(runs: _SideBySide | Training, mesh: Mesh | None) -> Callable[..., Any]:
    """The runs of a group, compiled."""

    def mapped(*arguments: Any) -> Any:
        return runs(*arguments)

    if mesh is not None:

        def spread(axes: Any) -> Any:
            return jax.tree.map(
                lambda axis: PartitionSpec() if axis is None else PartitionSpec(POINTS),
                axes,
                is_leaf=lambda axis: axis is None,
            )

        mapped = jax.shard_map(
            mapped,
            mesh=mesh,
            in_specs=spread(runs.axes.points),
            out_specs=spread(runs.axes.out_points),
            check_vma=False,
        )
    return jax.jit(mapped, donate_argnums=runs.axes.donated)
