"""Trees of the same structure as another one."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from gradxform.tree.leaves import each
from gradxform.trees import PyTree, map_leaves


def zeros_like(tree: PyTree, dtype: DTypeLike | None = None) -> PyTree:
    """A tree of zeros.

    Args:
      tree: a tree of arrays, which may be abstract.
      dtype: the dtype of the zeros; by default each leaf's own.

    Returns:
      A tree of that structure and those shapes.

    Example:
      >>> from gradxform import tree
      >>> tree.zeros_like({"w": 2.0})["w"].item()
      0.0
    """
    return each("zeros_like", lambda x: jnp.zeros_like(x, dtype=dtype), tree)


def ones_like(tree: PyTree, dtype: DTypeLike | None = None) -> PyTree:
    """A tree of ones.

    Args:
      tree: a tree of arrays, which may be abstract.
      dtype: the dtype of the ones; by default each leaf's own.

    Returns:
      A tree of that structure and those shapes.

    Example:
      >>> from gradxform import tree
      >>> tree.ones_like({"w": 2.0})["w"].item()
      1.0
    """
    return each("ones_like", lambda x: jnp.ones_like(x, dtype=dtype), tree)


def full_like(tree: PyTree, fill_value: ArrayLike, dtype: DTypeLike | None = None) -> PyTree:
    """A tree of one value.

    Args:
      tree: a tree of arrays, which may be abstract.
      fill_value: the value of every element.
      dtype: its dtype; by default each leaf's own.

    Returns:
      A tree of that structure and those shapes.

    Example:
      >>> from gradxform import tree
      >>> tree.full_like({"w": 2.0}, 7.0)["w"].item()
      7.0
    """
    return each("full_like", lambda x: jnp.full_like(x, fill_value, dtype=dtype), tree)


def batch_shape(tree: PyTree, shape: tuple[int, ...] = ()) -> PyTree:
    """Every leaf repeated along new leading axes.

    Args:
      tree: a tree of arrays.
      shape: the sizes of the new axes.

    Returns:
      A tree of that structure.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import tree
      >>> tree.batch_shape({"w": jnp.ones(3)}, (2,))["w"].shape
      (2, 3)
    """
    return each("batch_shape", lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), tree)


def split_key_like(rng_key: jax.Array, target_tree: PyTree) -> PyTree:
    """A random key for every leaf.

    Args:
      rng_key: the key to split.
      target_tree: the tree whose structure to take.

    Returns:
      A tree of keys.

    Example:
      >>> import jax
      >>> from gradxform import tree
      >>> sorted(tree.split_key_like(jax.random.key(0), {"w": 1.0, "b": 2.0}))
      ['b', 'w']
    """
    structure: Any = jax.tree.structure(target_tree)
    keys: PyTree = structure.unflatten(jax.random.split(rng_key, structure.num_leaves))
    return keys


def random_like(
    rng_key: jax.Array,
    target_tree: PyTree,
    sampler: Callable[..., Any] = jax.random.normal,
    dtype: DTypeLike | None = None,
) -> PyTree:
    """A tree of random numbers.

    Args:
      rng_key: the random key.
      target_tree: the tree whose structure, shapes and, where its arrays have
        explicit ones, shardings to take.
      sampler: ``sampler(key, shape, dtype)``, such as those of `jax.random`.
      dtype: the numbers' dtype; by default each leaf's own.

    Returns:
      A tree of arrays.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from gradxform import tree
      >>> key = jax.random.key(0)
      >>> tree.random_like(key, {"w": jnp.ones((2, 3))}, jax.random.uniform)["w"].shape
      (2, 3)
    """
    takes_sharding = "out_sharding" in inspect.signature(sampler).parameters

    def sample(leaf: Any, key: jax.Array) -> Any:
        place = {"out_sharding": jax.typeof(leaf).sharding} if takes_sharding else {}
        return sampler(key, jnp.shape(leaf), dtype or jnp.result_type(leaf), **place)

    keys = split_key_like(rng_key, target_tree)
    return map_leaves(sample, target_tree, keys, who="tree.random_like", names=("target_tree", "keys"))


def unwrap_random_key_data(input_tree: PyTree) -> PyTree:
    """The tree with the numbers of its random keys in their place, to compare and to store.

    Args:
      input_tree: a tree of arrays and random keys.

    Returns:
      A tree of arrays.

    Example:
      >>> import jax
      >>> from gradxform import tree
      >>> tree.unwrap_random_key_data([jax.random.key(7), 1.0])[0].tolist()
      [0, 7]
    """

    def unwrap(leaf: Any) -> Any:
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree.map(unwrap, input_tree)
