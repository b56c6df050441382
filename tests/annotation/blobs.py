"""Blobs with soft edges, as images show organs."""

import numpy as np


def blob(shape, row, column, radius):
    """A plane of that shape, float32 in 0..1."""
    y, x = np.indices(shape)
    far = np.hypot(y - row, x - column) - radius
    return (1 / (1 + np.exp(np.clip(far, -30, 30)))).astype(np.float32)
