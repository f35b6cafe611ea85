"""A packed tensor in the order that kernels multiply from: panels of 16 output channels.

A tensor is one run of bytes: first every block's scale, row by row, then every block's low where
the grid is not symmetric (float16, `[O, blocks]` each), then the panels. A panel holds its values
and after them its patterns, either from a whole byte on, a byte's lowest bit first:

    for each unit of fan-in, for each channel of the panel, the numbers of that unit

A unit is a group of M weights where the tensor is sparse, of which N values and one pattern are
stored, and otherwise four weights (the last unit may be shorter): what one lane of a dot product
takes. The last panel holds the channels that are left. These are the numbers of `packing`, and not
one more; without bits a value is a float16.

Dimensions: O outputs, I fan-in, N numbers of a row.
"""

import numpy as np
from jaxtyping import Int, UInt8

from pocketscribe.weights.format import Format
from pocketscribe.weights.packing import (
    Parts,
    Shape,
    from_bits,
    layout,
    pattern_bits,
    to_bits,
    whole_bytes,
)

CHANNELS = 16  # of a panel
UNIT = 4  # weights of a unit where nothing is pruned


def to_panels(parts: Parts, shape: Shape, format: Format) -> UInt8[np.ndarray, " bytes"]:
    """The bytes of what `packing.pack` made."""
    found = [np.ascontiguousarray(parts[name]).view(np.uint8).ravel() for name in _scales(format)]
    rows = [
        (_numbers(parts[name], width, count), width, unit)
        for name, width, count, unit in _streams(shape, format)
    ]
    for first in range(0, shape[0], CHANNELS):
        for numbers, width, unit in rows:
            panel = _interleaved(numbers[first : first + CHANNELS], unit)
            found.append(to_bits(panel[None], width)[0])
    return np.concatenate(found)


def from_panels(data: UInt8[np.ndarray, " bytes"], shape: Shape, format: Format) -> Parts:
    """The parts again; `data` must be `panels_bytes` long."""
    parts: Parts = {}
    laid = layout(shape, format)
    at = 0
    for name in _scales(format):
        dtype, size = laid[name]
        end = at + size[0] * size[1] * np.dtype(dtype).itemsize
        parts[name] = data[at:end].copy().view(dtype).reshape(size)
        at = end
    streams = _streams(shape, format)
    rows: dict[str, list[np.ndarray]] = {name: [] for name, *_ in streams}
    for first in range(0, shape[0], CHANNELS):
        channels = min(CHANNELS, shape[0] - first)
        for name, width, count, unit in streams:
            end = at + whole_bytes(channels * count * width)
            numbers = from_bits(data[None, at:end], width, channels * count)[0]
            rows[name].append(_by_rows(numbers, channels, unit))
            at = end
    for name, width, _, _ in streams:
        parts[name] = _stored(np.concatenate(rows[name]), width, *laid[name])
    return parts


def panels_bytes(shape: Shape, format: Format) -> int:
    """How long `to_panels` is: a function of shape and format alone."""
    laid = layout(shape, format)
    found = sum(2 * laid[name][1][0] * laid[name][1][1] for name in _scales(format))
    whole, rest = divmod(shape[0], CHANNELS)
    for _, width, count, _ in _streams(shape, format):
        found += whole * whole_bytes(CHANNELS * count * width) + whole_bytes(rest * count * width)
    return found


def _scales(format: Format) -> list[str]:
    if format.grid is None:
        return []
    return ["scale"] if format.grid.symmetric else ["scale", "low"]


def _streams(shape: Shape, format: Format) -> list[tuple[str, int, int, int]]:
    """Name, bits of a number, numbers of a row, and numbers of a unit, of each part in a panel."""
    width = 16 if format.grid is None else format.grid.bits
    if format.pattern is None:
        return [("values", width, shape[1], UNIT)]
    n, m = format.pattern
    groups = -(-shape[1] // m)
    return [("values", width, groups * n, n), ("patterns", pattern_bits(n, m), groups, 1)]


def _numbers(part: np.ndarray, width: int, count: int) -> Int[np.ndarray, "O N"]:
    if part.dtype == np.float16:
        return part.view(np.uint16).astype(np.int64)
    return from_bits(part, width, count)


def _stored(numbers: Int[np.ndarray, "O N"], width: int, dtype: type, size: Shape) -> np.ndarray:
    if dtype is np.float16:
        return numbers.astype(np.uint16).view(np.float16).reshape(size)
    return to_bits(numbers, width)


def _interleaved(numbers: Int[np.ndarray, "O N"], unit: int) -> Int[np.ndarray, " ON"]:
    """Rows, a unit of each in turn."""
    whole = numbers.shape[1] // unit * unit
    body = numbers[:, :whole].reshape(len(numbers), -1, unit).swapaxes(0, 1)
    return np.concatenate([body.ravel(), numbers[:, whole:].ravel()])


def _by_rows(numbers: Int[np.ndarray, " ON"], rows: int, unit: int) -> Int[np.ndarray, "O N"]:
    whole = len(numbers) // rows // unit * unit
    body = numbers[: rows * whole].reshape(-1, rows, unit).swapaxes(0, 1).reshape(rows, whole)
    return np.concatenate([body, numbers[rows * whole :].reshape(rows, -1)], axis=1)
