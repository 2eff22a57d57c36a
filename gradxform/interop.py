"""States from other libraries and for them: an optimizer goes on in the other one where it stands.

A state is a collection of arrays with names: ``mu`` and ``nu`` of Adam, one of each for every parameter.
Libraries nest them differently and agree, or can be told, what they mean. So an array is looked up by the
name of its field and by the parameter that it belongs to, wherever it stands.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, keystr, tree_flatten_with_path

from gradxform.describe import describe
from gradxform.slots import decode_stored
from gradxform.transformation import GradientTransformation, Params, State
from gradxform.trees import PyTree, flatten_like

__all__ = ["from_optax", "from_torch", "to_optax", "to_torch"]

# What a counter shows before the first step.
_COUNTERS = {"count": 0, "count_m2": 0, "step_count": 1, "t": 0}
_FIRST_STEP = {"is_init_step", "is_initial_step"}

# What the next step computes anew, or what is the same in every step: there the code is asked.
_OF_THE_CODE = {"hyperparams", "hyperparams_states", "ns_coeffs", "scheduled", "tau", "tunables"}

# What goes by another name in the other library.
_OTHER = {"tunables": "hyperparams", "hyperparams": "tunables"}


class _Place(NamedTuple):
    """Where an array belongs, in any library: the name of its field, and what comes after it."""

    field: str
    rest: str


_Arrays = dict[_Place, list[Any]]


class _Torch(NamedTuple):
    """One of PyTorch's optimizers.

    Attributes:
      marks: what only its groups of parameters have.
      fields: what it calls an array, and what we call it.
      counts: whether it counts its steps.
    """

    marks: set[str]
    fields: dict[str, str]
    counts: bool = True


_TORCH = {
    "SGD": _Torch({"momentum", "dampening"}, {"momentum_buffer": "trace"}, counts=False),
    "Adam": _Torch({"betas", "amsgrad"}, {"exp_avg": "mu", "exp_avg_sq": "nu"}),
    "Adagrad": _Torch({"lr_decay", "initial_accumulator_value"}, {"sum": "sum_of_squares"}),
    "RMSprop": _Torch(
        {"alpha", "centered"}, {"square_avg": "nu", "grad_avg": "mu", "momentum_buffer": "trace"}
    ),
    "Adadelta": _Torch({"rho"}, {"square_avg": "e_g", "acc_delta": "e_x"}),
}

# What PyTorch's optimizers remember only where a hyperparameter says so.
_IF = {"momentum_buffer": "momentum", "grad_avg": "centered"}


def from_optax(
    tx: GradientTransformation, optax_state: State, params: Params, *, count: int | None = None
) -> State:
    """Our state, with what Optax's state of the same optimizer remembers.

    Args:
      tx: our transformation.
      optax_state: the state of Optax's.
      params: the parameters.
      count: the number of steps taken, where Optax's state does not say.

    Returns:
      The state of `tx` from which it goes on as Optax's would. Hyperparameters
      are the code's, except that tunables take the values of ``optax.inject_hyperparams``.

    Raises:
      ValueError: one state has an array that the other has no place for, or of
        another shape; or the number of steps is not known. The message names it.

    Example:
      >>> import gradxform as gx
      >>> import optax
      >>> params = {"w": 1.0}
      >>> theirs = optax.adam(0.1, b1=0.5)
      >>> _, state = theirs.update({"w": 2.0}, theirs.init(params))
      >>> gx.interop.from_optax(gx.adam(0.1, b1=0.5), state, params).slots[0].mu["w"].item()
      1.0
    """
    return _moved(tx.init(params), _read(optax_state, params), params, count, "from_optax")


def to_optax(optax_tx: Any, state: State, params: Params, *, count: int | None = None) -> State:
    """Optax's state, with what our state of the same optimizer remembers.

    Args:
      optax_tx: Optax's transformation.
      state: the state of ours.
      params: the parameters.
      count: the number of steps taken, where our state does not say.

    Returns:
      The state of `optax_tx` from which it goes on as ours would.

    Raises:
      ValueError: as in `from_optax`.

    Example:
      >>> import gradxform as gx
      >>> import optax
      >>> params = {"w": 1.0}
      >>> state = gx.adam(0.1).update({"w": 2.0}, gx.adam(0.1).init(params))[1]
      >>> gx.interop.to_optax(optax.adam(0.1), state, params)[0].count.item()
      1
    """
    return _moved(optax_tx.init(params), _read(state, params), params, count, "to_optax")


def from_torch(
    tx: GradientTransformation,
    state_dict: Mapping[str, Any],
    params: Params,
    *,
    numbers: PyTree | None = None,
    count: int | None = None,
) -> State:
    """Our state, with what PyTorch's optimizer of the same kind remembers.

    It reads SGD, Adam, AdamW, Adagrad, RMSprop and Adadelta. Arrays have to have
    their parameter's shape: where a weight was transposed for JAX, transpose its
    arrays in the dictionary too.

    Args:
      tx: our transformation.
      state_dict: ``optimizer.state_dict()``, with tensors or NumPy's arrays.
      params: the parameters.
      numbers: a tree like the parameters with the number of PyTorch's parameter
        in each leaf's place, counted from 0 over all groups; by default they
        are in the order of our leaves.
      count: the number of steps taken, where the dictionary does not say: SGD
        does not count.

    Returns:
      The state of `tx` from which it goes on as PyTorch's optimizer would. The
      hyperparameters are the code's.

    Raises:
      ValueError: it is another optimizer, or an array is missing, left over or of
        another shape; or the number of steps is not known. The message names it.

    Example:
      >>> import gradxform as gx
      >>> import numpy as np
      >>> moments = {"step": 3.0, "exp_avg": np.array(0.5), "exp_avg_sq": np.array(0.25)}
      >>> saved = {"state": {0: moments}, "param_groups": [{"betas": (0.9, 0.999), "amsgrad": False}]}
      >>> state = gx.interop.from_torch(gx.adam(0.1), saved, {"w": 1.0})
      >>> state.count.item(), state.slots[0].nu["w"].item()
      (3, 0.25)
    """
    name, torch, groups = _kind(state_dict, "from_torch")
    arrays: _Arrays = {}
    for number, (path, group) in _numbered(params, numbers, groups, "from_torch").items():
        for field, value in state_dict["state"].get(number, {}).items():
            if value is None:
                continue
            array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
            if field == "step":
                arrays.setdefault(_Place("count", ""), []).append(array)
            elif field in torch.fields:
                ours = torch.fields[field]
                arrays[_Place(ours, path)] = [array * _factor(tx, ours, group)]
            else:
                raise ValueError(
                    f"from_torch: PyTorch's {name} has {field!r} for params{path}, of which our states know "
                    "nothing"
                )
    return _moved(tx.init(params), arrays, params, count, "from_torch")


def to_torch(
    tx: GradientTransformation,
    state: State,
    state_dict: Mapping[str, Any],
    params: Params,
    *,
    numbers: PyTree | None = None,
    count: int | None = None,
    tensor: Callable[[np.ndarray], Any] = np.asarray,
) -> dict[str, Any]:
    """What ``optimizer.load_state_dict`` of PyTorch's optimizer takes, with what our state remembers.

    Args:
      tx: our transformation.
      state: its state.
      state_dict: ``optimizer.state_dict()`` of PyTorch's optimizer, which may be new.
      params, numbers: as in `from_torch`.
      count: the number of steps taken, where our state does not say.
      tensor: makes PyTorch's tensors: ``torch.from_numpy``.

    Returns:
      A dictionary like `state_dict` with our arrays in it. The hyperparameters
      are those of `state_dict`.

    Raises:
      ValueError: as in `from_torch`.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.sgd(0.1, momentum=0.9)
      >>> state = tx.update({"w": 2.0}, tx.init({"w": 1.0}))[1]
      >>> new = {"state": {}, "param_groups": [{"momentum": 0.9, "dampening": 0, "params": [0]}]}
      >>> gx.interop.to_torch(tx, state, new, {"w": 1.0})["state"][0]["momentum_buffer"].item()
      2.0
    """
    name, torch, groups = _kind(state_dict, "to_torch")
    arrays = _read(state, params)
    used = set()
    written: dict[int, dict[str, Any]] = {}
    for number, (path, group) in _numbered(params, numbers, groups, "to_torch").items():
        written[number] = {"step": np.float32(_steps(arrays, count, "to_torch"))} if torch.counts else {}
        for field, ours in torch.fields.items():
            if not group.get(_IF.get(field, field), field not in _IF):
                continue
            place = _Place(ours, path)
            if place not in arrays:
                raise ValueError(
                    f"to_torch: PyTorch's {name} needs {field!r} for params{path}, but our state has no "
                    f"{ours!r} for it"
                )
            used.add(place)
            written[number][field] = np.asarray(arrays[place][0]) / _factor(tx, ours, group)
    _refuse_rest(arrays, used, "to_torch")
    tensors = {
        number: {field: tensor(np.array(array)) for field, array in of_leaf.items()}
        for number, of_leaf in written.items()
    }
    return {**state_dict, "state": tensors}


def _moved(like: State, arrays: _Arrays, params: Params, count: int | None, who: str) -> State:
    """The state `like`, with the arrays that stand in the same places."""
    places, (with_path, treedef) = _places(like, params), tree_flatten_with_path(like)
    leaves = [jnp.asarray(leaf) for _, leaf in with_path]
    names = [f"state{keystr(path)}" for path, _ in with_path]
    together: dict[_Place, list[int]] = {}
    for index, place in enumerate(places):
        together.setdefault(place, []).append(index)
    used = set()
    for place, indices in together.items():
        other = place._replace(field=_OTHER.get(place.field, place.field))
        source = place if place in arrays else other
        used.add(source)
        given: list[Any]
        if place.field in _FIRST_STEP:
            given = [_steps(arrays, count, who) == 0] * len(indices)
        elif place.field in _COUNTERS and len(arrays.get(source, ())) != len(indices):
            given = [_steps(arrays, count, who) + _COUNTERS[place.field]] * len(indices)
        elif source in arrays:
            given = arrays[source]
        elif place.field in _OF_THE_CODE or not leaves[indices[0]].size:
            continue
        else:
            known = sorted({place.field for place in arrays})
            raise ValueError(f"{who}: {names[indices[0]]} is not in the state given, which has {known}")
        if len(given) != len(indices):
            raise ValueError(
                f"{who}: there are {len(indices)} arrays like {names[indices[0]]}, and {len(given)} in the "
                "state given"
            )
        for index, value in zip(indices, given, strict=True):
            leaf, array = leaves[index], jnp.copy(jnp.asarray(value))  # each may be donated
            if array.shape != leaf.shape:
                raise ValueError(
                    f"{who}: {names[index]} has shape {leaf.shape}, and {array.shape} in the state given"
                )
            leaves[index] = array if array.dtype == leaf.dtype else array.astype(leaf.dtype)
    _refuse_rest(arrays, used, who)
    return jax.tree.unflatten(treedef, leaves)


def _read(state: State, params: Params) -> _Arrays:
    """The arrays of a state by place; where a place comes more than once, in the state's order."""
    state = decode_stored(state)
    arrays: _Arrays = {}
    for place, leaf in zip(_places(state, params), jax.tree.leaves(state), strict=True):
        arrays.setdefault(place, []).append(leaf)
    return arrays


