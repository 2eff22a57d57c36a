"""What a training run writes into its checkpoints, and how it is found again."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.checkpoints import Checkpoint, Checkpoints, abstract, is_hyperparam, is_key, named
from gradxform.parallel.sharding import state_sharding
from gradxform.training.batches import Batches
from gradxform.training.history import Evaluation, FitResult, History
from gradxform.transformation import GradientTransformation, Params, State
from gradxform.trees import PyTree

__all__ = ["Keeper", "find", "restore_checkpoint", "save_checkpoint"]

_SECONDS_BETWEEN = 60.0
_MOST_STEPS = 2**31 - 1


def save_checkpoint(
    directory: str | os.PathLike[str], result: FitResult, tx: GradientTransformation, *, keep: int = 3
) -> None:
    """Save a training run: parameters, state, the place in the data, random key and history.

    It returns when the checkpoint is written. To save while training goes on,
    give `fit` a ``checkpoint_dir``, or use `Checkpoints`.

    Args:
      directory: the folder of the run's checkpoints.
      result: the run; of a loop of your own, ``FitResult(params, state, History(), step, key)``.
      tx: its transformation; parts and hyperparameters are noted.
      keep: how many checkpoints stay in the folder.

    Returns:
      Nothing.

    Raises:
      ImportError: Orbax is not installed.
      ValueError: the folder has a checkpoint of this step or of a later one.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> import tempfile
      >>> tx = gx.sgd(0.1, momentum=0.9)
      >>> run = gx.fit(lambda w, batch: jnp.mean((w - batch) ** 2), 0.0, jnp.ones(4), tx, steps=5)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     gx.save_checkpoint(folder, run, tx)
      ...     again = gx.restore_checkpoint(folder, 0.0, tx)
      >>> again.step, bool(again.params == run.params), len(again.history)
      (5, True, 5)
    """
    with Checkpoints(directory, keep) as checkpoints:
        checkpoints.save(result.step, _tree(result), tx, _notes(result, None))


def restore_checkpoint(
    directory: str | os.PathLike[str],
    params: Params,
    tx: GradientTransformation,
    *,
    state: State | None = None,
    step: int | None = None,
) -> FitResult:
    """Read a training run back; `fit` takes the result in the parameters' place and goes on from it.

    Nothing in the files is executed: structure, shapes and dtypes are those of
    the code, and what does not fit them is refused.

    Args:
      directory: the folder of the run's checkpoints.
      params: parameters of the structure, shapes and dtypes that were saved;
        ``jax.ShapeDtypeStruct`` will do. Where they have a sharding, parameters
        and state come back in that layout, on any number of devices.
      tx: the transformation.
      state: what the state is to look like; by default ``tx.init(params)``, with
        every slot laid out as its parameter is.
      step: the step to go back to; by default the last one whose checkpoint is intact.

    Returns:
      The run.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ImportError: Orbax is not installed.
      ValueError: `tx` is another optimizer than the one saved, a leaf has another
        shape or dtype, or no checkpoint is intact. The message shows both sides.

    Warns:
      CheckpointWarning: newer checkpoints are damaged, or hyperparameters have
        changed; the code's are used, except for those that live in the state.

    Example:
      >>> import gradxform as gx
      >>> gx.restore_checkpoint("nowhere", 0.0, gx.sgd(0.1))
      Traceback (most recent call last):
      FileNotFoundError: there are no checkpoints in nowhere
    """
    checkpoints = Checkpoints(directory)
    checkpoint = checkpoints.latest() if step is None else checkpoints.at(step)
    if checkpoint is None:
        raise FileNotFoundError(f"there are no checkpoints in {os.fspath(directory)}")
    return _result(checkpoint, params, tx, state)


def find(
    checkpoints: Checkpoints,
    resume: bool,
    params: Params,
    tx: GradientTransformation,
    key: jax.Array | None,
    plan: Batches | None,
    start: int,
) -> FitResult | None:
    """What a `fit` of these arguments goes on from, or ``None`` if it begins.

    Raises:
      ValueError: there are checkpoints but it is not to resume, or they are of another run.
    """
    if not resume:
        if steps := checkpoints.steps():
            raise ValueError(
                f"fit: {checkpoints.directory} has checkpoints of steps {steps} already; pass resume=True to "
                "go on from them, or another checkpoint_dir to begin anew"
            )
        return None
    checkpoint = checkpoints.latest()
    if checkpoint is None:
        return None
    there, here = checkpoint.notes.get("batches"), _drawn(plan)
    if there is not None and there != here:
        raise ValueError(
            f"fit: the run in {checkpoints.directory} drew its batches by {there}, this one draws them by "
            f"{here}. To go on in another order nonetheless, pass fit what restore_checkpoint returns."
        )
    result = _result(checkpoint, params, tx)
    if result.step < start:
        raise ValueError(
            f"fit: {checkpoint.path} is from before step {start}, which this run is to start from; "
            "use another checkpoint_dir"
        )
    if key is not None and not np.array_equal(_numbers(key), _numbers(result.key)):
        raise ValueError(
            f"fit: the run in {checkpoints.directory} was made from another key; leave out key to go on "
            "with its own"
        )
    return result


class Keeper:
    """Saves a training run every so often; without checkpoints it does nothing.

    Args:
      checkpoints: where to.
      every: the number of steps between checkpoints; by default one a minute.
      tx: the transformation.
      plan: how batches are drawn.
      saved: the step that it was resumed from, if it was.

    Attributes:
      resumed: whether it was resumed.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        every: int | None,
        tx: GradientTransformation,
        plan: Batches | None,
        saved: int | None,
    ) -> None:
        if checkpoints is not None and every is None and jax.process_count() > 1:
            raise ValueError("fit: pass checkpoint_every, because the clocks of several hosts do not agree")
        self._checkpoints, self._every, self._tx, self._plan = checkpoints, every, tx, plan
        self._saved, self.resumed = saved, saved is not None
        self._time = time.monotonic()

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *error: object) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()

    def until(self, step: int) -> int:
        """The step that comes to be saved next after this one."""
        if self._checkpoints is None or self._every is None:
            return _MOST_STEPS
        return (step // self._every + 1) * self._every

    def due(self, step: int) -> bool:
        """Whether this step is to be saved."""
        if self._checkpoints is None or step == self._saved:
            return False
        if self._every is None:
            return time.monotonic() - self._time >= _SECONDS_BETWEEN
        return step % self._every == 0

    def save(self, result: FitResult) -> None:
        """Save the run as it is, unless that is done already."""
        if self._checkpoints is not None and result.step != self._saved:
            notes = _notes(result, self._plan)
            self._checkpoints.save(result.step, _tree(result), self._tx, notes)
            self._saved, self._time = result.step, time.monotonic()


def _tree(result: FitResult) -> dict[str, PyTree]:
    """The arrays of a run."""
    history = result.history
    of_steps = {
        "loss": history.loss,
        "seconds": history.seconds,
        "metrics": dict(history.metrics),
        "hyperparams": dict(history.hyperparams),
    }
    return {"params": result.params, "state": result.state, "key": result.key, "history": of_steps}


def _notes(result: FitResult, plan: Batches | None) -> dict[str, Any]:
    """All else of a run, and what its history and key look like."""
    history, key = result.history, result.key
    return {
        "stopped": result.stopped,
        "interrupted": result.interrupted,
        "batches": _drawn(plan),
        "key": str(jax.random.key_impl(key)) if is_key(key) else list(key.shape),
        "history": {
            "start": history.start,
            "steps": len(history),
            "dtypes": jax.tree.map(lambda values: str(values.dtype), _tree(result)["history"]),
            "evaluations": [list(evaluation) for evaluation in history.evaluations],
        },
    }


def _drawn(plan: Batches | None) -> dict[str, Any] | None:
    return None if plan is None else asdict(plan)


def _result(
    checkpoint: Checkpoint, params: Params, tx: GradientTransformation, state: State | None = None
) -> FitResult:
    """The run in a checkpoint."""
    notes = checkpoint.notes
    if "history" not in notes:
        raise ValueError(
            f"{checkpoint.path} is not the checkpoint of a training run, as fit and save_checkpoint write "
            "it; read it with Checkpoints"
        )
    known, key = notes["history"], notes["key"]
    params = jax.tree.map(abstract, params)
    like = {
        "params": params,
        "state": _state(checkpoint, params, tx, state),
        "key": jax.random.key(0, impl=key) if isinstance(key, str) else jax.ShapeDtypeStruct(key, np.uint32),
        # NumPy's, because they are not trained; this one zero fills them all.
        "history": jax.tree.map(
            lambda dtype: np.broadcast_to(np.zeros((), dtype), known["steps"]), known["dtypes"]
        ),
    }
    tree = checkpoint.restore(like, tx)
    evaluations = tuple(Evaluation(step, seconds, values) for step, seconds, values in known["evaluations"])
    history = History(**tree["history"], evaluations=evaluations, start=known["start"])
    return FitResult(
        tree["params"],
        tree["state"],
        history,
        checkpoint.step,
        tree["key"],
        interrupted=notes["interrupted"],
        stopped=notes["stopped"],
    )


def _state(checkpoint: Checkpoint, params: Params, tx: GradientTransformation, state: State | None) -> State:
    """What the state is to look like; a hyperparameter that the file lacks is there as it begins."""
    if state is None:
        state = jax.eval_shape(tx.init, jax.tree.map(_placed, params))
        if any(leaf.sharding is not None for leaf in jax.tree.leaves(params)):
            state = jax.tree.map(_placed, state, state_sharding(tx, params))

    def lacking(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: leaf for name, leaf in named(tree).items() if is_hyperparam(name) and name not in checkpoint
        }

    if not lacking({"state": state}):
        return state
    # All else of the state is of no use here, and so it is not computed.
    values = jax.jit(lambda: lacking({"state": tx.init(jax.tree.map(_zeros, params))}))()
    leaves = [values.get(name, leaf) for name, leaf in named({"state": state}).items()]
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def _placed(leaf: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _zeros(leaf: Any) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype)


def _numbers(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(key) if is_key(key) else key)
