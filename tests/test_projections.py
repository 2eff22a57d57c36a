"""The nearest points of sets: they lie in the set, nothing in it is nearer, and Optax finds the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradxform as gx

RNG = np.random.default_rng(0)
NORMAL = {"a": jnp.asarray([1.0, -2.0, 0.5]), "b": jnp.asarray([[0.3, 1.0]])}


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


A = flat(NORMAL)

# name: (arguments, whether a vector is in the set up to a tolerance)
SETS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "projection_non_negative": ((), lambda x, e: (x >= -e).all()),
    "projection_box": ((-0.5, 2.0), lambda x, e: ((x >= -0.5 - e) & (x <= 2 + e)).all()),
    "projection_hypercube": ((2.0,), lambda x, e: ((x >= -e) & (x <= 2 + e)).all()),
    "projection_linf_ball": ((0.7,), lambda x, e: (np.abs(x) <= 0.7 + e).all()),
    "projection_simplex": ((1.5,), lambda x, e: (x >= -e).all() and abs(x.sum() - 1.5) <= e),
    "projection_l1_sphere": ((1.5,), lambda x, e: abs(np.abs(x).sum() - 1.5) <= e),
    "projection_l1_ball": ((1.5,), lambda x, e: np.abs(x).sum() <= 1.5 + e),
    "projection_l2_sphere": ((2.0,), lambda x, e: abs(np.sqrt((x**2).sum()) - 2) <= e),
    "projection_l2_ball": ((2.0,), lambda x, e: np.sqrt((x**2).sum()) <= 2 + e),
    "projection_vector": ((NORMAL,), lambda x, e: np.abs(x - x @ A / (A @ A) * A).max() <= e),
    "projection_hyperplane": ((NORMAL, 0.8), lambda x, e: abs(x @ A - 0.8) <= e),
    "projection_halfspace": ((NORMAL, 0.8), lambda x, e: x @ A <= 0.8 + e),
}
CONVEX = [name for name in SETS if not name.endswith("sphere")]

each = pytest.mark.parametrize("name", SETS)


def tree_of(numbers: list[float]) -> Any:
    return {"a": jnp.asarray(numbers[:3], jnp.float32), "b": jnp.asarray([numbers[3:]], jnp.float32)}


TREES = st.lists(st.floats(-10, 10, width=32, allow_subnormal=False), min_size=5, max_size=5).map(tree_of)
PROJECT = {
    name: jax.jit(lambda x, name=name: getattr(gx.projections, name)(x, *SETS[name][0])) for name in SETS
}


@each
@settings(deadline=None, max_examples=40)
@given(tree=TREES)
def test_the_point_is_in_the_set_and_stays_where_it_is(name: str, tree: Any) -> None:
    project, inside = PROJECT[name], SETS[name][1]
    point = project(tree)
    assert inside(flat(point).astype(float), 2e-5)
    np.testing.assert_allclose(flat(project(point)), flat(point), atol=2e-5)
    assert jax.tree.map(jnp.shape, point) == jax.tree.map(jnp.shape, tree)


@pytest.mark.parametrize("name", CONVEX)
@settings(deadline=None, max_examples=40)
@given(tree=TREES, other=TREES)
def test_no_other_point_of_the_set_is_nearer(name: str, tree: Any, other: Any) -> None:
    """Of a convex set: the angle at the projection, to any other point of it, is not acute."""
    project = PROJECT[name]
    x, point, another = (flat(t).astype(float) for t in (tree, project(tree), project(other)))
    assert (x - point) @ (another - point) <= 1e-3


@each
def test_optax_has_the_same_with_the_same_gradients(name: str) -> None:
    arguments = SETS[name][0]
    ours, theirs = getattr(gx.projections, name), getattr(optax.projections, name)
    if name == "projection_hypercube":  # theirs takes a single array only
        theirs = lambda tree, scale: optax.projections.projection_box(  # noqa: E731
            tree, jax.tree.map(jnp.zeros_like, tree), scale
        )
    weights = jnp.asarray(RNG.normal(size=5), jnp.float32)

    def weighted(project: Any) -> Any:
        def total(tree: Any) -> Any:
            leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(project(tree, *arguments))]
            return jnp.concatenate(leaves) @ weights

        return jax.jit(jax.value_and_grad(total))

    our_value, their_value = weighted(ours), weighted(theirs)
    if name in ("projection_box", "projection_hypercube"):  # theirs takes trees only
        arguments = tuple(jax.tree.map(lambda leaf, x=x: jnp.full_like(leaf, x), NORMAL) for x in arguments)
    for scale in (0.1, 1.0, 5.0):
        tree = tree_of((scale * RNG.normal(size=5)).tolist())
        for ours_at, theirs_at in zip(
            jax.tree.leaves(our_value(tree)), jax.tree.leaves(their_value(tree)), strict=True
        ):
            np.testing.assert_allclose(ours_at, theirs_at, rtol=1e-5, atol=1e-5)


@each
def test_dtypes_stay(name: str) -> None:
    tree = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree_of([0.0] * 5))
    arguments = SETS[name][0]
    if arguments and isinstance(arguments[0], dict):
        arguments = (jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), arguments[0]), *arguments[1:])
    point = getattr(gx.projections, name)(tree, *arguments)
    assert all(np.isfinite(flat(point).astype(float)))
    if name not in ("projection_vector", "projection_hyperplane", "projection_halfspace"):
        assert {leaf.dtype for leaf in jax.tree.leaves(point)} == {jnp.dtype(jnp.bfloat16)}


def test_of_nothing_and_of_zero() -> None:
    zero = jnp.zeros(4)
    np.testing.assert_allclose(gx.projections.projection_l2_sphere(zero), [0.5] * 4)
    np.testing.assert_allclose(gx.projections.projection_l1_sphere(zero), [0.25] * 4)
    assert np.isfinite(jax.jacobian(gx.projections.projection_l2_ball)(zero)).all()
    assert gx.projections.projection_l2_ball({}) == {}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.projection_l2_ball(jnp.ones(2), -1.0), r"scale must be at least 0, got -1\.0"),
        (lambda p: p.projection_simplex(jnp.ones(2), 0), "scale must be above 0, got 0"),
        (lambda p: p.projection_l1_ball(jnp.ones(2), -1), "scale must be above 0, got -1"),
        (
            lambda p: p.projection_vector({"w": jnp.ones(2)}, {"v": jnp.ones(2)}),
            r"\['w'\] has no counterpart",
        ),
        (lambda p: p.projection_box({"w": jnp.ones(2)}, {"v": 0.0}, 1.0), r"\['w'\] has no counterpart"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(gx.projections)