def _places(state: State, params: Params) -> list[_Place]:
    """Where each array of a state belongs."""
    owners = {path for path, _ in tree_flatten_with_path(params)[0]}
    lengths = {len(path) for path in owners}

    def place(path: tuple[Any, ...]) -> _Place:
        fields = [index for index, key in enumerate(path) if isinstance(key, GetAttrKey)]
        for index in reversed(fields):
            rest = path[index + 1 :]
            for length in lengths:
                within = rest[length:]  # several arrays for one parameter
                if rest[:length] in owners and not any(isinstance(key, GetAttrKey) for key in within):
                    return _Place(path[index].name, keystr(rest))
        last = fields[-1] if fields else -1
        return _Place(path[last].name if fields else "", keystr(path[last + 1 :]))

    return [place(path) for path, _ in tree_flatten_with_path(state)[0]]


def _steps(arrays: _Arrays, count: int | None, who: str) -> int:
    """The number of steps taken, as the state says, or else the user."""
    said = {
        int(value) - _COUNTERS[place.field]
        for place, values in arrays.items()
        if place.field in _COUNTERS
        for value in map(np.asarray, values)
    }
    first = any(bool(value) for place in arrays if place.field in _FIRST_STEP for value in arrays[place])
    said |= {0} if first else set()
    if len(said) > 1:
        raise ValueError(f"{who}: the state given has counted {sorted(said)} steps, which is not one number")
    if not said and count is None:
        raise ValueError(f"{who}: the state given does not count its steps; pass count=...")
    return next(iter(said)) if said else int(count or 0)


