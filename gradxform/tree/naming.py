"""Finding and setting what has a name in a tree, such as a state's moments."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from jax.tree_util import DictKey, keystr, tree_flatten_with_path

from gradxform.trees import PyTree

KeyPath: TypeAlias = tuple[Any, ...]
"""Where something stands in a tree: keys of `jax.tree_util`, and `NamedTupleKey`."""

Filter: TypeAlias = Callable[[KeyPath, Any], bool]


@dataclass(frozen=True)
class NamedTupleKey:
    """The step of a path into a named tuple.

    Attributes:
      tuple_name: the name of the tuple's class.
      name: the field.
    """

    tuple_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.tuple_name}.{self.name}"


def get_all_with_path(tree: PyTree, key: Any, filtering: Filter | None = None) -> list[tuple[KeyPath, Any]]:
    """Everything of one name in a tree, and where it stands.

    Args:
      tree: any pytree, such as a state.
      key: a field of a named tuple, the name of its class, or a dictionary's key.
      filtering: ``(path, value) -> bool``: which of them to return.

    Returns:
      Pairs of a path and a value, the outermost first. `jax.tree_util.keystr`
      makes a path readable.

    Example:
      >>> import gradxform as gx
      >>> from gradxform import tree
      >>> state = gx.named_chain(("slow", gx.sgd(0.1)), ("fast", gx.sgd(1.0))).init([0.0])
      >>> [path[0].key for path, count in tree.get_all_with_path(state, "count")]
      ['fast', 'slow']
    """
    found = _find((), tree, key)
    return [pair for pair in found if filtering is None or filtering(*pair)]


def get(tree: PyTree, key: Any, default: Any = None, filtering: Filter | None = None) -> Any:
    """What has a name in a tree.

    Args:
      tree: any pytree, such as a state.
      key: a field of a named tuple, the name of its class, or a dictionary's key.
      default: what to return where there is nothing of that name.
      filtering: ``(path, value) -> bool``: which one is meant, where there are several.

    Returns:
      The value.

    Raises:
      KeyError: there are several; the message says where.

    Example:
      >>> import gradxform as gx
      >>> from gradxform import tree
      >>> state = gx.adam(lambda count: 0.5 / (count + 1)).init({"w": 1.0})
      >>> tree.get(state, "mu")["w"].item(), tree.get(state, "learning_rate").item()
      (0.0, 0.5)
    """
    found = get_all_with_path(tree, key, filtering)
    if len(found) > 1:
        places = ", ".join(_written(path) for path, _ in found)
        raise KeyError(
            f"tree.get: there are {len(found)} values for {key!r}: {places}. Say which is meant with "
            "filtering=(path, value) -> bool, or take them all with tree.get_all_with_path."
        )
    return found[0][1] if found else default


def set(tree: PyTree, filtering: Filter | None = None, /, **kwargs: Any) -> PyTree:
    """A tree with other values under some names.

    Args:
      tree: any pytree, such as a state; it is left as it was.
      filtering: ``(path, value) -> bool``: which of the old values to replace;
        by default all that have the name.
      **kwargs: the new values by the names of `get`. They are taken as they are:
        to keep a compiled step, give them the old ones' shapes and dtypes.

    Returns:
      The new tree.

    Raises:
      KeyError: there is nothing of a name; the message lists the names there are.

    Example:
      >>> import gradxform as gx
      >>> from gradxform import tree
      >>> state = tree.set(gx.adam(0.1).init({"w": 1.0}), mu={"w": 3.0})
      >>> tree.get(state, "mu")
      {'w': 3.0}
    """
    for key in kwargs:
        found = get_all_with_path(tree, key)
        if not found:
            raise KeyError(
                f"tree.set: there is nothing called {key!r} in this tree; it has {_known_names(tree)}. "
                "A constant hyperparameter is compiled in: pass tunable(value) to have it in the state."
            )
        if filtering is not None and not any(filtering(*pair) for pair in found):
            places = ", ".join(_written(path) for path, _ in found)
            raise KeyError(f"tree.set: filtering leaves nothing called {key!r} of {places}")

    def chosen(path: KeyPath, value: Any) -> bool:
        return filtering is None or filtering(path, value)

    def replace(path: KeyPath, node: Any) -> Any:
        if _is_named_tuple(node) and type(node).__name__ in kwargs and chosen(path, node):
            return kwargs[type(node).__name__]
        children, treedef = _children(path, node)
        if not children:
            return node
        named = _is_named_tuple(node) or isinstance(node, dict)
        return treedef.unflatten(
            kwargs[_name(below[-1])]
            if named and _name(below[-1]) in kwargs and chosen(below, child)
            else replace(below, child)
            for below, child in children
        )

    return replace((), tree)


def _is_named_tuple(node: Any) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields")


def _children(path: KeyPath, node: Any) -> tuple[list[tuple[KeyPath, Any]], Any]:
    """The nodes right below this one with their paths, and how to put it together again."""
    below, treedef = tree_flatten_with_path(node, is_leaf=lambda other: other is not node)
    if not below or not below[0][0]:  # a leaf is flattened to itself, with no step of a path
        return [], treedef
    if _is_named_tuple(node):
        kind = type(node).__name__
        return [
            ((*path, NamedTupleKey(kind, field)), child)
            for field, (_, child) in zip(node._fields, below, strict=True)
        ], treedef
    return [((*path, *step), child) for step, child in below], treedef


def _name(key: Any) -> Any:
    return key.name if isinstance(key, NamedTupleKey) else key.key if isinstance(key, DictKey) else None


def _find(path: KeyPath, tree: PyTree, key: Any) -> list[tuple[KeyPath, Any]]:
    """All that is called `key`: what the outermost nodes hold, then what is within those nodes."""
    holders = list(_holders(path, tree, key))
    found = [pair for pair, _ in holders]
    for _, children in holders:
        for below, child in children:
            found += _find(below, child, key)
    return found


def _holders(path: KeyPath, node: Any, key: Any) -> Iterator[tuple[tuple[KeyPath, Any], list[Any]]]:
    """The outermost nodes that are or hold what is called `key`: that, with its path, and their children."""
    children, _ = _children(path, node)
    if _is_named_tuple(node) and type(node).__name__ == key:
        yield (path, node), children
        return
    if _is_named_tuple(node) or isinstance(node, dict):
        for below, child in children:
            if _name(below[-1]) == key:
                yield (below, child), children
                return
    for below, child in children:
        yield from _holders(below, child, key)


def _written(path: KeyPath) -> str:
    return "state" + "".join(
        f".{key.name}" if isinstance(key, NamedTupleKey) else keystr((key,)) for key in path
    )


def _known_names(tree: PyTree) -> str:
    """The names in a tree, the outermost first."""
    names: dict[Any, int] = {}
    level, depth = [((), tree)], 0
    while level:
        for _, node in level:
            if _is_named_tuple(node):
                names.setdefault(type(node).__name__, depth)
        below = [pair for path, node in level for pair in _children(path, node)[0]]
        for path, _ in below:
            if _name(path[-1]) is not None:
                names.setdefault(_name(path[-1]), depth)
        level, depth = below, depth + 1
    shown = [str(name) for name in names][:40]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "") if names else "no names"
