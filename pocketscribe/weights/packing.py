"""A formatted tensor in its true bits, row by row; `panels` puts them in the order of a file.

Each row is an output channel and starts at a whole byte. In it lie, in order of fan-in:

    values    of each kept weight, its integer less the grid's smallest one, in `bits` bits
    patterns  of each group of M weights, which N of them are kept: the number of that choice among
              all C(M, N), in the fewest bits that hold every such number
    scale     one float16 a block
    low       one float16 a block, where the grid is not symmetric

Bits fill a byte from its lowest one up. Choices are numbered in lexicographic order of the kept
places: of 2:4, 0 is {0, 1} and 5 is {2, 3}. Numbering them jointly takes 3 bits for a group of 2:4
and 2 for 1:4, where N places of their own (2 + 2 bits, and 2) or a mask (4 and 4) take no less; a
decoder turns a number into places by a table of C(M, N) rows.

Dimensions: O outputs, I fan-in, G groups of M.
"""

from functools import cache
from itertools import combinations
from math import comb

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from pocketscribe.weights.format import Format
from pocketscribe.weights.quantise import Quantised, quantise
from pocketscribe.weights.sparsity import group_mask

Parts = dict[str, np.ndarray]
Shape = tuple[int, int]


def pack(weight: Float[Tensor, "O I"], format: Format) -> Parts:
    """The parts of a tensor, by their names above; without bits the values are float16."""
    weight = weight.detach().cpu().float()
    parts: Parts = {}
    kept = None
    if format.pattern is not None:
        kept = group_mask(weight, *format.pattern)
        numbers = _numbers(*format.pattern)[_as_mask_word(kept.numpy())]
        parts["patterns"] = to_bits(numbers, pattern_bits(*format.pattern))
        weight = weight * kept.flatten(1)[:, : weight.shape[1]]
    if format.grid is None:
        parts["values"] = _chosen(weight.numpy(), kept).astype(np.float16)
        return parts
    found = quantise(weight, format.grid)
    codes = found.codes.numpy() - format.grid.levels[0]
    parts["values"] = to_bits(_chosen(codes, kept), format.grid.bits)
    parts["scale"] = found.scale.numpy()
    if found.low is not None:
        parts["low"] = found.low.numpy()
    return parts


def unpack(parts: Parts, shape: Shape, format: Format) -> Float[Tensor, "O I"]:
    """What `pack` packed, as a layer multiplies by it.

    Raises:
        ValueError: a part is missing, or has another type or size than the format says.
    """
    if format.grid is None:
        kept = _kept(parts, shape, format)
        return torch.from_numpy(_spread(parts["values"].astype(np.float32), kept, shape))
    weight = integers(parts, shape, format).weight()
    if format.grid.symmetric or (kept := _kept(parts, shape, format)) is None:
        return weight
    return weight * kept.flatten(1)[:, : shape[1]]  # no level need be zero


def integers(parts: Parts, shape: Shape, format: Format) -> Quantised:
    """The integers in their places, zero where a weight is left out.

    Raises:
        ValueError: as `unpack`.
    """
    assert format.grid is not None
    kept = _kept(parts, shape, format)
    count = shape[1] if kept is None else kept.shape[1] * format.pattern[0]  # type: ignore[index]
    found = from_bits(parts["values"], format.grid.bits, count) + format.grid.levels[0]
    spread = torch.from_numpy(_spread(found.astype(np.int16), kept, shape))
    low = None if format.grid.symmetric else torch.from_numpy(parts["low"])
    block = format.grid.block or shape[1]
    return Quantised(spread, torch.from_numpy(parts["scale"]), low, block)


