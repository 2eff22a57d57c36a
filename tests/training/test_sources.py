import jax.numpy as jnp
import numpy as np
import pytest

import gradxform.training.sources as sources
from gradxform.training.sources import Stream, is_stream


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (iter([1]), True),
        ((i for i in range(3)), True),
        (range(3), True),
        (np.zeros(3), False),
        (jnp.zeros(3), False),
        ({"x": np.zeros(3)}, False),
        ([np.zeros(3)], False),
        ("file", False),
        (None, False),
    ],
)
def test_is_stream(data, expected):
    assert is_stream(data) is expected


def test_batches_are_grouped_by_shape_and_filled_up():
    shapes = [2, 2, 2, 2, 2, 3, 2, 2]
    stream = Stream(iter([np.full(size, i, np.float32) for i, size in enumerate(shapes)]), 1, 3)
    drawn = [stream.draw(most) for most in (10, 10, 10, 10, 10)]
    assert [group and group.data[: group.steps, 0].tolist() for group in drawn] == [
        [0, 1, 2],
        [3, 4],
        [5],
        [6, 7],
        None,
    ]
    assert [group.data.shape for group in drawn[:4]] == [(3, 2), (3, 2), (3, 3), (3, 2)]
    assert drawn[0].signature == drawn[1].signature == drawn[3].signature != drawn[2].signature


def test_no_more_is_drawn_than_asked_for():
    source = iter(range(10))
    assert Stream(source, 1, 8).draw(4).steps == 4
    assert next(source) == 4


def test_what_starts_anew_is_gone_through_again():
    stream = Stream([np.ones(1), np.zeros(1)], 3, 64)
    assert stream.draw(100).data[:6, 0].tolist() == [1, 0, 1, 0, 1, 0]


def test_large_batches_are_stacked_less(monkeypatch):
    monkeypatch.setattr(sources, "_STACK_BYTES", 100)
    stream = Stream(iter([np.zeros(10, np.float32)] * 5), 1, 64)
    assert [stream.draw(64).data.shape for _ in range(2)] == [(2, 10), (2, 10)]
