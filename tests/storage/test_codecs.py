"""The codes of arrays against tables of their levels, other implementations of the formats, closed forms."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradxform.slots import DIVISOR, MOMENT, Kind
from gradxform.storage.codecs import CODECS, NEAREST, Codec, dithers, find_codec

KINDS = {"moment": MOMENT, "divisor": DIVISOR, "second moment": Kind(signed=False, nonzero=True)}
BLOCKS = {"int8": 256, "int8-linear": 256, "float8": 256, "int4": 128}

each = pytest.mark.parametrize("name", CODECS)
of_each_kind = pytest.mark.parametrize("kind", KINDS)
blockwise = pytest.mark.parametrize("name", BLOCKS)

jitted: dict[Any, Any] = {}


def _codec(name: str, kind: str) -> Codec:
    return CODECS[name].of(KINDS[kind])


def encode(codec: Codec, x: Any, dither: Any = NEAREST) -> tuple[Any, ...]:
    run = jitted.setdefault(("encode", codec), jax.jit(codec.encode))
    return tuple(map(np.asarray, run(jnp.asarray(x, jnp.float32), jnp.broadcast_to(dither, x.shape))))


def decode(codec: Codec, arrays: Any, size: int) -> np.ndarray:
    run = jitted.setdefault(("decode", codec), jax.jit(codec.decode, static_argnums=1))
    return np.asarray(run(arrays, size))


def there_and_back(codec: Codec, x: np.ndarray, dither: Any = NEAREST) -> np.ndarray:
    return decode(codec, encode(codec, x, dither), x.shape[-1])


def numbers(shape: tuple[int, ...], kind: str, seed: int = 0, spread: float = 3.0) -> np.ndarray:
    """Numbers over many orders of magnitude."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=shape) * np.exp(spread * rng.normal(size=shape))
    return np.asarray(drawn if KINDS[kind].signed else drawn**2, np.float32)


def magnitudes(x: np.ndarray, name: str) -> np.ndarray:
    """The largest magnitude of each number's block."""
    size = x.shape[-1]
    count = math.ceil(size / BLOCKS[name])
    length = math.ceil(size / count)
    length += length % 2 if name == "int4" else 0
    parts = [np.abs(x[..., i : i + length]).max(-1, keepdims=True) for i in range(0, size, length)]
    return np.concatenate([np.broadcast_to(p, (*p.shape[:-1], length)) for p in parts], -1)[..., :size]


def levels(name: str, kind: str) -> np.ndarray:
    """All levels from 0 to 1, written out."""
    signed = KINDS[kind].signed
    if name == "float8":
        every = np.arange(128, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
        return every[np.isfinite(every)] / 448
    if name == "int8-linear":
        return np.arange(128) / 127 if signed else (np.arange(256) / 255) ** 2
    steps = {"int8": 16, "int4": 2 if signed else 4}[name]
    bits = {"int8": 8, "int4": 4}[name] - signed
    found, distance = [0.0], 1.0
    for number in range(1, 2**bits):
        found.append(found[-1] + distance)
        distance *= 2 if number % steps == 0 else 1
    return np.asarray(found) / found[-1]


@of_each_kind
@blockwise
@pytest.mark.parametrize("shape", [(3, 512), (2, 2, 301)])
def test_every_number_goes_to_a_level_beside_it(name: str, kind: str, shape: tuple[int, ...]) -> None:
    x, table = numbers(shape, kind), levels(name, kind)
    scale = magnitudes(x, name)
    part = np.abs(x) / scale
    below = table[np.searchsorted(table, part, side="right") - 1]
    above = table[np.minimum(np.searchsorted(table, part), len(table) - 1)]
    nearest = np.where(part - below < above - part, below, above)
    if KINDS[kind].nonzero:
        nearest = np.maximum(nearest, table[1])
    found = np.abs(there_and_back(_codec(name, kind), x)) / scale
    between = np.isclose(part - below, above - part, rtol=2e-3)  # either will do
    np.testing.assert_allclose(found[~between], nearest[~between], rtol=2.0**-15)
    for count in range(3):
        found = np.abs(there_and_back(_codec(name, kind), x, dithers(shape, jnp.int32(count), 0))) / scale
        low, high = (np.maximum(bound, table[1] * KINDS[kind].nonzero) for bound in (below, above))
        assert ((found >= low * (1 - 2.0**-15)) & (found <= high * (1 + 2.0**-15))).all()


floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
rows = st.lists(floats, min_size=130, max_size=130).map(lambda row: np.asarray(row, np.float32))


@each
@pytest.mark.parametrize("kind", ["moment", "second moment"])
@settings(deadline=None, max_examples=25)
@given(row=rows, count=st.integers(0, 2**31 - 1))
def test_what_holds_of_any_numbers(name: str, kind: str, row: np.ndarray, count: int) -> None:
    codec, what = _codec(name, kind), KINDS[kind]
    row = row if what.signed else np.abs(row)
    size, dither = len(row), dithers(row.shape, jnp.int32(count), 1)
    arrays = encode(codec, row)
    found = decode(codec, arrays, size)
    # A number that is on a level stays there, whichever way it is rounded.
    for once, again in zip(arrays, encode(codec, found, dither), strict=True):
        np.testing.assert_array_equal(once, again)
    assert (np.sign(found) == np.sign(row))[found != 0].all()
    assert (found[row == 0] == 0).all()
    if what.nonzero:
        assert (found[row != 0] != 0).all()
    error, size_of = np.abs(found.astype(float) - row), np.abs(row).astype(float)
    largest = magnitudes(size_of, name) if name in BLOCKS else 0
    half_a_step = {
        "bfloat16": size_of * 2**-8,
        "bfloat16+8": size_of * 2**-16,
        "float8": np.maximum(size_of * 2**-4, largest * 2**-10 / 448),
        "int8": (size_of + largest / 247) / 32,
        "int8-linear": largest / 254 if what.signed else np.sqrt(size_of * largest) / 255 + largest / 255**2,
        "int4": (size_of + largest / 11) / 4,
    }[name]
    lowest = largest * levels(name, kind)[1] if name in BLOCKS and what.nonzero else 0
    np.testing.assert_array_less(error, np.maximum(half_a_step, lowest) * (1 + 2**-10) + 2.0**-100)


def test_float8_is_the_format_of_that_name() -> None:
    x = numbers((4, 256), "moment")
    codes, *_ = encode(CODECS["float8"], x)
    scale = magnitudes(there_and_back(CODECS["float8"], x), "float8")
    expected = (x / scale * np.float32(448)).clip(-448, 448).astype(ml_dtypes.float8_e4m3fn)
    same = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) == expected.astype(np.float32)
    assert same.mean() > 0.999  # halves go up here, and to the even there


