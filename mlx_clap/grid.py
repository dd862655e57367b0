"""Where each token of HTSAT lies: orders of a square token grid, and the gathers between them. Plain numpy, at load
only.

Tokens are kept in *window order* (the 8x8 tokens an attention window holds lie side by side), so attention needs no
data movement at all. Moving to the shifted windows of odd blocks, back, and to the next stage's merged grid is one row
gather each. An *order* is an int array [G * G]: ``order[p]`` is the raster index of the token at position p.
"""

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.int32]


def window_order(grid: int, window: int, shift: int = 0) -> Order:
    """Tokens by attention window, windows and the tokens in each row by row, of a grid rolled back by `shift`."""
    raster = np.arange(grid * grid, dtype=np.int32).reshape(grid, grid)
    rolled = np.roll(raster, (-shift, -shift), axis=(0, 1))
    tiles = rolled.reshape(grid // window, window, grid // window, window)
    order: Order = tiles.transpose(0, 2, 1, 3).reshape(-1)
    return order


def inverse(order: Order) -> Order:
    """Raster index -> position."""
    positions = np.empty_like(order)
    positions[order] = np.arange(len(order), dtype=np.int32)
    return positions


def reorder(source: Order, target: Order) -> Order:
    """Positions in `source` order to gather so that the result lies in `target` order."""
    gather: Order = inverse(source)[target]
    return gather


def merge_gather(source: Order, grid: int, target: Order) -> Order:
    """Positions [4 * len(target)] of the 2x2 neighbours merged into each target token.

    The reference's order of the four is (even row, even column), (odd, even), (even, odd), (odd, odd).
    """
    row, column = np.divmod(target, grid // 2)
    neighbours = [(2 * row + dr) * grid + 2 * column + dc for dc in (0, 1) for dr in (0, 1)]
    gather: Order = inverse(source)[np.stack(neighbours, axis=1).reshape(-1)]
    return gather


def shift_mask(grid: int, window: int, shift: int) -> NDArray[np.float32]:
    """Additive mask [windows, window**2, window**2]: -100 between tokens that only the roll made neighbours."""
    index = np.arange(grid)
    region = (index >= grid - window).astype(np.int32) + (index >= grid - shift)
    regions = (region[:, None] * 3 + region[None, :]).reshape(-1)
    by_window = regions[window_order(grid, window)].reshape(-1, window * window)
    return np.where(by_window[:, :, None] == by_window[:, None, :], 0.0, -100.0).astype(np.float32)


def relative_index(window: int) -> NDArray[np.int32]:
    """Row of the relative-bias table for each (query, key) pair of a window, [window**2, window**2]."""
    row, column = np.divmod(np.arange(window * window, dtype=np.int32), window)
    d_row = row[:, None] - row[None, :] + window - 1
    d_column = column[:, None] - column[None, :] + window - 1
    index: NDArray[np.int32] = d_row * (2 * window - 1) + d_column
    return index


def bicubic_matrix(source: int, target: int) -> NDArray[np.float32]:
    """Resize along one axis as a matrix [target, source]: bicubic a = -0.75, align_corners, edges clamped.

    The source coordinate is computed in float32, as torch does; float64 would move results by 1e-3.
    """
    scale = np.float32(source - 1) / np.float32(target - 1)
    position = scale * np.arange(target, dtype=np.float32)
    base = np.floor(position).astype(np.int64)
    t = (position - base.astype(np.float32)).astype(np.float32)
    a = np.float32(-0.75)

    def near(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    for offset, weight in ((-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))):
        np.add.at(matrix, (rows, np.clip(base + offset, 0, source - 1)), weight)
    return matrix
