"""The data: real, split without leaks, and standardized by the training split alone."""

import re
from pydoc_data.topics import topics

import jax
import numpy as np
import pytest

from gradxform.comparison.tasks import TASKS, passages, stratified


@pytest.fixture(scope="module", params=TASKS)
def task(request):
    return TASKS[request.param]()


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
        inputs = np.asarray(task.train["inputs"])
        assert set(np.unique(inputs)) == {0.0, 1.0}
        assert inputs.sum(0).min() >= 2
        assert 5 < inputs.sum(1).mean() < 25
        assert labels.max() + 1 == 20


def test_loss_at_the_start_is_near_that_of_a_guess(task):
    classes = int(max(task.train["labels"])) + 1
    loss, metrics = jax.jit(task.loss)(task.init(jax.random.key(0)), task.train)
    assert float(loss) == pytest.approx(np.log(classes), rel=1e-4 if task.name != "digits" else 0.3)
    assert 0 <= float(metrics["accuracy"]) <= 1


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
