"""Resizing a grid of position embeddings, as the original does when pictures change their size."""

from __future__ import annotations

import math

import numpy as np


def bicubic_matrix(old: int, new: int) -> np.ndarray:
    """Return the float32 matrix (new, old) that resizes `old` samples to `new` by cubic convolution.

    The kernel has a = -0.75, pixel centres are at half-integers and samples beyond the border repeat the border:
    what PyTorch's bicubic `interpolate` computes without aligned corners, which is what the original uses.
    """
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        first = math.floor(centre) - 1
        for j in range(first, first + 4):
            matrix[i, min(max(j, 0), old - 1)] += _cubic(abs(centre - j))
    return matrix.astype(np.float32)


def _cubic(x: float, a: float = -0.75) -> float:
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a if x < 2 else 0.0


def resize_positions(positions: np.ndarray, tokens: int) -> np.ndarray:
    """Resize (1, side² + 1, width) position embeddings to `tokens` = new side² + 1, keeping the class token's."""
    old, new = math.isqrt(positions.shape[1] - 1), math.isqrt(tokens - 1)
    matrix = bicubic_matrix(old, new)
    grid = positions[0, 1:].reshape(old, old, -1).astype(np.float32)
    resized = np.einsum("ij,kl,jlw->ikw", matrix, matrix, grid, optimize=True).reshape(new * new, -1)
    return np.concatenate([positions[:, :1], resized[None].astype(positions.dtype)], axis=1)
