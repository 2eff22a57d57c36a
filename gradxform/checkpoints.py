"""A folder of checkpoints: trees of arrays that are written whole or not at all, and read only when intact.

Orbax writes the arrays, in the background and under another name until all of them are there. It does not
notice a bit that has flipped in a file since, so beside them stands the checksum of every file. And it
knows trees only, so beside them stands what the state belongs to: the parts of its optimizer.
"""

import hashlib
import importlib
import os
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from gradxform.describe import describe
from gradxform.hyperparams import show
from gradxform.transformation import GradientTransformation
from gradxform.trees import PyTree

__all__ = ["Checkpoint", "CheckpointWarning", "Checkpoints"]

_SUMS = "sha256sums"
_UNSUMMED = {_SUMS, "_CHECKPOINT_METADATA", "commit_success.txt"}
"""What stands in a checkpoint without a checksum: times that Orbax notes last of all, and reads no more."""

_UNFINISHED = ".orbax-checkpoint-tmp"
_DELETED = "deleted"
_REFUSED = ".refused"

_STEP = re.compile(r"0|[1-9]\d*")

_FORMAT = 1

# Where a lift's state holds hyperparameters: the code may make others of them than it once did.
_HYPERPARAM = re.compile(r"\.(tunables|scheduled)\['")


class CheckpointWarning(UserWarning):
    """A checkpoint was passed over because it is damaged, or is gone on from with other hyperparameters."""


class Checkpoints:
    """A folder with the checkpoints of a training run, of which the last few are kept.

    Saving returns as soon as the arrays are copied; they are written in the
    background. Whatever happens meanwhile, be it that the process is killed,
    a checkpoint is there whole or not at all. Use it in a ``with`` statement,
    or call `close` at the end.

    Args:
      directory: the folder; it is made when something is saved.
      keep: how many checkpoints to keep; older ones are deleted.

    Raises:
      ImportError: Orbax is not installed.
      ValueError: `keep` is less than 1.

    Example:
      >>> import gradxform as gx
      >>> import jax, tempfile
      >>> tx = gx.adam(0.1)
      >>> params = {"w": jax.numpy.ones(3)}
      >>> like = {"params": params, "state": jax.eval_shape(tx.init, params)}
      >>> with tempfile.TemporaryDirectory() as folder, gx.Checkpoints(folder, keep=2) as checkpoints:
      ...     for step in range(3):
      ...         checkpoints.save(step, {"params": params, "state": tx.init(params)}, tx)
      ...     checkpoints.wait()
      ...     latest = checkpoints.latest()
      ...     checkpoints.steps(), latest.step, latest.restore(like, tx)["params"]["w"].tolist()
      ([1, 2], 2, [1.0, 1.0, 1.0])
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 3) -> None:
        _orbax()  # a missing library is told before anything is trained
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"Checkpoints: keep must be an integer of at least 1, got {keep!r}")
        # Orbax's own kind of path, which knows the addresses of cloud storage too.
        self.directory = importlib.import_module("etils.epath").Path(directory).absolute()
        self.keep = keep
        self._manager: Any = None
        self._saving = ""

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, in order; one that is being written is not among them."""
        if not self.directory.exists():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if _STEP.fullmatch(path.name))

    def save(
        self,
        step: int,
        tree: dict[str, PyTree],
        tx: GradientTransformation | None = None,
        notes: dict[str, Any] | None = None,
    ) -> None:
        """Save arrays; they may be donated or overwritten as soon as this returns.

        Args:
          step: the number of the step that they are from.
          tree: name to pytree of arrays: ``{"params": params, "state": state}``.
          tx: the transformation that a state in `tree` belongs to.
          notes: what else to remember: numbers, strings, lists and dictionaries.

        Raises:
          TypeError: a leaf is no array; the message names its path.
          ValueError: the folder has a checkpoint of this step or of a later one.
          OSError: the last checkpoint could not be written.
        """
        ocp = _orbax()
        self.wait()
        self._make_way(step)
        leaves, arrays = [], {}
        for index, (name, leaf) in enumerate(named(tree).items()):
            array = _plain(name, leaf)
            kind = {"dtype": str(_dtype(leaf)), "shape": list(np.shape(leaf))}
            random = {"random": str(jax.random.key_impl(leaf))} if is_key(leaf) else {}
            leaves.append({"name": name, **kind, **random})
            if np.size(array):  # Orbax writes no empty arrays, and their shape says all
                arrays[str(index)] = array
        written = {
            "format": _FORMAT,
            "leaves": leaves,
            "optimizer": None if tx is None else _identity(tx),
            "notes": notes or {},
        }
        if self._manager is None:
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=ocp.checkpoint_managers.LatestN(self.keep),
                    cleanup_tmp_directories=True,
                    todelete_subdir=_DELETED,  # so that none is ever half deleted
                    async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                ),
            )
        self._saving = str(step)
        args = {"metadata": ocp.args.JsonSave(written), "arrays": ocp.args.PyTreeSave(arrays)}
        self._manager.save(step, args=ocp.args.Composite(**args), force=True)

    def at(self, step: int) -> "Checkpoint":
        """The checkpoint of a step.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is damaged; the message names its path.
        """
        path = self.directory / str(step)
        if not path.exists():
            raise FileNotFoundError(f"there is no checkpoint {path}; there are those of steps {self.steps()}")
        if damage := _damage(path):
            raise ValueError(f"the checkpoint {path} is damaged: {damage}")
        return Checkpoint(step, path)

    def latest(self) -> "Checkpoint | None":
        """The newest checkpoint that is intact, or ``None`` where there are no checkpoints.

        Raises:
          ValueError: all of them are damaged; the message names their paths.

        Warns:
          CheckpointWarning: newer ones are damaged; the message names their paths.
        """
        damaged = []
        for step in reversed(self.steps()):
            try:
                found = self.at(step)
            except ValueError as error:
                damaged.append(str(error))
                continue
            for message in damaged:
                warnings.warn(f"{message}; that of step {step} is used", CheckpointWarning, stacklevel=2)
            return found
        if damaged:
            raise ValueError("\n".join(["no checkpoint is intact:", *damaged]))
        return None

    def wait(self) -> None:
        """Wait until what was saved is written.

        Raises:
          OSError: it could not be written.
        """
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is written, and let go of the folder; saving opens it again."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            manager.close()
            self._empty()

    def _make_way(self, step: int) -> None:
        """What is saved is to be the newest: damaged checkpoints that are newer are set aside."""
        for later in self.steps():
            if later < step:
                continue
            path = self.directory / str(later)
            if not _damage(path):
                raise ValueError(
                    f"save: the checkpoint {path} is in the way of one of step {step}; go on from it, "
                    "delete it, or save into another folder"
                )
            if jax.process_index() == 0:
                aside = self.directory / f"{later}{_REFUSED}"
                if aside.exists():
                    aside.rmtree()
                path.rename(aside)

    def _seal(self) -> None:
        """Write the checksums: the last thing before a checkpoint gets its name."""
        (path,) = self.directory.glob(f"{self._saving}{_UNFINISHED}*")
        (path / _SUMS).write_text(_sums(path))
        self._empty()

    def _empty(self) -> None:
        if jax.process_index() == 0 and (self.directory / _DELETED).exists():
            (self.directory / _DELETED).rmtree()


