"""What a device does now: its current stream, and whether that is captured in a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor


def is_capturing(tensor: Tensor) -> bool:
    """Whether what is computed on the device of ``tensor`` goes into a CUDA graph now."""
    return is_capturing_on(tensor.device)


def is_capturing_on(device: torch.device) -> bool:
    """Whether what is computed on ``device`` goes into a CUDA graph now."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def stream_on(device: torch.device) -> int:
    """The current stream of ``device``; 0 where there are none."""
    if device.type != "cuda":
        return 0
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch._C._cuda_getCurrentRawStream(index)
