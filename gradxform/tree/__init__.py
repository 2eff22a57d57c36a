"""Arithmetic on pytrees, and finding, setting and mapping what stands in an optimizer's state.

The module is public, as ``gx.tree``; its functions are called as those of
``optax.tree``. ``None`` passes through. What is below float32 is computed in
float32 and returned in its own dtype, wherever more than one rounding is at stake.
"""

from gradxform.tree.construction import (
    batch_shape,
    full_like,
    ones_like,
    random_like,
    split_key_like,
    unwrap_random_key_data,
    zeros_like,
)
from gradxform.tree.dtypes import cast, cast_like, dtype
from gradxform.tree.elementwise import add, add_scale, clip, conj, div, mul, real, scale, sub, where
from gradxform.tree.mapping import map_params
from gradxform.tree.moments import (
    bias_correction,
    update_infinity_moment,
    update_moment,
    update_moment_per_elem_norm,
)
from gradxform.tree.naming import NamedTupleKey, get, get_all_with_path, set
from gradxform.tree.reductions import allclose, max, min, norm, size, sum, vdot

__all__ = [
    "NamedTupleKey",
    "add",
    "add_scale",
    "allclose",
    "batch_shape",
    "bias_correction",
    "cast",
    "cast_like",
    "clip",
    "conj",
    "div",
    "dtype",
    "full_like",
    "get",
    "get_all_with_path",
    "map_params",
    "max",
    "min",
    "mul",
    "norm",
    "ones_like",
    "random_like",
    "real",
    "scale",
    "set",
    "size",
    "split_key_like",
    "sub",
    "sum",
    "unwrap_random_key_data",
    "update_infinity_moment",
    "update_moment",
    "update_moment_per_elem_norm",
    "vdot",
    "where",
    "zeros_like",
]
