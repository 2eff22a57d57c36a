r"""Codes for arrays: one byte a number instead of four, or half a byte, or three that lose almost nothing.

The nearest level is the wrong one to round to. A second moment moves by a thousandth in a step, and the
levels of a byte are hundredths apart: it would stand still, or follow the largest number of its block. So
what lies between two levels goes up or down by a *dither*, a fraction that runs from 0 to 1 over the steps,
and on average goes nowhere. Multiples of the golden ratio, modulo 1, are such fractions; they cost an
addition, and their sums stay closer to the mean than those of random numbers.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradxform.slots import Kind

__all__ = [
    "CODECS",
    "NEAREST",
    "BFloat16",
    "BFloat16Plus8",
    "Chords",
    "Codec",
    "Float8",
    "Linear",
    "dithers",
    "find_codec",
]

NEAREST = np.uint32(2**31)
"""The dither that rounds to the nearest level: one half, in units of 2⁻³²."""

_LEAST = 2.0**-126
"""The least positive number that no processor takes for 0."""

_Arrays = tuple[jax.Array, ...]


class Codec(ABC):
    """A way to keep arrays in few bytes: a frozen dataclass with `encode` and `decode`.

    Arrays are in float32 and have at least one axis. What they become has as
    many axes, of the same lengths but for the last one: so it lies on devices
    as the array would, and its rows stand for the array's.

    Example:
      >>> import dataclasses
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> @dataclasses.dataclass(frozen=True)
      ... class Float16(gx.Codec):
      ...     def encode(self, x, dither):
      ...         return (x.astype(jnp.float16),)
      ...     def decode(self, arrays, size):
      ...         return arrays[0].astype(jnp.float32)
      >>> tx = gx.store(gx.trace(0.9), Float16(), min_size=1)
      >>> gx.describe(tx, jnp.ones(8)).state_bytes  # the count has four
      20
    """

    def of(self, kind: Kind) -> "Codec":
        """The codec for numbers of a kind; by default one for all.

        Args:
          kind: what they are like. Of numbers that are `nonzero`, none must become 0.

        Returns:
          A `Codec`.
        """
        return self

    @abstractmethod
    def encode(self, x: jax.Array, dither: Any) -> _Arrays:
        """An array in few bytes.

        Args:
          x: the array.
          dither: a uint32 for each number, or one for all. A number whose
            distance from the level below is more than one minus this, in units of
            2⁻³² of the distance between two levels, goes up; with 2³¹ it goes to
            the nearest.

        Returns:
          A tuple of arrays.
        """

    @abstractmethod
    def decode(self, arrays: _Arrays, size: int) -> jax.Array:
        """The array, as nearly as it is known.

        Args:
          arrays: what `encode` has returned; those below float32 may come in float32.
          size: how long the last axis is.

        Returns:
          The array.
        """


@dataclass(frozen=True)
class BFloat16(Codec):
    """The upper half of a float32: eight binary digits."""

    def encode(self, x: jax.Array, dither: Any) -> _Arrays:
        return (_drop(x, 16, dither).astype(jnp.bfloat16),)

    def decode(self, arrays: _Arrays, size: int) -> jax.Array:
        return arrays[0].astype(jnp.float32)


@dataclass(frozen=True)
class BFloat16Plus8(Codec):
    """The upper half of a float32 and, in a byte beside it, the next eight bits: sixteen binary digits."""

    def encode(self, x: jax.Array, dither: Any) -> _Arrays:
        return _split(_drop(x, 8, dither))

    def decode(self, arrays: _Arrays, size: int) -> jax.Array:
        return _join(*arrays)


@dataclass(frozen=True)
class _Blocks(Codec):
    """Codes for what part a number is of the largest one in its block; the blocks lie along the last axis.

    The largest magnitude has three bytes. In two, it could not follow a second
    moment either.

    Attributes:
      block: how long the blocks are at most; those of a row are equally long.
      signed, nonzero: as in `Kind`.
    """

    block: int = 256
    signed: bool = True
    nonzero: bool = False

    @property
    @abstractmethod
    def lowest(self) -> float:
        """The lowest level above 0."""

    @property
    @abstractmethod
    def highest(self) -> float:
        """The level of the largest magnitude."""

    @abstractmethod
    def place(self, x: jax.Array, level: jax.Array, dither: Any) -> jax.Array:
        """The codes of numbers whose magnitudes lie at these levels, and in between."""

    @abstractmethod
    def level(self, codes: jax.Array, size: int) -> jax.Array:
        """The levels of codes, with the numbers' signs; `size` is the last axis's."""

    def of(self, kind: Kind) -> Codec:
        return replace(self, signed=kind.signed, nonzero=kind.nonzero)

    def encode(self, x: jax.Array, dither: Any) -> _Arrays:
        x = x if self.signed else lax.max(x, np.float32(0))
        scale = self._scale(x)
        level = lax.abs(x) * self._spread(self.highest / scale, x.shape[-1])
        return self.place(x, level, dither), *_split(scale)

    def decode(self, arrays: _Arrays, size: int) -> jax.Array:
        codes, *scale = arrays
        return self.level(codes, size) * self._spread(_join(*scale) * (1 / self.highest), size)

    def _blocks(self, size: int) -> tuple[int, int]:
        """How many blocks a row has, and how long they are."""
        blocks = -(-size // self.block)
        return blocks, -(-size // blocks)

    def _scale(self, x: jax.Array) -> jax.Array:
        """The largest magnitude of each block, in the digits that are kept of it."""
        size = x.shape[-1]
        blocks, length = self._blocks(size)
        if blocks * length > size:
            x = lax.pad(x, np.float32(0), [(0, 0, 0)] * (x.ndim - 1) + [(0, blocks * length - size, 0)])
        largest = _largest(x.reshape(*x.shape[:-1], blocks, length))
        # The lowest level must not be too small a number. Where not all is finite, all is NaN, and so it is
        # for the last few numbers before infinity, one over which would be too small.
        largest = jnp.where(
            largest < 2.0**125, jnp.maximum(largest, _LEAST * self.highest / self.lowest), jnp.nan
        )
        return _drop(largest, 8, NEAREST)

    def _spread(self, of_blocks: jax.Array, size: int) -> jax.Array:
        """What is known of blocks, for each of their numbers."""
        *rows, blocks = of_blocks.shape
        length = self._blocks(size)[1]
        wide = jnp.broadcast_to(of_blocks[..., None], (*rows, blocks, length))
        return wide.reshape(*rows, blocks * length)[..., :size]


@dataclass(frozen=True)
class Chords(_Blocks):
    r"""Levels that are denser near 0, as telephone lines have them.

    A number :math:`y` in [0, 1] is kept as :math:`y + \delta` in a
    floating-point number with few bits. Between two powers of 2 the levels are
    evenly spaced, a chord; on the next chord they are twice as far apart, and
    :math:`\delta` lets them go on evenly from the lowest chord to 0. There is
    no table to search and no root to take: the code is some bits of the number.

    Attributes:
      bits: how many a code has: 8; or 4, of which those of a block's halves stand in the same bytes.
      steps: how many of them count the levels of a chord.
      unsigned_steps: how many, of numbers that have no sign.

    References:
      ITU-T, `Recommendation G.711 <https://www.itu.int/rec/T-REC-G.711>`_, 1988; Dettmers et al.,
      `8-bit optimizers via block-wise quantization <https://arxiv.org/abs/2110.02861>`_, 2021.
    """

    bits: int = 8
    steps: int = 4
    unsigned_steps: int = 4

    @property
    def lowest(self) -> float:
        _, steps, chords = self._layout
        return 0.5 ** (chords + steps)

    @property
    def highest(self) -> float:
        _, steps, chords = self._layout
        return 1 - 0.5 ** (steps + 1) - 0.5**chords

    @property
    def _layout(self) -> tuple[int, int, int]:
        """The last code, the bits that count a chord's levels, and the number of chords."""
        bits = self.bits - self.signed
        steps = self.steps if self.signed else self.unsigned_steps
        return 2**bits - 1, steps, 2 ** (bits - steps)

    def place(self, x: jax.Array, level: jax.Array, dither: Any) -> jax.Array:
        last, steps, chords = self._layout
        shifted = _bits_of(level + 0.5**chords) + _top(dither, 23 - steps)
        codes = (shifted >> (23 - steps)).astype(jnp.int32) - ((127 - chords) << steps)
        codes = _not_zero(self, x, lax.min(codes, np.int32(last)))
        return self._pack(jnp.where(x < 0, -codes, codes) if self.signed else codes)

    def level(self, codes: jax.Array, size: int) -> jax.Array:
        _, steps, chords = self._layout
        codes = self._unpack(codes, size)
        magnitude = lax.abs(codes) if self.signed else codes
        level = _float_of((magnitude + ((127 - chords) << steps)) << (23 - steps)) - 0.5**chords
        return jnp.where(codes < 0, -level, level) if self.signed else level

    def _blocks(self, size: int) -> tuple[int, int]:
        blocks, length = super()._blocks(size)
        return blocks, length if self.bits == 8 else length + length % 2

    def _pack(self, codes: jax.Array) -> jax.Array:
        if self.bits == 8:
            return codes.astype(jnp.int8 if self.signed else jnp.uint8)
        *rows, size = codes.shape
        blocks, length = self._blocks(size)
        codes = jnp.pad(codes & 15, [(0, 0)] * len(rows) + [(0, blocks * length - size)])
        halves = codes.reshape(*rows, blocks, 2, length // 2)
        return _shifted(halves, lax.shift_left).sum(-2).astype(jnp.uint8).reshape(*rows, -1)

    def _unpack(self, codes: jax.Array, size: int) -> jax.Array:
        codes = codes.astype(jnp.int32)
        if self.bits == 8:
            return codes
        *rows, _ = codes.shape
        blocks, length = self._blocks(size)
        both = jnp.broadcast_to(codes.reshape(*rows, blocks, 1, -1), (*rows, blocks, 2, length // 2))
        halves = _shifted(both, lax.shift_right_logical) & 15
        codes = halves.reshape(*rows, blocks * length)[..., :size]
        return (codes ^ 8) - 8 if self.signed else codes


@dataclass(frozen=True)
class Linear(_Blocks):
    """Levels that are evenly spaced; those of numbers without a sign, in the square root.

    References:
      Dettmers et al., `8-bit optimizers via block-wise quantization
      <https://arxiv.org/abs/2110.02861>`_, 2021.
    """

    @property
    def lowest(self) -> float:
        return 1.0

    @property
    def highest(self) -> float:
        return 127.0 if self.signed else 255.0**2

    def place(self, x: jax.Array, level: jax.Array, dither: Any) -> jax.Array:
        up = _as_float(dither)
        if self.signed:
            codes = _not_zero(self, x, lax.min(lax.floor(level + up), np.float32(127)))
            return jnp.where(x < 0, -codes, codes).astype(jnp.int8)
        root = lax.sqrt(level)
        below = lax.floor(root)
        # How far the square has come from one root's square to the next one's.
        past = (root - below) * (root + below) / (2 * below + 1)
        codes = lax.min(below + lax.floor(past + up), np.float32(255))
        return _not_zero(self, x, codes).astype(jnp.uint8)

    def level(self, codes: jax.Array, size: int) -> jax.Array:
        codes = codes.astype(jnp.float32)
        return codes if self.signed else lax.square(codes)


@dataclass(frozen=True)
class Float8(_Blocks):
    """Floating-point numbers of eight bits (e4m3), whose bits are kept.

    References:
      Micikevicius et al., `FP8 formats for deep learning <https://arxiv.org/abs/2209.05433>`_, 2022.
    """

    @property
    def lowest(self) -> float:
        return 2.0**-9

    @property
    def highest(self) -> float:
        return 448.0

    def place(self, x: jax.Array, level: jax.Array, dither: Any) -> jax.Array:
        normal = (_bits_of(level) + _top(dither, 20) >> 20).astype(jnp.int32) - (120 << 3)
        # Below 2⁻⁶ the levels are evenly spaced.
        low = lax.floor(level * 2.0**9 + _as_float(dither)).astype(jnp.int32)
        codes = jnp.where(level < 2.0**-6, low, lax.min(normal, np.int32(126)))  # 127 is NaN
        codes = _not_zero(self, x, codes)
        return jnp.where((x < 0) & (codes > 0), codes + 128, codes).astype(jnp.uint8)  # a zero has no sign

    def level(self, codes: jax.Array, size: int) -> jax.Array:
        magnitude = codes.astype(jnp.int32) & 127
        normal = _float_of(magnitude + (120 << 3) << 20)
        level = jnp.where(magnitude < 8, magnitude.astype(jnp.float32) * 2.0**-9, normal)
        return jnp.where(codes < 128, level, -level)


CODECS: dict[str, Codec] = {
    "bfloat16": BFloat16(),
    "bfloat16+8": BFloat16Plus8(),
    "float8": Float8(),
    "int8": Chords(),
    "int8-linear": Linear(),
    "int4": Chords(block=128, bits=4, steps=1, unsigned_steps=2),
}
"""The codecs by the names that `store` knows them by."""


def find_codec(codec: str | Codec) -> tuple[str, Codec]:
    """A codec and what to call it.

    Args:
      codec: its name, or itself.

    Returns:
      The name and the `Codec`.

    Raises:
      ValueError, TypeError: there is none of that name, or it is no codec.
    """
    if isinstance(codec, Codec):
        return type(codec).__name__, codec
    if not isinstance(codec, str):
        raise TypeError(f"store: the codec must be a name or a Codec, got {codec!r}")
    if codec not in CODECS:
        raise ValueError(f"store: no codec {codec!r}; there are {', '.join(map(repr, CODECS))}")
    return codec, CODECS[codec]


def dithers(shape: tuple[int, ...], count: Any, number: int) -> jax.Array:
    """The dithers of an array at a step.

    Args:
      shape: of the array.
      count: steps taken before, an int32.
      number: which slot of the rule it is, so that each has its own.

    Returns:
      An array of uint32. They keep away from 0 and 1 by 2⁻¹³, so that what lies on a level stays there
      whatever the last digit of its quotient is.
    """
    turns = lax.convert_element_type(count, np.uint32) * _turns(5) + _turns(2, number)
    for axis in range(len(shape)):
        turns += lax.broadcasted_iota(np.uint32, shape, axis) * _turns((3, 7, 11, 13)[axis % 4])
    return turns & np.uint32(0xFFF00000) | np.uint32(0x00080000)


def _turns(root: int, times: int = 1) -> np.uint32:
    """A multiple of a square root without its whole part, in units of 2⁻³²; that of 5 is golden."""
    return np.uint32(int(math.sqrt(root) * 2**32) * times % 2**32)


def _top(dither: Any, bits: int) -> Any:
    """The dither in units of 2⁻ᵇ."""
    return dither >> np.uint32(32 - bits)


def _as_float(dither: Any) -> Any:
    return (dither >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _drop(x: jax.Array, bits: int, dither: Any) -> jax.Array:
    """The number without its last bits, rounded by the dither; whatever has none stays as it is."""
    kept = (_bits_of(x) + _top(dither, bits)) & np.uint32(2**32 - 2**bits)
    return jnp.where(lax.is_finite(x), _float_of(kept), x)


def _split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The upper half of float32 numbers, and the eight bits after it."""
    bits = _bits_of(x)
    upper = _float_of(bits & np.uint32(0xFFFF0000)).astype(jnp.bfloat16)
    return upper, (bits >> np.uint32(8)).astype(jnp.uint8)


def _join(upper: jax.Array, lower: jax.Array) -> jax.Array:
    return _float_of(_bits_of(upper.astype(jnp.float32)) | lower.astype(jnp.uint32) << np.uint32(8))


def _bits_of(x: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(x, jnp.uint32)


def _float_of(bits: jax.Array) -> jax.Array:
    return lax.bitcast_convert_type(bits, jnp.float32)


def _shifted(halves: jax.Array, shift: Any) -> jax.Array:
    """The first halves of blocks as they are, the second ones shifted by four bits."""
    bits: jax.Array = shift(halves, 4 * lax.broadcasted_iota(jnp.int32, halves.shape, halves.ndim - 2))
    return bits


def _not_zero(codec: _Blocks, x: jax.Array, codes: jax.Array) -> jax.Array:
    """The codes, those of numbers that must not become 0 at least 1."""
    return jnp.maximum(codes, (x != 0).astype(codes.dtype)) if codec.nonzero else codes


def _largest(x: jax.Array) -> jax.Array:
    """The largest magnitude along the last axis; NaN is the largest of all."""
    length = x.shape[-1]
    rows = math.gcd(length, 8)
    # As integers magnitudes have the same order. XLA has a program for the maximum of float32 numbers on CPUs
    # that wants them in memory; that of integers, it fuses with what they come from, along the rows.
    magnitudes = lax.bitcast_convert_type(x, jnp.int32) & 0x7FFFFFFF
    folded = magnitudes.reshape(*x.shape[:-1], rows, length // rows).max(-2)
    return _float_of(folded).max(-1)