@pytest.mark.parametrize("dither", [NEAREST, np.uint32(0x00080000), np.uint32(0xFFF80000)])
def test_bfloat16_has_the_upper_bits(dither: np.uint32) -> None:
    x = numbers((1000,), "moment")
    (upper,) = encode(CODECS["bfloat16"], x, dither)
    if dither == NEAREST:
        np.testing.assert_array_equal(upper, x.astype(ml_dtypes.bfloat16))
    toward_zero = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    steps = (np.abs(upper.astype(np.float32)) - np.abs(toward_zero)) / np.abs(toward_zero)
    assert ((steps >= 0) & (steps <= 2**-7)).all()
    high, low = encode(CODECS["bfloat16+8"], x, dither)
    assert high.dtype == ml_dtypes.bfloat16
    assert low.dtype == np.uint8
    both = (high.view(np.uint16).astype(np.uint32) << 16 | low.astype(np.uint32) << 8).view(np.float32)
    np.testing.assert_array_equal(both, there_and_back(CODECS["bfloat16+8"], x, dither))
    assert (np.abs(both - x) <= np.abs(x) * 2**-15).all()


@of_each_kind
@each
def test_dithers_make_roundings_right_on_average(name: str, kind: str) -> None:
    codec, steps = _codec(name, kind), 400
    x = numbers((2, 256), kind, spread=0.5)

    @jax.jit
    def mean(x: jax.Array) -> jax.Array:
        def once(count: jax.Array) -> jax.Array:
            return codec.decode(codec.encode(x, dithers(x.shape, count, 0)), 256)

        return jax.vmap(once)(jnp.arange(steps)).mean(0)

    step = np.abs(
        there_and_back(codec, x, np.uint32(0x00080000)) - there_and_back(codec, x, np.uint32(0xFFF80000))
    )
    above = np.abs(x) > (magnitudes(x, name) * levels(name, kind)[1] if name in BLOCKS else 0)
    error = np.abs(np.asarray(mean(jnp.asarray(x))) - x)
    # Of random dithers the mean would be off by 1/20 of a step now and then; these are spread more evenly.
    bound = 0.01 * step + 2.0**-16 * np.abs(x)
    np.testing.assert_array_less(error[above], bound[above])


