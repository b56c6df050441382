"""Whether a tensor holds numbers alone."""

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite.

    NaN becomes the least and the greatest, so two numbers tell of all, without a mask of the tensor's size.
    """
    if not tensor.numel():
        return True
    return bool(torch.isfinite(torch.stack(tensor.aminmax())).all())
