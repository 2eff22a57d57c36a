"""Sweeps: many hyperparameters and seeds trained side by side, in one compiled program."""

import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradxform.hyperparams import Scalar, show
from gradxform.training.batches import batches
from gradxform.training.program import Carry, Record, checked_loss, first_batch
from gradxform.training.progress import Update, progress_bar
from gradxform.training.sources import Rows, is_stream
from gradxform.training.sweep_program import (
    POINTS,
    STEPS_PER_CALL,
    Draw,
    Evaluate,
    Start,
    Train,
    Training,
    compiled,
    drawing,
    evaluating,
    starting,
)
from gradxform.training.sweep_result import Judge, Keep, Mode, Runs, Seed, Sweep, key_of
from gradxform.transformation import GradientTransformation, Params, State
from gradxform.trees import PyTree, check_all_inexact, tree_bytes

Grid: TypeAlias = Mapping[str, Sequence[Scalar] | jax.Array | np.ndarray] | Sequence[Mapping[str, Scalar]]
"""For each name its values, of which all combinations are trained; or the combinations themselves."""

Point: TypeAlias = dict[str, float]

_STEPS_BETWEEN_EVALUATIONS = 100

_SHARE_OF_MEMORY = 0.8
"""How much of a device's free memory is planned for; the compiler takes some for itself."""

_CACHE = 32 * 2**20
"""How many bytes to plan for where the device does not tell, as a processor: as many as its cache has.

Beyond that, training side by side is no faster there than one after the other.
"""

__all__ = ["Grid", "sweep"]


