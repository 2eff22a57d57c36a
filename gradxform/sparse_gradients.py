"""Row-sparse gradients of a model as it is: of a table that is looked up, only those rows count."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce, wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import GatherScatterMode
from jax.tree_util import register_dataclass

from gradxform.rule import Mask, resolve_mask
from gradxform.sparse import RowSparse
from gradxform.trees import check_inexact, flatten, paths

if TYPE_CHECKING:  # it takes a third as long to load as the whole of this package
    from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

__all__ = ["sparse_value_and_grad"]


def sparse_value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    tables: Mask | None = None,
) -> Callable[..., tuple[Any, Any]]:
    r"""Like `jax.value_and_grad`, with row-sparse gradients for tables of which only rows are looked up.

    .. math::
      J(W) = f(W_{i_1}, \dots, W_{i_k}) \quad\Rightarrow\quad
      \nabla_W J = \sum_j e_{i_j} \left(\frac{\partial f}{\partial W_{i_j}}\right)^\top

    The gradient of such a table is the `RowSparse` of the indices
    :math:`i_j` and of the :math:`\partial f / \partial W_{i_j}`; no array of
    the table's size is made for it. All other gradients are JAX's own.

    A look-up is what ``table[ids]``, `jax.numpy.take`, `jax.lax.dynamic_slice`
    and the embedding layers of Flax, Equinox and Haiku do, be it under
    `jax.vmap`, of a table that is cast first, or within `jax.jit` and
    `jax.checkpoint`. An index that is out of range has no gradient, or that of
    the row that stands in for it, as in JAX. All else needs the whole array: a
    product with tied embeddings, say, and also what happens within `jax.lax.scan`,
    `jax.lax.cond`, `jax.lax.while_loop` and functions with a derivative of their
    own. Only what is done to ``jax.lax.stop_gradient(table)`` does not count.

    It goes under `jax.jit` like `jax.value_and_grad`, and traces the function
    once more than that does.

    Args:
      fun: a function of arrays that returns a scalar, or ``(scalar, aux)`` with
        `aux` a pytree of arrays. It is traced as by `jax.jit`.
      argnums: the number of the argument to differentiate with respect to, or
        several of them.
      has_aux: whether `fun` returns `aux` too.
      tables: which leaves of that argument (of the tuple of them, if there are
        several) are to have row-sparse gradients: a tree of booleans, a prefix
        of one, or a function from the argument to such a tree. By default
        those that are used for nothing but look-ups, of which at least one has
        an index that is computed.

    Returns:
      A function of the arguments of `fun` that returns ``(value, gradient)``,
      or ``((value, aux), gradient)``. The gradient has the structure of the
      argument with a `RowSparse` for each table; its static number of rows is
      that of the rows looked up, with repetitions.

    Raises:
      TypeError: a leaf that `tables` names is used otherwise, or a leaf of the
        argument is no floating-point or complex array; the message names its path.
      ValueError: `tables` does not fit the argument.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> params = {"table": jnp.ones((1000, 2)), "bias": jnp.zeros(2)}
      >>> def loss(params, ids):
      ...     return jnp.sum((params["table"][ids] + params["bias"]) ** 2)
      >>> value, grads = gx.sparse_value_and_grad(loss)(params, jnp.asarray([7, 3]))
      >>> grads["table"], grads["table"].indices.tolist(), grads["bias"].tolist()
      (RowSparse(2 of 1000 rows, shape=(1000, 2)), [7, 3], [4.0, 4.0])
    """
    several = not isinstance(argnums, int)
    numbers = tuple(argnums) if isinstance(argnums, Sequence) else (argnums,)

    @wraps(fun)
    def value_and_grad(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not all(-len(args) <= number < len(args) for number in numbers):
            raise TypeError(f"{_WHO}: argnums={argnums} is beyond the {len(args)} positional arguments")
        chosen = tuple(args[number] for number in numbers)
        argument = chosen if several else chosen[0]
        entries, treedef = flatten(argument)
        leaves = {place: leaf for place, leaf in enumerate(entries) if leaf is not None}
        for place, leaf in leaves.items():
            check_inexact(leaf, argument, place, root="params", who=_WHO)

        def tree(leaves: dict[int, Any]) -> Any:
            return treedef.unflatten(map(leaves.get, range(len(entries))))

        def of_leaves(leaves: dict[int, Any]) -> Any:
            given, changed = tree(leaves), list(args)
            for number, new in zip(numbers, given if several else (given,), strict=True):
                changed[number] = new
            result = fun(*changed, **kwargs)
            if has_aux and not (isinstance(result, tuple) and len(result) == 2):
                raise TypeError(f"{_WHO}: with has_aux the function must return (value, aux), got {result!r}")
            return result

        traced, out = jax.make_jaxpr(of_leaves, return_shape=True)(leaves)
        sparse, lookups = _plan(traced, leaves, argument, tables)

        def evaluate(dense: dict[int, Any], deltas: list[jax.Array]) -> Any:
            walk = _Evaluation(traced.jaxpr, deltas)
            inputs = [_View(place, leaves[place]) if place in sparse else dense[place] for place in leaves]
            outputs = map(walk.whole, walk.run(traced.jaxpr, traced.consts, inputs))
            result = jax.tree.unflatten(jax.tree.structure(out), outputs)
            value, aux = result if has_aux else (result, None)
            return value, (aux, walk.indices)

        dense = {place: leaf for place, leaf in leaves.items() if place not in sparse}
        deltas = [_no_rows(leaves[lookup.table], lookup.rows) for lookup in lookups]
        differentiate = jax.value_and_grad(evaluate, argnums=(0, 1), has_aux=True)
        (value, (aux, indices)), (grads, values) = differentiate(dense, deltas)
        for place in sparse:
            own = [i for i, lookup in enumerate(lookups) if lookup.table == place]
            grads[place] = RowSparse(
                jnp.concatenate([jnp.zeros(0, jnp.int32), *(indices[i] for i in own)]),
                jnp.concatenate([_no_rows(leaves[place], 0), *(values[i] for i in own)]),
                leaves[place].shape,
            )
        return ((value, aux) if has_aux else value), tree(grads)

    return value_and_grad


_WHO = "sparse_value_and_grad"

_CALLS = frozenset({"jit", "pjit", "closed_call", "core_call"})
"""Primitives that call a function, and do nothing more."""

_CHECKPOINTS = frozenset({"checkpoint", "remat", "remat2"})

_CONTROL_FLOW = frozenset({"scan", "while", "cond"})


class _Lookup(NamedTuple):
    """A look-up in the function: of which leaf, how many rows, and whether it is computed which."""

    table: int
    rows: int
    computed: bool


@partial(register_dataclass, data_fields=["array"], meta_fields=["table", "casts"])
@dataclass(frozen=True, eq=False)
class _View:
    """What stands for a table while the function is gone through.

    Attributes:
      table: the place of the leaf.
      array: the leaf, which is not differentiated.
      casts: what is done to the rows that are looked up.
    """

    table: int
    array: Any
    casts: tuple[Callable[[Any], Any], ...] = ()

    def cast(self, rows: Any) -> Any:
        return reduce(lambda rows, cast: cast(rows), self.casts, rows)


class _Walk:
    """Goes through a traced function, equation by equation, with views in the place of tables.

    It computes nothing, but finds out what is done to the tables.

    Attributes:
      lookups: in the order in which they are met.
      uses: of tables that are used for something else, the place and the primitive's name.
    """

    def __init__(self) -> None:
        self.lookups: list[_Lookup] = []
        self.uses: dict[int, str] = {}

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """What the function makes of its inputs."""
        if hasattr(jaxpr, "consts"):
            jaxpr, consts = jaxpr.jaxpr, jaxpr.consts
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

        def read(atom: Any) -> Any:
            return atom.val if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            outputs = self.step(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def step(self, equation: "JaxprEqn", inputs: list[Any]) -> Sequence[Any]:
        """What an equation makes of its inputs."""
        views = [value for value in inputs if isinstance(value, _View)]
        if not views:
            return self.compute(equation, inputs)
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            return self.run(params["jaxpr" if "jaxpr" in params else "call_jaxpr"], (), inputs)
        if name in _CHECKPOINTS:
            return self.checkpoint(params, inputs)
        view = inputs[0]
        if views == [view]:
            if name == "stop_gradient":
                return [self.whole(view)]
            if name == "sharding_constraint":  # that of the table itself will do
                return [view]
            if name == "copy" or (
                name == "convert_element_type" and jnp.issubdtype(params["new_dtype"], jnp.inexact)
            ):
                return [replace(view, casts=(*view.casts, partial(self.cast, equation)))]
            if _looks_up(equation):
                return [self.look_up(equation, view, *inputs[1:])]
        self.uses.update({view.table: name for view in views})
        return [None] * len(equation.outvars)

    def cast(self, equation: "JaxprEqn", rows: Any) -> Any:
        return self.compute(equation, [rows])[0]

    def compute(self, equation: "JaxprEqn", inputs: Sequence[Any]) -> Sequence[Any]:
        """What an equation makes of inputs that are no views."""
        return [None] * len(equation.outvars)

    def checkpoint(self, params: dict[str, Any], inputs: Sequence[Any]) -> Sequence[Any]:
        """What a function under `jax.checkpoint` makes of its inputs."""
        return self.run(params["jaxpr"], (), inputs)

    def whole(self, value: Any) -> Any:
        """The array that a view is of; any other value as it is."""
        return None

    def look_up(self, equation: "JaxprEqn", view: _View, *starts: Any) -> Any:
        """Rows of a table."""
        count = math.prod(_shape(equation.outvars[0])[axis] for axis in _batch_axes(equation))
        computed = equation.primitive.name != "slice"
        self.lookups.append(_Lookup(view.table, count * _window(equation), computed))


class _Evaluation(_Walk):
    """Computes: a look-up gives its rows plus the next of the deltas.

    Attributes:
      indices: of each look-up, which rows it took.
    """

    def __init__(self, traced: "Jaxpr", deltas: Sequence[jax.Array]) -> None:
        super().__init__()
        self.traced, self.deltas = traced, iter(deltas)
        self.indices: list[jax.Array] = []

    def compute(self, equation: "JaxprEqn", inputs: Sequence[Any]) -> Sequence[Any]:
        given = [
            (a, value) for a, value in zip(equation.invars, inputs, strict=True) if not hasattr(a, "val")
        ]
        alone = self.traced.replace(
            constvars=[],
            invars=[variable for variable, _ in given],
            outvars=equation.outvars,
            eqns=[equation],
            effects=equation.effects,
            # Older versions of JAX want as many names as there are variables.
            debug_info=self.traced.debug_info._replace(
                arg_names=("",) * len(given), result_paths=("",) * len(equation.outvars)
            ),
        )
        # JAX's own evaluator keeps the names of scopes and the lines of the source.
        return jax.core.eval_jaxpr(alone, (), *(value for _, value in given))

    def checkpoint(self, params: dict[str, Any], inputs: Sequence[Any]) -> Sequence[Any]:
        def inner(*inputs: Any) -> tuple[list[Any], list[jax.Array]]:
            before = len(self.indices)
            outputs = self.run(params["jaxpr"], (), inputs)
            found = self.indices[before:]
            del self.indices[before:]
            return outputs, found

        again = jax.checkpoint(inner, prevent_cse=params["prevent_cse"], policy=params["policy"])
        outputs: list[Any]
        outputs, found = again(*inputs)
        self.indices += found
        return outputs

    def whole(self, value: Any) -> Any:
        return value.cast(value.array) if isinstance(value, _View) else value

    def look_up(self, equation: "JaxprEqn", view: _View, *starts: Any) -> Any:
        (rows,) = self.compute(equation, [view.array, *starts])
        self.indices.append(_indices(equation, view.array.shape, starts))
        batch = _batch_axes(equation)
        order = [*batch, *(axis for axis in range(rows.ndim) if axis not in batch)]
        delta = next(self.deltas).reshape(np.take(rows.shape, order)).transpose(np.argsort(order))
        return view.cast(rows + delta)


def _plan(
    traced: "ClosedJaxpr", leaves: dict[int, Any], argument: Any, tables: Mask | None
) -> tuple[list[int], list[_Lookup]]:
    """The places of the tables, and their look-ups."""
    if tables is None:
        named = [place for place, leaf in leaves.items() if np.ndim(leaf)]
    else:
        mask = flatten(resolve_mask(tables, argument, _WHO))[0]
        named = [place for place in leaves if mask[place]]
    survey = _Walk()
    inputs = [_View(place, leaf) if place in named else None for place, leaf in leaves.items()]
    survey.run(traced.jaxpr, [None] * len(traced.consts), inputs)
    if tables is None:
        computed = {lookup.table for lookup in survey.lookups if lookup.computed}
        named = [place for place in named if place in computed and place not in survey.uses]
    for place in named:
        if not np.ndim(leaves[place]):
            what = "is a single number and has no rows; leave"
        elif place not in survey.uses:
            continue
        elif (use := survey.uses[place]) in _CONTROL_FLOW:
            what = f"is passed to {use}; look its rows up before, or leave"
        else:
            what = f"is used by {use}, not only to look rows up; leave"
        path = paths(argument, "params")[place]
        raise TypeError(f"{_WHO}: {path} {what} it out of `tables`, and it gets a dense gradient")
    return named, [lookup for lookup in survey.lookups if lookup.table in named]


def _looks_up(equation: "JaxprEqn") -> bool:
    """Whether an equation takes whole rows, next to each other, of its first input."""
    shape, params = _shape(equation.invars[0]), equation.params
    if equation.primitive.name in ("dynamic_slice", "slice"):
        return _shape(equation.outvars[0])[1:] == shape[1:]
    if equation.primitive.name != "gather":
        return False
    numbers = params["dimension_numbers"]
    whole = params["slice_sizes"][1:] == shape[1:] and 0 in numbers.start_index_map
    return bool(whole and not numbers.operand_batching_dims)


def _batch_axes(equation: "JaxprEqn") -> list[int]:
    """The axes of a look-up's output along which the windows lie that it takes."""
    axes = range(len(_shape(equation.outvars[0])))
    if equation.primitive.name != "gather":
        return []
    return [axis for axis in axes if axis not in equation.params["dimension_numbers"].offset_dims]