class Checkpoint:
    """An intact checkpoint; found by `Checkpoints.latest` and `Checkpoints.at`.

    Attributes:
      step: the step that it is from.
      path: its folder.
      notes: what was noted with it.
    """

    def __init__(self, step: int, path: Any) -> None:
        ocp = _orbax()
        self.step, self.path = step, path
        written = self._read(metadata=ocp.args.JsonRestore())["metadata"]
        if written["format"] != _FORMAT:
            raise ValueError(
                f"the checkpoint {path} has format {written['format']}, of which this version of gradxform "
                f"knows nothing; it reads format {_FORMAT}"
            )
        self.notes: dict[str, Any] = written["notes"]
        self._leaves: dict[str, dict[str, Any]] = {leaf["name"]: leaf for leaf in written["leaves"]}
        self._optimizer: dict[str, Any] | None = written["optimizer"]

    def __contains__(self, name: str) -> bool:
        """Whether it has a leaf of that path, such as ``state.tunables['learning_rate']``."""
        return name in self._leaves

    def restore(self, like: dict[str, PyTree], tx: GradientTransformation | None = None) -> dict[str, PyTree]:
        """Read arrays into the structure that the code says, in which nothing of the file is executed.

        Args:
          like: name to pytree, as it was saved; only these are read. Their
            leaves are arrays, or ``jax.ShapeDtypeStruct`` to say shape and dtype.
            Where one has a sharding, the array is laid out in that way, whatever
            the devices were that it was saved from. NumPy's arrays become such again.
          tx: the transformation, to be compared with the one that it was saved with.

        Returns:
          A dictionary like `like`.

        Raises:
          ValueError: `tx` is another optimizer than the one it was saved with, or a
            leaf is missing or of another shape or dtype. The message shows both.

        Warns:
          CheckpointWarning: `tx` has other hyperparameters. Those that live in
            the state are restored, all others are the code's.
        """
        if tx is not None:
            self._compare(tx)
        wanted = named(like)
        self._check(wanted, list(like))
        arrays = self._arrays(wanted)

        def restored(name: str, leaf: Any) -> Any:
            if name not in self._leaves:
                return leaf  # a hyperparameter that the code has put into the state since
            array = arrays[name] if name in arrays else np.zeros(np.shape(leaf), _dtype(leaf))
            if isinstance(leaf, np.ndarray) or isinstance(array, jax.Array):
                return array
            if not is_key(leaf):
                return jnp.asarray(array)
            keys = jax.random.wrap_key_data(jnp.asarray(array), impl=self._leaves[name]["random"])
            sharding = abstract(leaf).sharding
            return keys if sharding is None else jax.device_put(keys, sharding)

        leaves = [restored(name, leaf) for name, leaf in wanted.items()]
        tree: dict[str, PyTree] = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return tree

    def _read(self, **args: Any) -> Any:
        ocp = _orbax()
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            return reader.restore(self.path, args=ocp.args.Composite(**args))

    def _arrays(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The arrays that were written, by name: sharded as the leaf says, or NumPy's."""
        ocp = _orbax()

        def how(leaf: Any) -> Any:
            sharding = abstract(leaf).sharding
            if sharding is None or is_key(leaf):
                return ocp.RestoreArgs(restore_type=np.ndarray)
            return ocp.ArrayRestoreArgs(sharding=sharding)

        number = {name: str(index) for index, name in enumerate(self._leaves)}
        read = {number[name]: how(leaf) for name, leaf in wanted.items() if name in number and np.size(leaf)}
        if not read:
            return {}
        args = ocp.args.PyTreeRestore(item=dict.fromkeys(read, 0), restore_args=read, partial_restore=True)
        arrays = self._read(arrays=args)["arrays"]
        return {name: arrays[number[name]] for name in wanted if number.get(name) in arrays}

    def _check(self, wanted: dict[str, Any], parts: Iterable[str]) -> None:
        """Raise where what is wanted and what is stored are not the same leaves."""
        stored = [name for name in self._leaves if re.split(r"[.\[<]", name)[0] in parts]
        lines = [f"  {name} is not in the checkpoint" for name in wanted if name not in self._leaves]
        lines += [f"  {name} is in the checkpoint alone" for name in stored if name not in wanted]
        lines = [line for line in lines if not is_hyperparam(line)]
        if lines:
            shown = lines[:8] + [f"  and {len(lines) - 8} more"] * (len(lines) > 8)
            raise ValueError("\n".join([f"restore: {self.path} has other leaves than the code:", *shown]))
        for name, leaf in wanted.items():
            known = self._leaves.get(name, {"dtype": str(_dtype(leaf)), "shape": np.shape(leaf)})
            there = f"{known['dtype']}{list(known['shape'])}"
            here = f"{_dtype(leaf)}{list(np.shape(leaf))}"
            if there != here:
                raise ValueError(
                    f"restore: {name} is {there} in the checkpoint {self.path}, and {here} in the code; "
                    "use the model and the optimizer that it was saved with"
                )

    def _compare(self, tx: GradientTransformation) -> None:
        """Raise if `tx` is another optimizer than the one saved with, and tell of other hyperparameters."""
        there, here = self._optimizer, _identity(tx)
        if there is None:
            raise ValueError(f"restore: {self.path} was saved without a transformation to compare with")
        pairs = list(zip_longest(there["parts"], here["parts"]))
        differs = [old is None or new is None or _kind_of(old) != _kind_of(new) for old, new in pairs]
        if any(differs):
            first = differs.index(True)

            def lines(parts: list[dict[str, Any]]) -> list[str]:
                calls = [part["call"] for part in parts] + ["(nothing)"] * (len(parts) <= first)
                return [f"{'→' if index == first else ' '} {call}" for index, call in enumerate(calls)]

            raise ValueError(
                "\n".join(
                    [
                        f"restore: the checkpoint {self.path} is of another optimizer than the code's; "
                        f"part {first + 1} differs (→).",
                        f"The checkpoint's, written by gradxform {there['version']}:",
                        *lines(there["parts"]),
                        "The code's:",
                        *lines(here["parts"]),
                    ]
                )
            )
        changed = [f"  {old['call']} → {new['call']}" for old, new in pairs if old["call"] != new["call"]]
        for name, old in there["constants"].items():
            new = here["constants"].get(name, old)
            if old != new and show(old) == show(new):  # too near for the calls to differ
                changed.append(f"  {name}: {old!r} → {new!r}")
        if changed:
            told = f"the optimizer's hyperparameters are others than when {self.path} was saved:"
            rest = "The code's are used; tunables keep their values from the checkpoint."
            warnings.warn("\n".join([told, *changed, rest]), CheckpointWarning, stacklevel=3)


def _orbax() -> Any:
    try:
        return importlib.import_module("orbax.checkpoint")
    except ImportError as error:
        raise ImportError(
            "checkpoints are written by Orbax, which is not installed: pip install 'gradxform[checkpoint]'"
        ) from error


def named(tree: Mapping[str, PyTree]) -> dict[str, Any]:
    """Every leaf by its path, written as one would index it: ``params['dense']['kernel']``."""
    with_path, _ = tree_flatten_with_path(tree)
    return {f"{path[0].key}{keystr(path[1:])}": leaf for path, leaf in with_path}


def is_hyperparam(name: str) -> bool:
    """Whether a leaf of that path is a hyperparameter in a lift's state."""
    return _HYPERPARAM.search(name) is not None


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a random key with a type of its own."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """A leaf's shape, dtype and sharding; an array that lies where it happens to has no sharding."""
    happens_to = isinstance(leaf, jax.Array) and not leaf.committed
    sharding = None if happens_to else getattr(leaf, "sharding", None)
    return jax.ShapeDtypeStruct(np.shape(leaf), _dtype(leaf), sharding=sharding)


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _plain(name: str, leaf: Any) -> Any:
    """The array that is written in a leaf's place."""
    if is_key(leaf):
        return jax.random.key_data(leaf)
    try:
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, _dtype(leaf))
    except TypeError:
        array = None
    if array is None or not (array.dtype == bool or jnp.issubdtype(array.dtype, np.number)):
        raise TypeError(f"save: {name} must be an array of numbers, got {leaf!r}")
    return array