def sweep(
    loss_fn: Callable[..., Any],
    params: Params | Callable[[jax.Array], Params],
    data: PyTree,
    make_tx: Callable[..., GradientTransformation],
    grid: Grid,
    *,
    seeds: int | Sequence[Seed] | jax.Array = 1,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    replacement: bool = False,
    drop_last: bool = False,
    evaluate: Callable[[Params], dict[str, Any]] | None = None,
    evaluate_every: int | None = None,
    by: str = "loss",
    mode: Mode | None = None,
    keep_params: Keep = "best",
    devices: Mesh | Sequence[jax.Device] | None = None,
    points_at_once: int | None = None,
    memory: int | None = None,
    progress: Any = None,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> Sweep:
    r"""Train with every point of a grid of hyperparameters, from several seeds, in one compiled program.

    Each run is `fit`'s with ``make_tx(**point)`` and the seed as its key, to
    the rounding of floating-point numbers: the same batches in the same order.
    Points and seeds train side by side under `jax.vmap`; the data is there
    once, and each batch once for all points. A second sweep with the same
    functions and shapes compiles nothing, whatever the values of its grid.

    A run whose loss is no longer finite goes on without harm to the others,
    and is never the best.

    Args:
      loss_fn: ``loss_fn(params, batch)``, or ``loss_fn(params, batch, key)``,
        as `fit` takes it.
      params: a pytree of floating-point or complex arrays; or a function that
        draws them for each seed, from ``jax.random.fold_in(key, 2)``.
      data: a pytree of arrays with one row an example.
      make_tx: what makes a transformation, of any library, from the grid's
        hyperparameters by name, such as `adam`. The values that it is given
        are traced: it may compute with them, build a schedule from them say,
        but not decide by them.
      grid: name to values, of which all combinations are trained; or the
        combinations, as a list of dictionaries.
      seeds: how many, 0, 1, ...; or themselves: numbers or random keys.
      batch_size: the number of examples in a batch; by default all of them.
      epochs: how many times to go through the data.
      steps: how many steps to take instead.
      replacement: whether to draw every example independently of the others.
      drop_last: whether to leave out the short batch at an epoch's end.
      evaluate: ``evaluate(params)`` -> a dictionary of scalars; compiled, and
        called at the start, every so often and at the end.
      evaluate_every: the number of steps between evaluations; by default an
        epoch, or as many as make 100 steps.
      by: what the best is chosen by: ``"loss"`` or the name of a metric or of
        what `evaluate` says, which goes first.
      mode: ``"min"`` or ``"max"``; it need not be given for names that end
        in ``loss``, ``error`` or ``accuracy``.
      keep_params: whether to keep the parameters and states of the best run or
        of all.
      devices: those to spread the points over, or a mesh of them; by default
        all that this process has.
      points_at_once: the most points to train side by side; the others follow
        in the same program. By default as many as fit into memory.
      memory: how many bytes of each device may be used; by default most of
        what is free, on a processor about its cache. What a point takes is
        estimated.
      progress: whether to draw a progress bar, as in `fit`.
      value_and_grad: what takes the gradients, as in `fit`.

    Returns:
      A `Sweep`: every run's history, the best point, and a sensitivity plot.

    Raises:
      TypeError: a value of the grid is not a number, or a function is none.
      ValueError: the grid is empty, its names do not go with `make_tx` or with
        each other, or other arguments are out of their bounds.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> x = jnp.linspace(-1.0, 1.0, 32)
      >>> loss = lambda w, batch: jnp.mean((w * batch["x"] - batch["y"]) ** 2)
      >>> grid = {"learning_rate": [0.01, 0.1, 1.0, 100.0], "momentum": [0.0, 0.5]}
      >>> found = gx.sweep(loss, 0.0, {"x": x, "y": 3 * x}, gx.sgd, grid, steps=40)
      >>> found.best, found.loss.shape, found.diverged[-1].item()
      ({'learning_rate': 1.0, 'momentum': 0.0}, (8, 1, 40), True)
    """
    for name, function in (
        ("loss_fn", loss_fn),
        ("make_tx", make_tx),
        ("value_and_grad", value_and_grad),
    ):
        if not callable(function):
            raise TypeError(f"sweep: {name} must be a function, got {type(function).__name__}")
    for name, count in [
        ("epochs", epochs),
        ("steps", steps),
        ("evaluate_every", evaluate_every),
        ("points_at_once", points_at_once),
        ("memory", memory),
    ]:
        if count is not None and (isinstance(count, bool) or not isinstance(count, int | np.integer)):
            raise TypeError(f"sweep: {name} must be an integer, got {count!r}")
        if count is not None and count < 1:
            raise ValueError(f"sweep: {name} must be at least 1, got {count}")
    if keep_params not in ("best", "all"):
        raise ValueError(f"sweep: keep_params must be 'best' or 'all', got {keep_params!r}")
    if is_stream(data):
        raise TypeError(
            "sweep: data must be a tree of arrays, which all runs draw from; an iterator can be gone "
            "through only once"
        )
    points = _points(grid)
    _try_out(make_tx, points)
    names, keys = _seeds(seeds)
    plan = batches(data, batch_size, replacement=replacement, drop_last=drop_last)
    if (steps is None) == (epochs is None):
        raise ValueError(f"sweep: pass epochs=... or steps=..., one of them; got {epochs} and {steps}")
    total = steps if epochs is None else epochs * plan.steps_per_epoch
    assert total is not None
    if evaluate_every is None:
        evaluate_every = plan.steps_per_epoch * math.ceil(_STEPS_BETWEEN_EVALUATIONS / plan.steps_per_epoch)
    evaluate_at = [] if evaluate is None else [*range(0, total, evaluate_every), total]

    # A function is a leaf; a pytree that happens to be callable, such as a module, is not.
    draws = callable(params) and jax.tree_util.all_leaves([params])
    starts = drawing(Draw(params if draws else None))(keys, None if draws else params)
    check_all_inexact(starts, root="params", who="sweep")
    held = _Held(jax.tree.map(jnp.asarray, data), keys, starts)
    train = Train(loss_fn, Start(make_tx), plan, value_and_grad)
    saying = None if evaluate is None else Evaluate(evaluate)
    like = _look_ahead(train, saying, points[0], held)
    judge = _judge(by, mode, like)

    spread = _devices(devices)
    if points_at_once is None:
        fitting = _room(spread[0], memory, held) // (len(names) * like.bytes)
        points_at_once = max(1, fitting) * len(spread)
    spread = spread[: min(len(points), points_at_once)]
    most = points_at_once - points_at_once % len(spread)
    # Equally large groups, which are filled up, so that one program does for all.
    size = len(spread) * -(-len(points) // (-(-len(points) // most) * len(spread)))
    firsts = range(0, len(points), size)

    trainer = _Trainer(train, saying, held, spread, size)
    told: list[Runs] = []
    ends: list[tuple[Params, State]] = []
    final = np.zeros((0, len(names)))
    best = None
    with progress_bar(progress, len(firsts) * total) as report:
        for first in firsts:
            runs, end = trainer.train(points[first : first + size], total, evaluate_at, report)
            told.append(runs)
            final = np.concatenate([final, judge.final(runs)])
            best = judge.best(final)
            if keep_params == "all":
                ends.append(end)
            elif best is not None and best[0] >= first:
                ends = [_at(end, (best[0] - first, best[1]))]
    if keep_params == "all":
        ends = [jax.tree.map(lambda *parts: jnp.concatenate(parts), *ends)]
    runs = jax.tree.map(lambda *parts: np.concatenate(parts), *told)
    return Sweep(
        tuple(points),
        names,
        runs.loss,
        runs.metrics,
        runs.hyperparams,
        runs.evaluations,
        np.asarray(evaluate_at, int),
        runs.diverged_at,
        by,
        judge.mode,
        final,
        best,
        trainer.seconds,
        trainer.compile_seconds,
        keep_params,
        jax.device_put(ends[0], trainer.home) if ends else None,
    )


def _points(grid: Any) -> list[Point]:
    """The points of a grid, each a number by name."""
    if isinstance(grid, Mapping):
        axes = []
        for name, values in grid.items():
            single = isinstance(values, str) or not isinstance(values, Iterable)
            if single or getattr(values, "shape", None) == ():
                raise TypeError(f"sweep: the grid's {name!r} must be a sequence of numbers, got {values!r}")
            axes.append([_number(name, value) for value in values])
            if not axes[-1]:
                raise ValueError(f"sweep: the grid has no values for {name!r}")
        points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*axes)]
    elif isinstance(grid, Sequence) and all(isinstance(point, Mapping) for point in grid):
        points = [{name: _number(name, value) for name, value in point.items()} for point in grid]
    else:
        raise TypeError(
            "sweep: grid must be a dictionary from name to values, or a list of dictionaries from name to "
            f"value, got {grid!r}"
        )
    if not points or not points[0]:
        raise ValueError("sweep: the grid is empty; pass {'learning_rate': [0.01, 0.1, 1.0]}, say")
    for place, point in enumerate(points):
        if set(point) != set(points[0]):
            raise ValueError(
                f"sweep: every point of the grid needs the same names; point 0 has {', '.join(points[0])}, "
                f"point {place} has {', '.join(point) or 'none'}"
            )
    return [{name: point[name] for name in points[0]} for point in points]