def _window(equation: "JaxprEqn") -> int:
    """How many rows next to each other a look-up takes at once."""
    params = equation.params
    return int((params["slice_sizes"] if "slice_sizes" in params else _shape(equation.outvars[0]))[0])


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


def _indices(equation: "JaxprEqn", shape: tuple[int, ...], starts: Sequence[Any]) -> Any:
    """Which rows a look-up takes: int32, one-dimensional; the number of rows stands for none."""
    params: dict[str, Any]
    name, params, window = equation.primitive.name, equation.params, _window(equation)
    if name == "slice":
        stride = (params["strides"] or (1,))[0]
        return params["start_indices"][0] + stride * jnp.arange(window, dtype=jnp.int32)
    if name == "gather":
        axes, (given,) = params["dimension_numbers"].start_index_map, starts
    else:
        axes, given = (0,), jnp.reshape(starts[0], (1,))
    # The largest starts that fit, if their dtype can hold them at all.
    last = [shape[axis] - params["slice_sizes"][axis] for axis in axes]
    largest = int(jnp.iinfo(given.dtype).max)
    inside = jnp.clip(given, 0, np.asarray([min(start, largest) for start in last], given.dtype))
    rows = inside[..., axes.index(0), None].astype(jnp.int32) + jnp.arange(window, dtype=jnp.int32)
    if params.get("mode", GatherScatterMode.CLIP) != GatherScatterMode.CLIP:
        rows = jnp.where((inside == given).all(-1, keepdims=True), rows, shape[0])
    return rows.reshape(-1)


def _no_rows(table: Any, count: int) -> jax.Array:
    """What leaves as many rows as they are: nothing but minus zero does that to a zero of either sign."""
    return jax.lax.full((count, *table.shape[1:]), -np.zeros((), jnp.result_type(table)))
