"""Walking trees together: paths as one would write them, and where two trees part."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradxform.trees import broadcast_prefix, check_inexact, flatten, flatten_like, paths, tree_bytes


class Pair(NamedTuple):
    left: Any
    right: Any


TREE = {"a": [1.0, None, (2.0,)], "b": Pair(3.0, {})}


def test_flatten_counts_none_as_a_leaf() -> None:
    leaves, treedef = flatten(TREE)
    assert leaves == [1.0, None, 2.0, 3.0]
    assert treedef.unflatten(leaves) == TREE


def test_paths_are_python() -> None:
    """Each path, evaluated, is the leaf."""
    written = paths(TREE, "root")
    assert written == ["root['a'][0]", "root['a'][1]", "root['a'][2][0]", "root['b'].left"]
    assert [eval(path, {"root": TREE}) for path in written] == flatten(TREE)[0]
    assert paths(1.0, "params") == ["params"]


def align(reference: Any, tree: Any) -> list[Any]:
    return flatten_like(flatten(reference)[1], reference, tree, root="grads", like="params", who="test")


def test_flatten_like_gives_the_subtrees() -> None:
    assert align({"a": 0.0, "b": None}, {"a": {"x": 1.0, "y": [2.0]}, "b": 3.0}) == [
        {"x": 1.0, "y": [2.0]},
        3.0,
    ]
    assert align({}, {}) == []


@pytest.mark.parametrize(
    ("reference", "tree", "message"),
    [
        ({"a": 1.0, "b": 2.0}, {"a": 1.0}, r"params\['b'\] has no counterpart in grads"),
        ({"a": 1.0}, {"a": 1.0, "b": {"c": 2.0}}, r"grads\['b'\]\['c'\] has no counterpart in params"),
        ({"a": {"b": 1.0}}, {"a": {"c": 1.0}}, r"params\['a'\]\['b'\] has no counterpart in grads"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], r"params\[2\] has no counterpart in grads"),
        ([1.0], (1.0,), "different types"),
        (Pair(1.0, 2.0), (1.0, 2.0), r"params.left has no counterpart in grads"),
        ((1.0, 2.0), Pair(1.0, 2.0), r"params\[0\] has no counterpart in grads"),
        ({"a": [1.0]}, {"a": 1.0}, r"params\['a'\]\[0\] has no counterpart in grads"),
        ({"a": [1.0]}, {"a": None}, r"params\['a'\]\[0\] has no counterpart in grads"),
    ],
)
def test_where_trees_part(reference: Any, tree: Any, message: str) -> None:
    with pytest.raises(
        ValueError, match=f"^test: grads and params do not have the same structure.*{message}"
    ):
        align(reference, tree)


def test_what_can_be_optimized() -> None:
    for leaf in (1.0, 1j, np.float32(1), np.ones(2), jnp.ones(2, jnp.bfloat16), jnp.ones(0, jnp.complex64)):
        check_inexact(leaf, [leaf], 0, root="params", who="test")
    for leaf in (1, True, np.int8(1), jnp.arange(2), "text", jax.random.key(0)):
        with pytest.raises(TypeError, match=r"^test: params\[0\] has dtype .*only floating-point.*None"):
            check_inexact(leaf, [leaf], 0, root="params", who="test")


def test_broadcast_prefix() -> None:
    tree = {"a": {"x": 1.0, "y": None}, "b": [2.0, 3.0]}

    def spread(prefix: Any) -> list[Any]:
        return broadcast_prefix(prefix, tree, root="its mask", who="test")

    assert spread(True) == [True] * 4
    assert spread({"a": 1, "b": [2, 3]}) == [1, 1, 2, 3]
    assert spread({"a": {"x": 1, "y": 2}, "b": 3}) == [1, 2, 3, 3]
    with pytest.raises(ValueError, match=r"^test: .*its mask\['c'\] has no counterpart in the parameters"):
        spread({"a": 1, "b": 2, "c": 3})


def test_tree_bytes() -> None:
    tree = {
        "a": jnp.ones((2, 3), jnp.bfloat16),
        "b": [jax.ShapeDtypeStruct((5,), jnp.float32)],
        "c": None,
        "d": jnp.zeros(0),
    }
    assert tree_bytes(tree) == 2 * 3 * 2 + 5 * 4