def _refuse_rest(arrays: _Arrays, used: set[_Place], who: str) -> None:
    """Raise if there are arrays that were not used."""
    for place, values in arrays.items():
        if place in used or place.field in _COUNTERS.keys() | _FIRST_STEP | _OF_THE_CODE:
            continue
        if any(np.size(value) for value in values):
            raise ValueError(
                f"{who}: the state given has {place.field}{place.rest}, for which there is no place; is it "
                "of the same optimizer, with the same arguments?"
            )


def _kind(state_dict: Mapping[str, Any], who: str) -> tuple[str, _Torch, list[dict[str, Any]]]:
    """Which of PyTorch's optimizers a dictionary is of, and its groups of parameters."""
    groups = list(state_dict["param_groups"])
    for name, torch in _TORCH.items():
        if torch.marks <= groups[0].keys():
            return name, torch, groups
    raise ValueError(
        f"{who}: this is none of {', '.join(_TORCH)}: its groups of parameters have {sorted(groups[0])}"
    )


def _numbered(
    params: Params, numbers: PyTree | None, groups: list[dict[str, Any]], who: str
) -> dict[int, tuple[str, dict[str, Any]]]:
    """For each number of PyTorch's, the path of our parameter and its group's hyperparameters."""
    paths = [keystr(path) for path, _ in tree_flatten_with_path(params)[0]]
    given = list(range(len(paths)))
    if numbers is not None:
        given = flatten_like(
            jax.tree.structure(params), params, numbers, root="numbers", like="params", who=who
        )
    if sorted(given) != list(range(len(paths))):
        raise ValueError(
            f"{who}: numbers must have each of 0 to {len(paths) - 1} once, in the place of a parameter; it "
            f"has {given}"
        )
    members = {number: group for group in groups for number in group.get("params", ())}
    if members and sorted(members) != sorted(given):
        raise ValueError(
            f"{who}: there are {len(paths)} parameters, and PyTorch's optimizer has {len(members)}"
        )
    return {number: (path, members.get(number, groups[0])) for number, path in zip(given, paths, strict=True)}


def _factor(tx: GradientTransformation, field: str, group: Mapping[str, Any]) -> Any:
    """What PyTorch's array is to be multiplied by: our momentum may be one of steps, not of gradients."""
    if field != "trace":
        return 1
    for part in describe(tx).parts:
        if field in part.remembers:
            return 1
        if "scale_by_learning_rate" in part.call:
            return -float(group["lr"])
    return 1