def _kept(parts: Parts, shape: Shape, format: Format) -> Bool[Tensor, "O G M"] | None:
    """Which weights are kept; checks all parts on the way."""
    for name, (dtype, size) in layout(shape, format).items():
        part = parts.get(name)
        if part is None or part.dtype != dtype or part.shape != size:
            raise ValueError(f"{name} is not {np.dtype(dtype).name} {size}")
    if format.pattern is None:
        return None
    n, m = format.pattern
    numbers = from_bits(parts["patterns"], pattern_bits(n, m), -(-shape[1] // m))
    table = _choices(n, m)
    if numbers.max(initial=0) >= len(table):
        raise ValueError("patterns holds a number that no choice has")
    return torch.from_numpy(table[numbers])


def layout(shape: Shape, format: Format) -> dict[str, tuple[type, Shape]]:
    """Type and shape of every part: all that size accounting needs, without any weight."""
    out, fan_in = shape
    parts: dict[str, tuple[type, Shape]] = {}
    count = fan_in
    if format.pattern is not None:
        n, m = format.pattern
        groups = -(-fan_in // m)
        count = groups * n
        parts["patterns"] = (np.uint8, (out, whole_bytes(groups * pattern_bits(n, m))))
    if format.grid is None:
        return {**parts, "values": (np.float16, (out, count))}
    parts["values"] = (np.uint8, (out, whole_bytes(count * format.grid.bits)))
    blocks = (out, -(-fan_in // (format.grid.block or fan_in)))
    parts["scale"] = (np.float16, blocks)
    if not format.grid.symmetric:
        parts["low"] = (np.float16, blocks)
    return parts


def pattern_bits(n: int, m: int) -> int:
    """Bits of a choice's number."""
    return (comb(m, n) - 1).bit_length()


def whole_bytes(bits: int) -> int:
    """Bytes that hold so many bits."""
    return -(-bits // 8)


@cache
def _choices(n: int, m: int) -> Bool[np.ndarray, "C M"]:
    """Every choice's kept places, by its number."""
    table = np.zeros((comb(m, n), m), bool)
    for number, places in enumerate(combinations(range(m), n)):
        table[number, list(places)] = True
    return table


@cache
def _numbers(n: int, m: int) -> Int[np.ndarray, " W"]:
    """The choice's number, by its mask read as a binary word; -1 where the word is no choice."""
    numbers = np.full(2**m, -1)
    numbers[_as_mask_word(_choices(n, m))] = np.arange(comb(m, n))
    return numbers


def _as_mask_word(kept: Bool[np.ndarray, "*B M"]) -> Int[np.ndarray, "*B"]:
    return (kept << np.arange(kept.shape[-1])).sum(-1)


def _chosen(
    rows: Float[np.ndarray, "O I"] | Int[np.ndarray, "O I"], kept: Bool[Tensor, "O G M"] | None
) -> np.ndarray:
    """The kept ones of every row, in order; what fills up a last group counts as zero weights."""
    if kept is None:
        return rows
    mask = kept.flatten(1).numpy()
    # The places that fill up the last group get some integer, which `_spread` leaves out.
    filled = np.pad(rows, ((0, 0), (0, mask.shape[1] - rows.shape[1])))
    return filled[mask].reshape(len(rows), -1)


def _spread(values: np.ndarray, kept: Bool[Tensor, "O G M"] | None, shape: Shape) -> np.ndarray:
    """Kept values back in their places, zeros elsewhere."""
    if kept is None:
        return values
    mask = kept.flatten(1).numpy()
    full = np.zeros(mask.shape, values.dtype)
    full[mask] = values.ravel()
    return full[:, : shape[1]]


def to_bits(numbers: Integer[np.ndarray, "O N"], width: int) -> np.ndarray:
    """Rows of unsigned numbers, `width` bits each, lowest bit first, rows at whole bytes."""
    bits = (numbers[..., None] >> np.arange(width)) & 1
    return np.packbits(bits.reshape(len(numbers), -1).astype(np.uint8), axis=1, bitorder="little")


def from_bits(packed: np.ndarray, width: int, count: int) -> Int[np.ndarray, "O N"]:
    """The first `count` numbers of each row that `to_bits` wrote."""
    bits = np.unpackbits(packed, axis=1, count=count * width, bitorder="little")
    return (bits.reshape(len(packed), count, width).astype(np.int64) << np.arange(width)).sum(-1)