def _identity(tx: GradientTransformation) -> dict[str, Any]:
    """What one may know of an optimizer: it is compared when a checkpoint is read."""
    from gradxform import __version__

    constants: list[tuple[str, str, Any]] = getattr(tx, "constants", list)()
    return {
        "version": __version__,
        "parts": [
            {"call": part.call.strip(), "equation": part.equation, "remembers": list(part.remembers)}
            for part in describe(tx).parts
        ],
        "constants": {f"{path}.{name}".lstrip("."): _constant(value) for path, name, value in constants},
    }


def _kind_of(part: dict[str, Any]) -> tuple[Any, ...]:
    """A part without its hyperparameters."""
    return part["call"].split("(")[0], part["equation"], list(part["remembers"])


def _constant(value: Any) -> Any:
    """A constant as it stands in the file; of an array its checksum."""
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, complex):
        return repr(value)
    array = np.asarray(jax.random.key_data(value) if is_key(value) else value)
    return f"{show(value)} with checksum {zlib.crc32(array.tobytes()):08x}"


def _sums(path: Any) -> str:
    """The checksums of the files in a folder, as the command of that name writes and checks them."""
    lines = []
    for file in sorted(_files(path)):
        name = file.relative_to(path).as_posix()
        if name not in _UNSUMMED:
            with file.open("rb") as opened:
                lines.append(f"{hashlib.file_digest(opened, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def _files(path: Any) -> Iterator[Any]:
    for child in path.iterdir():
        yield from _files(child) if child.is_dir() else (child,)


def _damage(path: Any) -> str:
    """What is wrong with a checkpoint; empty if nothing is."""
    if not (path / _SUMS).exists():
        return f"it has no {_SUMS}"
    noted, found = (path / _SUMS).read_bytes(), _sums(path).encode()
    if noted == found:
        return ""
    lines = set(noted.split(b"\n")) ^ set(found.split(b"\n"))
    names = sorted({line[66:].decode(errors="replace") for line in lines if line})
    return f"{', '.join(names) or _SUMS} has not the contents that were written"
