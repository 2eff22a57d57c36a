"""The functions of `gradxform.tree` under the names of `optax.tree_utils`."""

from gradxform.tree import (
    NamedTupleKey,
)
from gradxform.tree import (
    add as tree_add,
)
from gradxform.tree import (
    add_scale as tree_add_scale,
)
from gradxform.tree import (
    allclose as tree_allclose,
)
from gradxform.tree import (
    batch_shape as tree_batch_shape,
)
from gradxform.tree import (
    bias_correction as tree_bias_correction,
)
from gradxform.tree import (
    cast as tree_cast,
)
from gradxform.tree import (
    cast_like as tree_cast_like,
)
from gradxform.tree import (
    clip as tree_clip,
)
from gradxform.tree import (
    conj as tree_conj,
)
from gradxform.tree import (
    div as tree_div,
)
from gradxform.tree import (
    dtype as tree_dtype,
)
from gradxform.tree import (
    full_like as tree_full_like,
)
from gradxform.tree import (
    get as tree_get,
)
from gradxform.tree import (
    get_all_with_path as tree_get_all_with_path,
)
from gradxform.tree import (
    map_params as tree_map_params,
)
from gradxform.tree import (
    max as tree_max,
)
from gradxform.tree import (
    min as tree_min,
)
from gradxform.tree import (
    mul as tree_mul,
)
from gradxform.tree import (
    norm as tree_norm,
)
from gradxform.tree import (
    ones_like as tree_ones_like,
)
from gradxform.tree import (
    random_like as tree_random_like,
)
from gradxform.tree import (
    real as tree_real,
)
from gradxform.tree import (
    scale as tree_scale,
)
from gradxform.tree import (
    set as tree_set,
)
from gradxform.tree import (
    size as tree_size,
)
from gradxform.tree import (
    split_key_like as tree_split_key_like,
)
from gradxform.tree import (
    sub as tree_sub,
)
from gradxform.tree import (
    sum as tree_sum,
)
from gradxform.tree import (
    unwrap_random_key_data as tree_unwrap_random_key_data,
)
from gradxform.tree import (
    update_infinity_moment as tree_update_infinity_moment,
)
from gradxform.tree import (
    update_moment as tree_update_moment,
)
from gradxform.tree import (
    update_moment_per_elem_norm as tree_update_moment_per_elem_norm,
)
from gradxform.tree import (
    vdot as tree_vdot,
)
from gradxform.tree import (
    where as tree_where,
)
from gradxform.tree import (
    zeros_like as tree_zeros_like,
)

__all__ = [
    "NamedTupleKey",
    "tree_add",
    "tree_add_scale",
    "tree_allclose",
    "tree_batch_shape",
    "tree_bias_correction",
    "tree_cast",
    "tree_cast_like",
    "tree_clip",
    "tree_conj",
    "tree_div",
    "tree_dtype",
    "tree_full_like",
    "tree_get",
    "tree_get_all_with_path",
    "tree_map_params",
    "tree_max",
    "tree_min",
    "tree_mul",
    "tree_norm",
    "tree_ones_like",
    "tree_random_like",
    "tree_real",
    "tree_scale",
    "tree_set",
    "tree_size",
    "tree_split_key_like",
    "tree_sub",
    "tree_sum",
    "tree_unwrap_random_key_data",
    "tree_update_infinity_moment",
    "tree_update_moment",
    "tree_update_moment_per_elem_norm",
    "tree_vdot",
    "tree_where",
    "tree_zeros_like",
]