def _number(name: Any, value: Any) -> float:
    if isinstance(value, jax.Array | np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"sweep: the grid's {name!r} has {value!r}; its values must be real numbers, because one program "
            "trains all points. Fill other arguments in before (functools.partial, lambda), and sweep once "
            "for each of their values."
        )
    return value


def _try_out(make_tx: Callable[..., GradientTransformation], points: Sequence[Point]) -> None:
    """Make the transformation of each point from plain numbers, which it can check."""
    who = show(make_tx)
    try:
        signature = inspect.signature(make_tx)
    except ValueError:  # some callables written in C have none
        signature = None
    if signature is not None:
        try:
            signature.bind(**points[0])
        except TypeError as error:
            raise ValueError(
                f"sweep: the grid's names, {', '.join(points[0])}, do not go with {who}{signature}: {error}"
            ) from error
    for place, point in enumerate(points):
        try:
            tx = make_tx(**point)
        except Exception as error:
            error.add_note(f"sweep: at point {place} of the grid, {point}")
            raise
        if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
            raise TypeError(
                f"sweep: {who} must return a transformation with init and update, got {type(tx).__name__}"
            )


def _seeds(seeds: Any) -> tuple[tuple[Seed, ...], jax.Array]:
    """The seeds as they are called, and the key of each, stacked."""
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"sweep: seeds must be at least 1, got {seeds}")
        seeds = range(int(seeds))
    if not isinstance(seeds, Sequence | np.ndarray | jax.Array) or np.ndim(seeds) == 0:
        raise TypeError(f"sweep: seeds must be a number of seeds or a sequence of them, got {seeds!r}")

    def named(seed: Any) -> Seed:
        # A key of JAX's old kind is an array of two numbers.
        if isinstance(seed, jax.Array) and (seed.ndim or jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)):
            return seed
        if isinstance(seed, bool) or not jnp.issubdtype(jnp.result_type(seed), jnp.integer):
            raise TypeError(f"sweep: a seed must be an integer or a random key, got {seed!r}")
        return int(seed)

    names = tuple(map(named, seeds))
    if not names:
        raise ValueError("sweep: there are no seeds; pass how many, or a sequence of integers or keys")
    return names, jnp.stack([key_of(name) for name in names])