@pytest.mark.parametrize("name", [name for name in CODECS if name != "bfloat16+8"])
def test_a_slow_average_follows(name: str) -> None:
    """Of squares that fall to a tenth in all of a block but one number; by nearest levels it would not."""
    codec, decay, steps = _codec(name, "second moment"), 0.999, 6000
    rng = np.random.default_rng(0)
    scale = np.where(np.arange(64) == 0, 1.0, 0.1)
    start = np.ones(64, np.float32)
    squares = jnp.asarray(scale * rng.chisquare(1, (steps, 64)), jnp.float32)

    @jax.jit
    def run(squares: jax.Array, dithered: jax.Array) -> jax.Array:
        def step(arrays: Any, at: Any) -> Any:
            count, square = at
            average = decay * codec.decode(arrays, 64) + (1 - decay) * square
            dither = jnp.where(dithered, dithers((64,), count, 0), NEAREST)
            return codec.encode(average, dither), average

        first = codec.encode(jnp.asarray(start), NEAREST)
        return jax.lax.scan(step, first, (jnp.arange(steps), squares))[1][steps // 2 :].mean(0)

    exact = [start.astype(float)]
    for square in np.asarray(squares, float):
        exact.append(decay * exact[-1] + (1 - decay) * square)
    expected = np.mean(exact[1 + steps // 2 :], 0)
    off = np.asarray(run(squares, True)) / expected - 1
    assert abs(off[1:].mean()) < 0.03
    nearest = np.asarray(run(squares, False)) / expected - 1
    assert abs(nearest[1:].mean()) > 5 * abs(off[1:].mean())


@of_each_kind
@each
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, np.uint32(0x7FFFFFFF).view(np.float32)])
def test_what_is_not_finite_stays_so(name: str, kind: str, bad: float) -> None:
    x = np.ones((2, 300), np.float32)
    x[0, 7] = bad
    found = there_and_back(_codec(name, kind), x)
    assert not np.isfinite(found[0, 7])
    assert np.isfinite(found[1]).all()
    if name in BLOCKS:
        assert np.isnan(found[0, : 300 // math.ceil(300 / BLOCKS[name])]).all()


@of_each_kind
@each
def test_zeros_and_the_smallest_and_largest_numbers(name: str, kind: str) -> None:
    codec = _codec(name, kind)
    assert (there_and_back(codec, np.zeros((2, 70), np.float32)) == 0).all()
    smallest = np.full((1, 70), 2.0**-126, np.float32)
    smallest[0, 0] = 2.0**-100
    found = there_and_back(codec, smallest)
    assert np.isfinite(found).all()
    assert (found != 0).all() or not KINDS[kind].nonzero
    large = np.full((1, 70), 2.0**124, np.float32)
    np.testing.assert_allclose(there_and_back(codec, large), large, rtol=2**-15)
    largest = there_and_back(codec, large * 8)
    assert np.isnan(largest).all() if name in BLOCKS else (largest == large * 8).all()


@each
def test_the_layout_is_the_arrays(name: str) -> None:
    """Any rows of the codes are the codes of the rows."""
    codec, x = CODECS[name], numbers((4, 5, 130), "moment")
    arrays = encode(codec, x)
    assert {array.shape[:2] for array in arrays} == {(4, 5)}
    for all_rows, some in zip(arrays, encode(codec, x[1:3]), strict=True):
        np.testing.assert_array_equal(all_rows[1:3], some)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("bfloat16", 64, 2),
        ("bfloat16+8", 64, 3),
        ("int8", 64, 1 + 3 / 64),
        ("int8", 768, 1 + 3 / 256),
        ("int8-linear", 768, 1 + 3 / 256),
        ("float8", 300, 1 + 3 / 150),
        ("int4", 768, 1 / 2 + 3 / 128),
        ("int4", 5, 3 / 5 + 3 / 5),
    ],
)
def test_bytes(name: str, size: int, expected: float) -> None:
    arrays = encode(CODECS[name], np.ones((2, size), np.float32))
    assert sum(array.nbytes for array in arrays) / (2 * size) == pytest.approx(expected)


def test_negative_numbers_have_no_place_among_second_moments() -> None:
    for name in BLOCKS:
        found = there_and_back(_codec(name, "second moment"), np.asarray([-3.0, 1.0], np.float32))
        np.testing.assert_allclose(found, [0, 1])


def test_dithers_are_spread_evenly_over_steps_places_and_slots() -> None:
    of_steps = np.stack([dithers((5, 7), jnp.int32(count), 0) for count in range(64)]) / 2.0**32
    assert of_steps.min() >= 2**-13
    assert of_steps.max() <= 1 - 2**-13
    for fractions in (of_steps[:, 3, 4], np.asarray(dithers((64,), jnp.int32(9), 2)) / 2.0**32):
        # The largest gap between 64 random ones would be around 0.07.
        assert np.diff(np.sort(fractions)).max() < 0.04
    assert not np.array_equal(dithers((7,), jnp.int32(3), 0), dithers((7,), jnp.int32(3), 1))


def test_an_unknown_codec_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no codec 'int7'; there are 'bfloat16', "):
        find_codec("int7")
    with pytest.raises(TypeError, match="a name or a Codec, got 8"):
        find_codec(8)  # type: ignore[arg-type]
    # One that does not say how to encode and decode is refused when it is made.
    with pytest.raises(TypeError, match=r"abstract class Codec .*decode.*encode"):
        Codec()  # type: ignore[abstract]
