"""The losses against Optax, value and gradient, and in half precision against double."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import x64

import gradxform as gx
from gradxform import losses

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(4, 5)) * 3
Y = RNG.normal(size=(4, 5))
P = np.exp(Y) / np.exp(Y).sum(-1, keepdims=True)
ONE_HOT = np.eye(5)[[0, 4, 2, 2]]
CLASSES = np.array([0, 4, 2, 2])
BINARY = (Y > 0).astype(float)
SIGNS = np.where(Y > 0, 1.0, -1.0)
WHERE = Y < 1
EMBEDDINGS = RNG.normal(size=(6, 3))
PADS = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1.0], [0, 0, 0, 0, 1.0, 1.0]])
WORDS = np.array([[1, 2, 2], [3, 1, 0], [4, 0, 0]])
LABEL_PADS = np.array([[0, 0, 0], [0, 0, 1.0], [0, 1.0, 1.0]])


class Case(NamedTuple):
    """A call of a loss: the scores that it is differentiated by, and the rest."""

    name: str
    scores: Any
    rest: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012  # a case is never changed


CASES = [
    Case("squared_error", Z, (Y,)),
    Case("squared_error", Z),
    Case("l2_loss", Z, (Y,)),
    Case("huber_loss", Z, (Y,)),
    Case("huber_loss", Z, (Y,), {"delta": 0.3}),
    Case("log_cosh", Z, (Y,)),
    Case("log_cosh", 100 * Z),
    Case("cosine_similarity", Z, (Y,)),
    Case("cosine_distance", Z, (Y,), {"axis": 0, "epsilon": 1e-3}),
    Case("cosine_distance", Z, (Y,), {"where": WHERE}),
    Case("sigmoid_binary_cross_entropy", Z, (P,)),
    Case("sigmoid_binary_cross_entropy", 100 * Z, (BINARY,)),
    Case("sigmoid_focal_loss", Z, (BINARY,)),
    Case("sigmoid_focal_loss", Z, (BINARY,), {"alpha": 0.3, "gamma": 1.5}),
    Case("hinge_loss", Z, (SIGNS,)),
    Case("perceptron_loss", Z, (SIGNS,)),
    Case("sparsemax_loss", Z, (BINARY,)),
    Case("softmax_cross_entropy", Z, (P,)),
    Case("softmax_cross_entropy", Z, (P,), {"axis": 0, "where": WHERE}),
    Case("softmax_cross_entropy", Z, (P,), {"axis": (0, 1)}),
    Case("safe_softmax_cross_entropy", Z, (ONE_HOT,)),
    Case("softmax_cross_entropy_with_integer_labels", Z, (CLASSES,)),
    Case("softmax_cross_entropy_with_integer_labels", Z.T, (CLASSES,), {"axis": 0}),
    Case("poly_loss_cross_entropy", Z, (P,)),
    Case("poly_loss_cross_entropy", Z, (P,), {"epsilon": -0.5, "axis": 0}),
    Case("multiclass_hinge_loss", Z, (CLASSES,)),
    Case("multiclass_perceptron_loss", Z, (CLASSES,)),
    Case("multiclass_sparsemax_loss", Z, (CLASSES,)),
    Case("smooth_labels", P, (0.1,)),
    Case("kl_divergence", np.log(P), (P[::-1],)),
    Case("kl_divergence", np.log(P), (ONE_HOT,), {"axis": 0}),
    Case("kl_divergence_with_log_targets", np.log(P), (np.log(P[::-1]),)),
    Case("generalized_kl_divergence", Z, (np.exp(Y),)),
    Case("generalized_kl_divergence", Z, (np.exp(Y),), {"where": WHERE}),
    Case("ranking_softmax_loss", Z, (P,)),
    Case("ranking_softmax_loss", Z, (P,), {"where": WHERE, "weights": BINARY + 0.5}),
    Case("ranking_softmax_loss", Z, (P,), {"reduce_fn": None}),
    Case("ntxent", EMBEDDINGS, (np.array([0, 0, 1, 1, 2, 2]),)),
    Case("ntxent", EMBEDDINGS, (np.array([0, 0, 0, 1, 1, 1]),), {"temperature": 0.5}),
    Case("triplet_margin_loss", Z, (Y, P)),
    Case("triplet_margin_loss", Z, (Y, P), {"norm_degree": 4, "margin": 0.2}),
    Case("dice_loss", Z, (ONE_HOT,)),
    Case("dice_loss", Z, (ONE_HOT,), {"alpha": 0.3, "beta": 0.7, "ignore_background": True}),
    Case("dice_loss", Z, (ONE_HOT,), {"reduction": "sum", "smooth": 0.1}),
    Case("multiclass_generalized_dice_loss", Z, (ONE_HOT,)),
    Case("binary_dice_loss", Z, (BINARY,)),
    Case("ctc_loss", RNG.normal(size=(3, 6, 5)), (PADS, WORDS, LABEL_PADS)),
]  # fmt: skip


def _id(case: Case) -> str:
    return "-".join([case.name, *case.options])


def call_of(loss: Callable[..., Any], case: Case) -> tuple[Any, Any]:
    """The loss, and the gradient of its sum by the scores; in one program."""

    def total(scores: Any) -> tuple[Any, Any]:
        value = loss(scores, *case.rest, **case.options)
        return jnp.sum(value), value

    gradient, value = jax.jit(jax.grad(total, has_aux=True))(case.scores)
    return value, gradient


def cast(value: Any, dtype: Any) -> Any:
    floating = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return jnp.asarray(value, dtype) if floating else value


def of(case: Case, dtype: Any) -> Case:
    """The case with its arrays in a dtype."""
    options = {name: cast(value, dtype) for name, value in case.options.items()}
    return case._replace(
        scores=cast(case.scores, dtype), rest=tuple(cast(x, dtype) for x in case.rest), options=options
    )


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_optax_has_the_same(case: Case) -> None:
    ours, theirs = getattr(losses, case.name), getattr(optax.losses, case.name)
    with x64():  # where neither loses digits, so that a wrong term shows
        exact = of(case, np.float64)
        value, gradient = call_of(ours, exact)
        expected, their_gradient = call_of(theirs, exact)
        assert value.shape == expected.shape
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(gradient, their_gradient, rtol=1e-5, atol=1e-7)
    for dtype, eps in ((np.float32, 1e-5), (jnp.bfloat16, 0.01)):
        narrow = of(case, dtype)
        got, slope = call_of(ours, narrow)
        assert got.dtype == np.float32
        assert slope.dtype == dtype
        with x64():
            # The same numbers, in double precision: only the arithmetic differs.
            reference, steep = call_of(ours, of(narrow._replace(**_as_numpy(narrow)), np.float64))
        np.testing.assert_allclose(got, reference, rtol=2e-5, atol=2e-5)
        # Gradients come back rounded to the scores' dtype.
        np.testing.assert_allclose(
            np.asarray(slope, np.float64), steep, rtol=eps, atol=eps * np.abs(steep).max()
        )


def _as_numpy(case: Case) -> dict[str, Any]:
    def plain(x: Any) -> Any:
        return np.asarray(x, np.float64) if isinstance(x, jax.Array) and x.dtype != bool else x

    return {
        "scores": plain(case.scores),
        "rest": tuple(map(plain, case.rest)),
        "options": {name: plain(value) for name, value in case.options.items()},
    }


def test_every_loss_of_optax_is_there_with_its_arguments() -> None:
    public = {name for name in dir(optax.losses) if not name.startswith("_")}
    assert public <= set(losses.__all__)
    elsewhere = {"ctc_loss_with_forward_probs", "make_fenchel_young_loss", "convex_kl_divergence"}
    assert public - {case.name for case in CASES} == elsewhere
    assert losses.convex_kl_divergence is losses.generalized_kl_divergence
    for name in public:
        ours, theirs = (
            [
                (p.name, p.kind, p.default)
                for p in inspect.signature(getattr(module, name)).parameters.values()
            ]
            for module in (losses, optax.losses)
        )
        assert ours == theirs, name
        if hasattr(optax, name):
            assert getattr(gx, name) is getattr(losses, name)


def test_ctc_forward_probabilities() -> None:
    logits = jnp.asarray(RNG.normal(size=(3, 6, 5)), jnp.float32)
    ours = losses.ctc_loss_with_forward_probs(logits, PADS, WORDS, LABEL_PADS)
    theirs = optax.losses.ctc_loss_with_forward_probs(logits, PADS, WORDS, LABEL_PADS)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    for our_probs, their_probs in zip(ours[1:], theirs[1:], strict=True):
        shown = np.asarray(their_probs) > -1e4  # what cannot be reached is only very unlikely
        np.testing.assert_allclose(np.asarray(our_probs)[shown], np.asarray(their_probs)[shown], rtol=1e-4)
        assert (np.asarray(our_probs)[~shown] < -1e4).all()


def test_ctc_is_the_sum_over_all_alignments() -> None:
    """By hand: every sequence of labels and blanks that says "1 2", over four steps."""
    logits = RNG.normal(size=(1, 4, 3))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def says(path: tuple[int, ...]) -> list[int]:
        merged = [a for a, b in zip(path, (None, *path), strict=False) if a != b]
        return [label for label in merged if label]

    paths = [p for p in np.ndindex(3, 3, 3, 3) if says(p) == [1, 2]]
    expected = -np.log(sum(np.exp(sum(log_probs[0, t, a] for t, a in enumerate(p))) for p in paths))
    loss = losses.ctc_loss(
        jnp.asarray(logits, jnp.float32), np.zeros((1, 4)), np.array([[1, 2]]), np.zeros((1, 2))
    )
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)


def test_fenchel_young_losses() -> None:
    scores, targets = jnp.asarray(Z, jnp.float32), jnp.asarray(ONE_HOT, jnp.float32)
    ours = losses.make_fenchel_young_loss(jax.nn.logsumexp)
    theirs = optax.losses.make_fenchel_young_loss(jax.nn.logsumexp)
    np.testing.assert_allclose(ours(scores, targets), theirs(scores, targets), rtol=1e-5)
    # With the logarithm of the sum of exponentials it is the cross-entropy.
    np.testing.assert_allclose(
        ours(scores, targets), losses.softmax_cross_entropy(scores, targets), rtol=1e-5
    )


def _integers(make: Callable[..., Any], *rest: Any) -> Callable[[], Any]:
    return lambda: make(jnp.zeros((2, 3)), *rest)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (_integers(losses.softmax_cross_entropy_with_integer_labels, np.array([0, 3])), ValueError,
         r"labels\[1\] is 3, but labels must be from 0 to 2"),
        (_integers(losses.softmax_cross_entropy_with_integer_labels, jnp.zeros(2)), TypeError,
         "labels must be integers"),
        (_integers(losses.multiclass_hinge_loss, np.array([-1, 0])), ValueError, r"labels\[0\] is -1"),
        (_integers(losses.softmax_cross_entropy, jnp.zeros((3, 2))), ValueError,
         r"logits of shape \(2, 3\) and labels of shape \(3, 2\)"),
        (_integers(losses.squared_error, jnp.zeros((2, 1, 3))), ValueError, "do not belong together"),
        (lambda: losses.huber_loss(jnp.zeros(2), delta=-1.0), ValueError, r"delta must be .*, got -1\.0"),
        (lambda: losses.cosine_similarity(jnp.zeros(2), jnp.zeros(2), axis=2), ValueError, "axis must name"),
        (_integers(losses.softmax_cross_entropy, jnp.zeros((2, 3)), -1, jnp.zeros(3)), TypeError,
         "where must be boolean"),
        (lambda: losses.squared_error([1.0, 2.0]), TypeError, "predictions must be an array"),
        (lambda: losses.sigmoid_binary_cross_entropy(np.array([1, 0]), np.array([0.5, 0.5])), TypeError,
         "logits must be floating-point"),
        (_integers(losses.ntxent, np.array([0, 1]), 0.0), ValueError, "temperature must be above 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_a_label_out_of_range_is_no_number_inside_a_program() -> None:
    loss = jax.jit(losses.softmax_cross_entropy_with_integer_labels)
    assert np.isnan(np.asarray(loss(jnp.zeros((2, 3)), jnp.array([0, 3])))).tolist() == [False, True]


@pytest.mark.parametrize(
    ("loss", "scores"),
    [
        (lambda z: losses.cosine_similarity(z, jnp.zeros(3)).sum(), np.zeros(3)),
        (lambda z: losses.sigmoid_focal_loss(z, jnp.array([1.0, 0.0]), gamma=0.5).sum(),
         np.array([80.0, -80.0])),
        (lambda z: losses.safe_softmax_cross_entropy(z, jnp.array([1.0, 0, 0])).sum(),
         np.array([0.0, -np.inf, 1.0])),
        (lambda z: losses.softmax_cross_entropy(z, jnp.array([1.0, 0, 0])).sum(),
         np.array([1e30, -1e30, 0.0])),
        (lambda z: losses.softmax_cross_entropy(z, jnp.ones(3), where=jnp.zeros(3, bool)).sum(), np.ones(3)),
        (lambda z: losses.log_cosh(z).sum(), np.array([1e30, 0.0, -1e30])),
        (lambda z: losses.kl_divergence(z, jnp.array([0.0, 1.0])).sum(), np.array([-np.inf, 0.0])),
        (lambda z: losses.triplet_margin_loss(z, jnp.zeros(3), jnp.ones(3)).sum(), np.zeros(3)),
        (lambda z: losses.ranking_softmax_loss(z, jnp.zeros(3)), np.zeros(3)),
    ],
)  # fmt: skip
def test_edges_are_finite_with_finite_gradients(loss: Callable[[Any], Any], scores: np.ndarray) -> None:
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(scores, jnp.float32))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_closed_forms() -> None:
    z, y = jnp.asarray(Z, jnp.float32), jnp.asarray(Y, jnp.float32)
    np.testing.assert_allclose(losses.l2_loss(z, y), (Z - Y) ** 2 / 2, rtol=1e-5)
    small = np.abs(Z - Y) <= 1
    np.testing.assert_allclose(
        losses.huber_loss(z, y), np.where(small, (Z - Y) ** 2 / 2, np.abs(Z - Y) - 0.5), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(losses.log_cosh(z), np.log(np.cosh(Z)), rtol=1e-4, atol=1e-6)
    uniform = losses.softmax_cross_entropy_with_integer_labels(jnp.zeros((2, 8)), np.array([1, 5]))
    np.testing.assert_allclose(uniform, [np.log(8)] * 2, rtol=1e-6)
    unfocused = losses.sigmoid_focal_loss(z, BINARY, gamma=0.0)
    np.testing.assert_allclose(unfocused, losses.sigmoid_binary_cross_entropy(z, BINARY), rtol=1e-5)
    np.testing.assert_allclose(losses.smooth_labels(ONE_HOT, 0.1).sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        losses.poly_loss_cross_entropy(z, ONE_HOT, epsilon=0.0),
        losses.softmax_cross_entropy(z, ONE_HOT),
        rtol=1e-5,
    )
    # Sparsemax is 0 exactly where the label leads by a margin of 1.
    ahead = losses.multiclass_sparsemax_loss(jnp.array([[2.0, 0.9], [2.0, 1.1]]), np.array([0, 0]))
    assert ahead[0] == 0
    assert ahead[1] > 0