def _at(tree: PyTree, place: tuple[int, int]) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[place], tree)


class _Held(NamedTuple):
    """What all points share: the data, and for each seed its key and the parameters to start from."""

    data: PyTree
    keys: jax.Array
    starts: Params


class _Like(NamedTuple):
    """The shapes of one run.

    Attributes:
      params, state: what is trained.
      metrics: what the loss function returns beside the loss.
      residuals: what the loss keeps for its gradient.
      evaluation: what `evaluate` returns.
    """

    params: Params
    state: State
    metrics: dict[str, Any]
    residuals: PyTree
    evaluation: dict[str, Any]

    @property
    def bytes(self) -> int:
        """About what a run takes: parameters and state twice, gradient, update, and twice the residuals."""
        records = 4 * STEPS_PER_CALL * (1 + len(self.metrics))
        return (
            4 * tree_bytes(self.params)
            + 2 * tree_bytes(self.state)
            + 2 * tree_bytes(self.residuals)
            + records
        )


def _look_ahead(train: Train, evaluate: Evaluate | None, point: Point, held: _Held) -> _Like:
    """Trace for one run what is to be compiled, and find what is wrong with it."""

    def look(point: Mapping[str, Any], held: _Held) -> tuple[Any, ...]:
        key = held.keys[0]
        params, state = train.start(point, jax.tree.map(lambda leaf: leaf[0], held.starts))
        batch, loss_of = first_batch(held.data, train.plan), checked_loss(train.loss_fn)
        _, pull_back, metrics = jax.vjp(lambda params: loss_of(params, batch, key), params, has_aux=True)
        return params, state, metrics, pull_back, {} if evaluate is None else evaluate(params)

    return _Like(*jax.eval_shape(look, jax.tree.map(lambda value: jnp.asarray(value, float), point), held))


def _judge(by: str, mode: Mode | None, like: _Like) -> Judge:
    known = list(dict.fromkeys([*like.evaluation, "loss", *like.metrics]))
    if by not in known:
        raise ValueError(f"sweep: there is no {by!r} to choose the best by; there is {', '.join(known)}")
    if mode is None:
        word = next((word for word in ("loss", "error", "accuracy") if by.endswith(word)), None)
        if word is None:
            raise ValueError(
                f"sweep: is the least {by!r} the best, or the greatest? Pass mode='min' or 'max'"
            )
        mode = "max" if word == "accuracy" else "min"
    if mode not in ("min", "max"):
        raise ValueError(f"sweep: mode must be 'min' or 'max', got {mode!r}")
    return Judge(by, mode)


def _devices(devices: Any) -> list[Any]:
    if devices is None:
        chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
        return [chosen] if isinstance(chosen, jax.Device) else list(jax.local_devices(backend=chosen))
    listed = list(devices.devices.flat) if isinstance(devices, Mesh) else list(devices)
    if not listed:
        raise ValueError("sweep: devices is empty; leave it out to use all")
    return listed


def _room(device: Any, memory: int | None, held: _Held) -> int:
    """How many bytes of a device the runs of a group may take."""
    if memory is None:
        told = device.memory_stats() or {}
        if "bytes_limit" not in told:
            return _CACHE
        memory = int(_SHARE_OF_MEMORY * (told["bytes_limit"] - told.get("bytes_in_use", 0)))
    return memory - tree_bytes(held)


