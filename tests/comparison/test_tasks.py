"""The data: real, split without leaks, and standardized by the training split alone."""

import functools
import re
from dataclasses import replace
from pydoc_data.topics import topics

import jax
import numpy as np
import pytest

from gradxform.comparison.contestants import CONTESTANTS
from gradxform.comparison.runner import Arena, Trainer
from gradxform.comparison.tasks import TASKS, passages, stratified
from gradxform.sparse_gradients import sparse_value_and_grad


@pytest.fixture(scope="module", params=TASKS)
def task(request):
    return TASKS[request.param]()


def bag(task, split):
    """Which of the words each passage of the text has; no word is said twice."""
    vocabulary = jax.eval_shape(task.init, jax.random.key(0))["weights"].shape[0]
    words = np.asarray(split["inputs"])
    counts = np.zeros((len(words), vocabulary + 1))
    np.add.at(counts, (np.arange(len(words))[:, None], words), 1)
    assert set(np.unique(counts[:, :-1])) == {0, 1}
    return counts[:, :-1].astype(np.float32)


def test_splits_cover_the_data_and_share_the_classes(task):
    sizes = {"digits": 1797, "breast-cancer": 569}
    parts = [np.asarray(part["labels"]) for part in (task.train, task.validation, task.test)]
    labels = np.concatenate(parts)
    assert len(labels) == sizes.get(task.name, len(labels))
    for part, fraction in zip(parts, (0.6, 0.2, 0.2), strict=True):
        counts = np.bincount(part, minlength=labels.max() + 1)
        np.testing.assert_allclose(counts, fraction * np.bincount(labels), atol=1)
    if task.name == "digits":
        assert len(np.unique(np.asarray(task.train["inputs"]), axis=0)) == len(parts[0])
        assert task.train["inputs"].max() == 1
    if task.name == "breast-cancer":
        inputs = np.asarray(task.train["inputs"])
        np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(inputs.std(0), 1, rtol=1e-4)
        assert abs(np.asarray(task.test["inputs"]).mean(0)).max() > 0.01
    if task.name == "text":
        inputs = bag(task, task.train)
        assert inputs.sum(0).min() >= 2
        assert 5 < inputs.sum(1).mean() < 25
        assert inputs.sum(1).max() == task.train["inputs"].shape[1] == 25
        assert labels.max() + 1 == 20


def test_loss_at_the_start_is_near_that_of_a_guess(task):
    classes = int(max(task.train["labels"])) + 1
    loss, metrics = jax.jit(task.loss)(task.init(jax.random.key(0)), task.train)
    assert float(loss) == pytest.approx(np.log(classes), rel=1e-4 if task.name != "digits" else 0.3)
    assert 0 <= float(metrics["accuracy"]) <= 1


def test_words_that_are_looked_up_are_the_bag_of_words_and_their_gradient_is_row_sparse():
    task = TASKS["text"]()
    batch = {name: values[:32] for name, values in task.train.items()}
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(np.float32), task.init(jax.random.key(0))
    )

    def of_bags(params, bags):
        logits = jax.nn.log_softmax(bags @ params["weights"] + params["bias"])
        return -logits[np.arange(32), batch["labels"]].mean()

    (loss, _), grads = jax.jit(task.value_and_grad(task.loss, has_aux=True))(params, batch)
    expected, dense = jax.jit(jax.value_and_grad(of_bags))(params, bag(task, batch))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert grads["weights"].values.shape == (32 * 25, 20)
    np.testing.assert_allclose(grads["weights"].to_dense(), dense["weights"], atol=1e-6)
    np.testing.assert_allclose(grads["bias"], dense["bias"], atol=1e-6)


def test_the_race_takes_the_tasks_own_gradients():
    key, asked = jax.random.key(1), []

    def recording(fun, **how):
        asked.append(fun)
        return sparse_value_and_grad(fun, **how)

    ends = []
    for own in (recording, jax.value_and_grad):
        task = replace(TASKS["text"](), value_and_grad=own)
        trainer = Trainer(Arena(task), replace(CONTESTANTS["adagrad"], learning_rates=(0.1, 0.3)))
        grid, run = trainer.grid(key[None], 1), trainer.run(0.3, key, 1)
        assert len(asked) == 2
        np.testing.assert_allclose(grid.loss[1, 0], run.history.loss, rtol=1e-4)
        ends.append(run.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), *ends)
    assert np.abs(ends[0]["weights"]).max() > 0.1


def test_stratified_is_a_partition():
    labels = np.random.default_rng(1).integers(0, 4, 101)
    parts = stratified(labels, (0.5, 0.3, 0.2), seed=3)
    assert sorted(np.concatenate(parts)) == list(range(101))
    assert not np.array_equal(parts[0], np.sort(parts[0]))
    assert all(
        np.array_equal(a, b) for a, b in zip(parts, stratified(labels, (0.5, 0.3, 0.2), 3), strict=True)
    )
    assert not np.array_equal(parts[0], stratified(labels, (0.5, 0.3, 0.2), 4)[0])


def test_no_paragraph_of_the_reference_is_used_twice():
    cut = passages(topics)
    assert set(cut) == set(topics)
    words = sum(len(passage) for page in cut.values() for passage in page)
    paragraphs = {" ".join(p.split()) for page in topics.values() for p in re.split(r"\n\s*\n", page)}
    once = sum(len(re.findall(r"[a-z_]{2,}", p.lower())) for p in paragraphs)
    dropped = sum(len(re.findall(r"[a-z_]{2,}", page.lower())) for page in topics.values()) - once
    assert dropped > 0.1 * once  # so much stands in several pages
    assert 0.9 * once < words <= once
    assert all(12 < len(passage) <= 25 for page in cut.values() for passage in page)
