"""The training loop: compiled in calls of a few hundred steps, with the host in between."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain, islice, repeat
from typing import Any, Literal, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh

from gradxform.checkpoints import Checkpoints
from gradxform.training.batches import batches
from gradxform.training.checkpointing import Keeper, find
from gradxform.training.history import (
    Evaluation,
    FitResult,
    History,
    NonFiniteError,
    Snapshot,
    StopTraining,
    owned,
)
from gradxform.training.placement import OneDevice, OnMesh
from gradxform.training.program import Carry, Guard, Outcome, Program, Record, program
from gradxform.training.progress import progress_bar
from gradxform.training.sources import Drawn, Rows, Stream, is_stream
from gradxform.transformation import GradientTransformation, Params, State
from gradxform.trees import PyTree, check_all_inexact, tree_bytes

__all__ = ["fit"]

_STEPS_PER_CALL = 512
_BATCHES_PER_CALL = 64
_SECONDS_PER_CALL = 0.25
_STEPS_BETWEEN_EVALUATIONS = 100
_MOST_STEPS = 2**31 - 1

_KEEP_BELOW = 64 * 2**20
"""Bytes of parameters and state up to which those of the last call are kept, to go back to."""


def fit(
    loss_fn: Callable[..., Any],
    params: Params | FitResult,
    data: PyTree,
    tx: GradientTransformation,
    *,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    key: jax.Array | int | None = None,
    state: State | None = None,
    start: int = 0,
    replacement: bool = False,
    drop_last: bool = False,
    evaluate: Callable[[Params], dict[str, Any]] | None = None,
    evaluate_every: int | None = None,
    callbacks: Sequence[Callable[[Snapshot], bool | None]] = (),
    progress: Any = None,
    on_nonfinite: Literal["raise", "continue"] = "raise",
    steps_per_call: int | None = None,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
    resume: bool = False,
    mesh: Mesh | None = None,
    data_axis: str | Sequence[str] | None = None,
) -> FitResult:
    r"""Train: draw a batch :math:`B`, let `tx` make :math:`w \leftarrow w + u(\nabla J_B(w))`, and repeat.

    With ``sgd`` and the whole data set this is gradient descent, with
    ``batch_size=1`` stochastic gradient descent, with more mini-batch gradient
    descent. The loop is compiled, up to a few hundred steps a call, and a
    second `fit` with the same functions and shapes compiles nothing.

    The same key gives the same result to the bit, and so does a run that is
    ended and gone on with, be it in the midst of an epoch: pass its result in
    the place of `params`.

    Args:
      loss_fn: ``loss_fn(params, batch)``, or ``loss_fn(params, batch, key)``
        with an argument called `key`, such as for dropout. It returns a scalar
        loss, or ``(loss, metrics)`` with a dictionary of scalars.
      params: a pytree of floating-point or complex arrays, which is left as it
        is; or the `FitResult` to go on from.
      data: a pytree of arrays with one row an example; or an iterator,
        generator or loader of batches.
      tx: the transformation, of any library.
      batch_size: the number of examples in a batch; by default all of them.
      epochs: how many times to go through the data, from here on.
      steps: how many steps to take, from here on, instead. An iterator needs
        neither: it may end by itself.
      key: a random key, or a number to make one from; by default 0.
      state: the transformation's state to start from; by default its `init`.
      start: the number of steps taken before, where `params` and `state` come
        from elsewhere; it sets where in which epoch the data is gone on with.
      replacement: whether to draw every example independently of the others.
      drop_last: whether to leave out the short batch at an epoch's end.
      evaluate: ``evaluate(params)`` -> a dictionary of scalars; called at
        the start, every so often and at the end.
      evaluate_every: the number of steps between evaluations and between calls
        of the callbacks; by default an epoch, or as many as make 100 steps.
      callbacks: each is called with a `Snapshot` after every evaluation; one
        that returns ``True`` or raises `StopTraining` ends the training.
      progress: whether to draw a progress bar; by default where there is a
        terminal and rich. A ``rich.console.Console`` says where.
      on_nonfinite: what to do about a loss that is not finite.
      steps_per_call: the most steps in a compiled call, by default 512, and 64
        for batches from an iterator. With 1 each arriving batch is learned
        from at once.
      value_and_grad: what takes the gradients, called as
        ``value_and_grad(fun, has_aux=True)``:
        `gradxform.sparse_value_and_grad` for large embedding tables, or a
        `functools.partial` of it, kept for the next `fit`.
      checkpoint_dir: a folder to save the run into, every so often and at the
        end, while training goes on.
      checkpoint_every: the number of steps between checkpoints; by default one
        is made every minute.
      keep: how many checkpoints to keep.
      resume: whether to go on from the last checkpoint, if there is one, as if
        nothing had happened: `epochs` and `steps` count from where the run
        began, and an iterator has to begin there too. A run that is at its end
        is returned as it is.
      mesh: the devices to train on, as `jax.make_mesh` makes it; the result is
        that of one device but for rounding. Each takes its part of every batch.
        Parameters that come laid out on the mesh stay so, and their slots with
        them; others are whole on each device, and so is a data set, of which
        batches are drawn. Of several processes, an iterator gives each the
        examples for its own devices; all else is the same in all of them.
      data_axis: the name of the mesh's axis to split batches over, or names; by
        default the first.

    Returns:
      A `FitResult`: parameters, state and history. Ctrl-C ends the training
      and returns what there is, `interrupted` set.

    Raises:
      NonFiniteError: a loss was not finite; the message names step and batch,
        the error's `result` holds everything from before.
      TypeError: the loss is no real scalar, or a parameter no floating-point
        array.
      ValueError: arguments are out of their bounds or do not go together; or
        the folder has checkpoints, which it is not to resume from or which are of
        another optimizer, model or order of the data.

    Warns:
      CheckpointWarning: the last checkpoint is damaged, and the one before it is
        gone on from; or hyperparameters have changed since.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> from gradxform.training import fit
      >>> x = jnp.linspace(-1.0, 1.0, 32)
      >>> def loss(params, batch):
      ...     return jnp.mean((params["w"] * batch["x"] - batch["y"]) ** 2)
      >>> result = fit(loss, {"w": 0.0}, {"x": x, "y": 3 * x}, gx.sgd(0.5), batch_size=4, epochs=10)
      >>> result.step, round(float(result.params["w"]), 3)
      (80, 3.0)
    """
    if not callable(loss_fn):
        raise TypeError(f"fit: loss_fn must be a function, got {type(loss_fn).__name__}")
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise TypeError(f"fit: tx must be a transformation with init and update, got {type(tx).__name__}")
    if not callable(value_and_grad):
        raise TypeError(
            f"fit: value_and_grad must be a function like jax.value_and_grad, got {value_and_grad!r}"
        )
    if on_nonfinite not in ("raise", "continue"):
        raise ValueError(f"fit: on_nonfinite must be 'raise' or 'continue', got {on_nonfinite!r}")
    for name, value, least in [
        ("epochs", epochs, 0),
        ("steps", steps, 0),
        ("start", start, 0),
        ("evaluate_every", evaluate_every, 1),
        ("steps_per_call", steps_per_call, 1),
        ("checkpoint_every", checkpoint_every, 1),
    ]:
        _check_count(name, value, least)
    if epochs is not None and steps is not None:
        raise ValueError(f"fit: pass epochs or steps, not both; got epochs={epochs} and steps={steps}")
    if mesh is None and data_axis is not None:
        raise ValueError(f"fit: data_axis={data_axis!r} is an axis of a mesh; pass mesh=...")
    place = OneDevice() if mesh is None else OnMesh(mesh, data_axis)
    if checkpoint_dir is None and (resume or checkpoint_every is not None):
        raise ValueError("fit: pass checkpoint_dir=..., to say where the checkpoints are")

    source: Rows | Stream
    if is_stream(data):
        if batch_size is not None or replacement or drop_last:
            raise ValueError(
                "fit: batch_size, replacement and drop_last are for data in arrays; "
                "an iterator makes its own batches"
            )
        source = Stream(data, 1 if epochs is None else epochs, steps_per_call or _BATCHES_PER_CALL)
        total, epoch = steps, 1
    else:
        if epochs is None and steps is None:
            raise ValueError("fit: pass epochs=... or steps=..., to say how long to train")
        plan = batches(data, batch_size, replacement=replacement, drop_last=drop_last)
        source = Rows(place.data(data, plan), plan, steps_per_call or _STEPS_PER_CALL)
        epoch = plan.steps_per_epoch
        total = steps if epochs is None else epochs * epoch

    key = key if key is None or isinstance(key, jax.Array) else jax.random.key(key)
    before = None
    if isinstance(params, FitResult):
        if state is not None or start or key is not None:
            raise ValueError(
                "fit: a FitResult brings its own state, start and key; pass none of them with it"
            )
        before = params
        params, start, key = before.params, before.step, before.key
    if start + (total or 0) > _MOST_STEPS:
        raise ValueError(f"fit: steps are counted up to {_MOST_STEPS}, got {start} + {total}")
    checkpoints = None if checkpoint_dir is None else Checkpoints(checkpoint_dir, keep)
    found = (
        None
        if checkpoints is None
        else find(checkpoints, resume, place.like(params), tx, key, source.plan, start)
    )
    if found is not None:
        if found.stopped:
            return found
        done, before = found.step - start, found
        total = None if total is None else max(0, total - done)
        if isinstance(source, Stream):
            later = islice(chain.from_iterable(repeat(data, 1 if epochs is None else epochs)), done, None)
            source = Stream(later, 1, steps_per_call or _BATCHES_PER_CALL)
    history = None
    if before is not None:
        params, state, start, key, history = (
            before.params,
            before.state,
            before.step,
            before.key,
            before.history,
        )
    check_all_inexact(params, root="params", who="fit")
    params = place.params(params)
    run = _Run(
        loss_fn,
        tx,
        source,
        place,
        params,
        place.state(tx, params, state),
        place.whole(jax.random.key(0) if key is None else key),
        History(start=start) if history is None else history,
        start,
        value_and_grad,
        raises=on_nonfinite == "raise",
    )
    if evaluate is None and not callbacks:
        every = _MOST_STEPS
    else:
        every = evaluate_every or epoch * math.ceil(_STEPS_BETWEEN_EVALUATIONS / epoch)
    saved = None if found is None else found.step
    watched = place.watching(lambda: run.step)
    with watched, Keeper(checkpoints, checkpoint_every, tx, source.plan, saved) as keeper:
        return run.train(total, every, evaluate, callbacks, progress, keeper)


def _check_count(name: str, value: Any, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"fit: {name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"fit: {name} must be at least {least}, got {value}")


class _Run:
    """A training run between its compiled calls."""

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        tx: GradientTransformation,
        source: Rows | Stream,
        place: OneDevice,
        params: Params,
        state: State,
        key: jax.Array,
        before: History,
        start: int,
        value_and_grad: Callable[..., Any],
        *,
        raises: bool,
    ) -> None:
        self.source, self.place, self.key, self.before = source, place, key, before
        self.start = self.step = start
        self.carry = Carry(params, state)
        layout = place.layout(self.carry)
        self.guard: Guard = "off"
        if raises:
            self.guard = "replay" if tree_bytes(self.carry) <= _KEEP_BELOW else "hold"
        self.program = cache(
            lambda length: program(loss_fn, tx, source.plan, length, self.guard, value_and_grad, layout)
        )
        self.compiled: set[Any] = set()
        self.records: list[Record] = []
        self.times: list[np.ndarray] = []
        self.evaluations: list[Evaluation] = []
        self.seconds = float(before.seconds[-1]) if len(before) else 0.0
        self.compile_seconds = 0.0
        self.rate = 0.0  # steps a second in the last call
        # Steps in the next call: few, until it is known how long they take. Clocks of several hosts differ.
        self.pace = _MOST_STEPS if place.together else 16

    def train(
        self,
        total: int | None,
        every: int,
        evaluate: Callable[[Params], dict[str, Any]] | None,
        callbacks: Sequence[Callable[[Snapshot], bool | None]],
        progress: Any,
        keeper: Keeper,
    ) -> FitResult:
        end = _MOST_STEPS if total is None else self.start + total
        stopped = interrupted = False
        try:
            with progress_bar(progress if jax.process_index() == 0 else False, total) as report:
                if evaluate is not None and not keeper.resumed:
                    self.evaluate(evaluate)
                told = self.step
                while self.step < end and not stopped:
                    due = min(end, (self.step // every + 1) * every)
                    if not self.advance(min(due, keeper.until(self.step)) - self.step):
                        break
                    report(self.step - self.start, float(self.records[-1].loss[-1]), self.rate)
                    if self.step == due:
                        told, stopped = due, self.consult(evaluate, callbacks)
                    if keeper.due(self.step):
                        with _undisturbed():
                            keeper.save(self.result(stopped=stopped))
                if self.step != told:  # a stream that ended
                    stopped = self.consult(evaluate, callbacks)
        except KeyboardInterrupt:
            if any(leaf.is_deleted() for leaf in jax.tree.leaves(self.carry)):
                raise
            interrupted = True
        if not self.records and end > self.start and not interrupted and not keeper.resumed:
            raise ValueError("fit: the iterator has no batches (was it gone through before?)")
        result = self.result(interrupted=interrupted, stopped=stopped)
        if self.records:
            keeper.save(result)
        return result

    def advance(self, most: int) -> bool:
        """Train for as many steps as one call is to take, at most `most`; whether there was anything left."""
        began = time.perf_counter()
        drawn = self.place.drawn(self.source.draw(min(most, self.pace), self.step, self.key))
        if drawn is None:
            return False
        run = self.program(drawn.length)
        if drawn.signature not in self.compiled:
            # A call of no steps compiles, and finds what is wrong with the loss before anything is trained.
            compiling = time.perf_counter()
            self.carry, outcome = self.call(run, drawn, self.step)
            outcome.step.block_until_ready()
            self.compiled.add(drawn.signature)
            self.compile_seconds += time.perf_counter() - compiling
            began += time.perf_counter() - compiling
        with _undisturbed():
            held = self.carry
            self.carry, outcome = self.call(run, drawn, self.step + drawn.steps)
            outcome = jax.device_get(outcome)
            seconds = time.perf_counter() - began
            if self.guard != "off" and (not outcome.finite or outcome.nan):
                self.fail(run, drawn, held, outcome, seconds)
            self.remember(outcome, seconds)
        return True

    def call(self, run: Program, drawn: Drawn, stop: int) -> tuple[Carry, Outcome]:
        return run(self.carry, drawn.data, self.key, np.int32(self.step), np.int32(stop))

    def remember(self, outcome: Outcome, seconds: float) -> None:
        """Keep the records of a call, and choose the next one's steps by how long it took."""
        count = int(outcome.step) - self.step
        if not count:
            return
        self.records.append(jax.tree.map(lambda values: values[:count], outcome.records))
        self.times.append(self.seconds + seconds * np.arange(1, count + 1) / count)
        self.step += count
        self.seconds += seconds
        self.rate = count / max(seconds, 1e-9)
        if not self.place.together:
            self.pace = max(1, int(self.rate * _SECONDS_PER_CALL))

    def fail(self, run: Program, drawn: Drawn, held: Carry, outcome: Outcome, seconds: float) -> NoReturn:
        """Raise the error for a call in which a loss or a parameter became not finite."""
        first = self.step
        culprit = int(outcome.step) - bool(outcome.finite)
        good = outcome
        if self.guard == "replay":
            # Take the steps before it again. A NaN even there is the work of the one before.
            for stop, suspect in ((culprit, culprit), (culprit - 1, culprit - 1), (first, culprit - 1)):
                if stop >= first:
                    self.carry, culprit = held, max(first, suspect)
                    self.carry, good = self.call(run, drawn, stop)
                    if not good.nan:
                        break
        self.remember(jax.device_get(good), seconds)
        loss = float(outcome.records.loss[culprit - first])
        batch, what = self.source.batch(drawn, self.key, culprit, culprit - first)
        happened = (
            f"the update of step {culprit} made parameters that are not numbers (its loss was {loss:.6g})"
            if math.isfinite(loss)
            else f"the loss of step {culprit} is {loss}"
        )
        raise NonFiniteError(
            f"fit: {happened}; the step's batch {what}. This error's `result` has everything from before "
            "that step. Lower the learning rate, clip the gradients, or look at these examples; "
            "on_nonfinite='continue' goes on regardless.",
            culprit,
            loss,
            batch,
            self.result(),
        )

    def evaluate(self, evaluate: Callable[[Params], dict[str, Any]]) -> dict[str, float]:
        """What `evaluate` says now; it is asked once a step at most."""
        latest = [*self.before.evaluations, *self.evaluations][-1:]
        if latest and latest[0].step == self.step:
            return latest[0].values
        values = evaluate(owned(self.carry.params))
        if not isinstance(values, dict):
            raise TypeError(
                "fit: evaluate must return a dictionary from name to scalar, "
                f"it returned {type(values).__name__}"
            )
        numbers = {name: float(value) for name, value in values.items()}
        self.evaluations.append(Evaluation(self.step, self.seconds, numbers))
        return numbers

    def consult(
        self,
        evaluate: Callable[[Params], dict[str, Any]] | None,
        callbacks: Sequence[Callable[[Snapshot], bool | None]],
    ) -> bool:
        """Evaluate and call the callbacks; whether one of them ends the training."""
        evaluation = {} if evaluate is None else self.evaluate(evaluate)
        latest = self.records[-1]
        snapshot = Snapshot(
            self.step,
            self.seconds,
            float(latest.loss[-1]),
            {name: float(values[-1]) for name, values in latest.metrics.items()},
            {name: float(values[-1]) for name, values in latest.hyperparams.items()},
            evaluation,
            (self.carry.params, self.carry.state),
        )
        try:
            answers = [callback(snapshot) for callback in callbacks]  # all of them are told
        except StopTraining:
            return True
        return any(answers)

    def result(self, *, interrupted: bool = False, stopped: bool = False) -> FitResult:
        if self.records:
            records = jax.tree.map(lambda *parts: np.concatenate(parts), *self.records)
            times = np.concatenate(self.times)
            history = History(
                records.loss, records.metrics, records.hyperparams, times, tuple(self.evaluations), self.start
            )
        else:
            history = History(evaluations=tuple(self.evaluations), start=self.start)
        return FitResult(
            self.carry.params,
            self.carry.state,
            self.before.then(history),
            self.step,
            self.key,
            interrupted,
            stopped,
            self.compile_seconds,
        )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait for what is done within, so that nothing of it is lost; pressed twice it does not."""
    waiting = False

    def note(number: int, frame: Any) -> None:
        nonlocal waiting
        if waiting:
            raise KeyboardInterrupt
        waiting = True

    usual = signal.default_int_handler
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not usual
    ):
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if waiting:
        raise KeyboardInterrupt