class _Trainer:
    """Trains groups of points, all with one program.

    Args:
      train: the training of one run.
      evaluate: its evaluation, if there is one.
      held: what all points share.
      devices: what the points of a group are spread over.
      size: the points in a group; a multiple of the devices.
    """

    def __init__(
        self, train: Train, evaluate: Evaluate | None, held: _Held, devices: Sequence[Any], size: int
    ) -> None:
        mesh = Mesh(np.asarray(devices), (POINTS,)) if len(devices) > 1 else None
        # What is on the default device anyway is not tied to it.
        self.home = None if mesh is None and devices[0] == _devices(None)[0] else devices[0]
        self.each = self.home if mesh is None else NamedSharding(mesh, PartitionSpec(POINTS))
        self.whole = self.home if mesh is None else NamedSharding(mesh, PartitionSpec())
        self.size, self.held = size, jax.device_put(held, self.whole)
        self.source = Rows(self.held.data, train.plan, STEPS_PER_CALL, many=True)
        self._start = compiled(starting(train), mesh)
        self._train = compiled(Training(train), mesh)
        self._evaluate = None if evaluate is None else compiled(evaluating(evaluate), mesh)
        self.steps = 0
        self.seconds = self.compile_seconds = 0.0

    def train(
        self, points: Sequence[Point], total: int, evaluate_at: Sequence[int], report: Update
    ) -> tuple[Runs, tuple[Params, State]]:
        """Train a group of points, at most `size`, for `total` steps; what happened, and what came out."""
        real, (_, keys, starts) = len(points), self.held
        filled = [points[min(place, real - 1)] for place in range(self.size)]
        columns = {name: np.asarray([point[name] for point in filled], float) for name in points[0]}
        columns = jax.device_put(columns, self.each)
        carry = Carry(*self._start(columns, starts))
        if not self.compile_seconds:
            # A call of no steps compiles.
            began = time.perf_counter()
            drawn = self.source.draw(0, 0, keys)
            carry, outcome = self._train(columns, carry, drawn.data, keys, np.int32(0), np.int32(0))
            jax.block_until_ready(outcome)
            self.compile_seconds = time.perf_counter() - began
        records: list[Record] = []
        evaluations = [self.evaluate(carry.params)] if evaluate_at else []
        step = 0
        while step < total:
            began = time.perf_counter()
            due = next((at for at in evaluate_at if at > step), total)
            drawn = self.source.draw(due - step, step, keys)
            steps = drawn.steps
            carry, outcome = self._train(
                columns, carry, drawn.data, keys, np.int32(step), np.int32(step + steps)
            )
            outcome = jax.device_get(outcome)
            seconds = time.perf_counter() - began
            step += steps
            # A copy, for the rest of it need not be kept.
            part = np.s_[:real, :, :steps]
            records.append(jax.tree.map(lambda kept, part=part: kept[part].copy(), outcome.records))
            self.seconds += seconds
            self.steps += steps
            report(self.steps, _least(np.asarray(records[-1].loss[..., -1])), steps / max(seconds, 1e-9))
            if step in evaluate_at:
                evaluations.append(self.evaluate(carry.params))
        losses, metrics, hyperparams = jax.tree.map(lambda *parts: np.concatenate(parts, -1), *records)
        said = jax.tree.map(lambda *parts: np.stack(parts, -1)[:real], *evaluations) if evaluations else {}
        runs = Runs(losses, metrics, hyperparams, said, outcome.nan[:real])
        end = carry[:2] if real == self.size else jax.tree.map(lambda leaf: leaf[:real], carry[:2])
        return runs, end

    def evaluate(self, params: Params) -> dict[str, np.ndarray]:
        assert self._evaluate is not None
        values: dict[str, np.ndarray] = jax.device_get(self._evaluate(params))
        return values


def _least(losses: np.ndarray) -> float:
    finite = losses[np.isfinite(losses)]
    return float(finite.min()) if finite.size else math.nan
