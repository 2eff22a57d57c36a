"""Real data to race on: handwritten digits, tumours, and the pages of the Python reference."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.sparse_gradients import sparse_value_and_grad
from gradxform.transformation import Params
from gradxform.trees import PyTree

LossFunction: TypeAlias = Callable[[Params, Any], Any]

__all__ = ["TASKS", "LossFunction", "Task", "breast_cancer", "digits", "stratified", "text"]


@dataclass(frozen=True)
class Task:
    """A problem to train on.

    Attributes:
      name: what the report calls it.
      init: random key -> parameters.
      loss: ``loss(params, batch)`` -> the mean loss over the batch, or
        ``(loss, metrics)`` with a dictionary of scalars.
      train, validation, test: pytrees of arrays with one row an example.
      epochs: how many passes over the training split are enough.
      value_and_grad: what takes the gradients of a batch; those of all the
        training split at once are dense.
    """

    name: str
    init: Callable[[jax.Array], Params]
    loss: LossFunction
    train: PyTree
    validation: PyTree
    test: PyTree
    epochs: int = 30
    value_and_grad: Callable[..., Any] = jax.value_and_grad


def stratified(
    labels: np.ndarray, fractions: tuple[float, ...] = (0.6, 0.2, 0.2), seed: int = 0
) -> list[np.ndarray]:
    """Split the examples so that every class has its share in every part.

    Args:
      labels: the class of each example.
      fractions: the parts' shares; they sum to 1.
      seed: of the random order.

    Returns:
      The indices of each part, shuffled.

    Example:
      >>> import numpy as np
      >>> from gradxform.comparison.tasks import stratified
      >>> [len(part) for part in stratified(np.repeat([0, 1], 10))]
      [12, 4, 4]
    """
    random = np.random.default_rng(seed)
    ends = np.cumsum(fractions)[:-1]
    parts: list[list[np.ndarray]] = [[] for _ in fractions]
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        for part, chunk in zip(
            parts, np.split(members, np.round(ends * len(members)).astype(int)), strict=True
        ):
            part.append(chunk)
    return [random.permutation(np.concatenate(part)) for part in parts]


def _examples(
    inputs: np.ndarray, labels: np.ndarray, part: np.ndarray, dtype: Any = jnp.float32
) -> dict[str, jax.Array]:
    return {
        "inputs": jnp.asarray(inputs[part], dtype),
        "labels": jnp.asarray(labels[part], jnp.int32),
    }


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -chosen.mean(), {"accuracy": (logits.argmax(1) == labels).mean(dtype=jnp.float32)}


def digits(seed: int = 0) -> Task:
    """UCI digits: 1,797 images of 8 x 8 pixels, ten classes, a 64-64-10 network.

    Args:
      seed: of the split into 60 % training, 20 % validation and 20 % test.

    Returns:
      The `Task`.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels / 16

    def init(key: jax.Array) -> Params:
        drawn = jax.random.normal(key, (64, 64 + 10))  # in one draw: each takes a second to compile
        return {
            "hidden": {"kernel": drawn[:, :64] * (2 / 64) ** 0.5, "bias": jnp.zeros(64)},
            "out": {"kernel": drawn[:, 64:] * (1 / 64) ** 0.5, "bias": jnp.zeros(10)},
        }

    def loss(params: Params, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        hidden = jax.nn.relu(batch["inputs"] @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        return _cross_entropy(hidden @ params["out"]["kernel"] + params["out"]["bias"], batch["labels"])

    train, validation, test = (_examples(pixels, labels, part) for part in stratified(labels, seed=seed))
    return Task("digits", init, loss, train, validation, test, epochs=40)


def breast_cancer(seed: int = 0) -> Task:
    """Wisconsin breast cancer: 569 tumours, 30 measurements, logistic regression: convex.

    The measurements are standardized by the training split; a small L2
    penalty keeps the minimum where it can be reached.

    Args:
      seed: of the split into 60 % training, 20 % validation and 20 % test.

    Returns:
      The `Task`.
    """
    from sklearn.datasets import load_breast_cancer

    measured, labels = load_breast_cancer(return_X_y=True)
    parts = stratified(labels, seed=seed)
    measured = (measured - measured[parts[0]].mean(0)) / measured[parts[0]].std(0)

    def init(key: jax.Array) -> Params:
        return {"weights": jnp.zeros(30), "bias": jnp.zeros(())}

    def loss(params: Params, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = batch["inputs"] @ params["weights"] + params["bias"]
        signs = 2.0 * batch["labels"] - 1
        penalty = 0.5e-3 * (params["weights"] ** 2).sum()
        accuracy = ((logits > 0) == batch["labels"]).mean(dtype=jnp.float32)
        return jax.nn.softplus(-signs * logits).mean() + penalty, {"accuracy": accuracy}

    train, validation, test = (_examples(measured, labels, part) for part in parts)
    return Task("breast-cancer", init, loss, train, validation, test, epochs=40)


def passages(topics: dict[str, str], words: int = 25) -> dict[str, list[list[str]]]:
    r"""Cut the pages of the Python reference into passages of at most so many words.

    Some pages contain others whole. A paragraph belongs to the shortest page
    it stands in and to no other, so that none is met in two classes or in two
    splits.

    Args:
      topics: title -> page.
      words: the length of a passage; what is left at a page's end is dropped
        if it is shorter than half of that.

    Returns:
      Title -> passages, each a list of lower-case words.

    Example:
      >>> from gradxform.comparison.tasks import passages
      >>> passages({"if": "The if statement.", "all": "Statements:\n\nThe if statement."}, words=3)
      {'if': [['the', 'if', 'statement']], 'all': []}
    """
    seen: set[str] = set()
    cut: dict[str, list[list[str]]] = {}
    for title in sorted(topics, key=lambda title: (len(topics[title]), title)):
        spoken: list[str] = []
        for paragraph in re.split(r"\n\s*\n", topics[title]):
            plain = " ".join(paragraph.split())
            if plain not in seen:
                seen.add(plain)
                spoken += re.findall(r"[a-z_]{2,}", plain.lower())
        chunks = [spoken[start : start + words] for start in range(0, len(spoken), words)]
        cut[title] = [chunk for chunk in chunks if 2 * len(chunk) > words]
    return cut


def text(seed: int = 0, classes: int = 20, vocabulary: int = 2000) -> Task:
    """The Python reference that ships with Python: from which page is this passage of 25 words?

    A passage is the bag of its words: which of the vocabulary's words occur.
    A passage has some 20 of them, and most words are rare. Softmax regression
    over the pages with the most passages: the logits are the sum of the words'
    rows of the weights. The gradients are row-sparse, so that the moments of a
    word change when it is met, and at no other time.

    Args:
      seed: of the split into 60 % training, 20 % validation and 20 % test.
      classes: how many pages.
      vocabulary: how many words at most: the training split's most frequent
        among those that it has at least twice.

    Returns:
      The `Task`.
    """
    from pydoc_data.topics import topics

    cut = passages(topics)
    titles = sorted(cut, key=lambda title: (-len(cut[title]), title))[:classes]
    bags = [bag for title in titles for bag in cut[title]]
    labels = np.repeat(np.arange(len(titles)), [len(cut[title]) for title in titles])
    parts = stratified(labels, seed=seed)
    column = {word: i for i, word in enumerate(_frequent((bags[i] for i in parts[0]), vocabulary))}
    known = [sorted({column[word] for word in bag if word in column}) for bag in bags]
    # The number of words stands for no word.
    words = np.full((len(bags), max(map(len, known))), len(column))
    for row, of_bag in enumerate(known):
        words[row, : len(of_bag)] = of_bag

    def init(key: jax.Array) -> Params:
        return {"weights": jnp.zeros((len(column), len(titles))), "bias": jnp.zeros(len(titles))}

    def loss(params: Params, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        rows = params["weights"].at[batch["inputs"]].get(mode="fill", fill_value=0)
        return _cross_entropy(rows.sum(1) + params["bias"], batch["labels"])

    train, validation, test = (_examples(words, labels, part, jnp.int32) for part in parts)
    return Task("text", init, loss, train, validation, test, epochs=15, value_and_grad=sparse_value_and_grad)


def _frequent(bags: Iterable[list[str]], most: int) -> list[str]:
    counts = Counter(word for bag in bags for word in set(bag))
    return sorted((word for word in counts if counts[word] > 1), key=lambda w: (-counts[w], w))[:most]


TASKS: dict[str, Callable[[], Task]] = {"digits": digits, "breast-cancer": breast_cancer, "text": text}
"""The tasks with data, by the names that the command knows them by."""
