"""mask_mods as people write them, over B = 2, H = 3, M = 5, N = 6."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.attention.flex_attention as flex
from torch import Tensor

B, H, M, N = 2, 3, 5, 6
MASKS: dict[str, Callable[..., Any]] = {}


def mask(fn: Callable[..., Any]) -> Callable[..., Any]:
    MASKS[fn.__name__] = fn
    return fn


def draw(*shape: int, low: int | None = None, high: int = 0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 17 * len(shape))
    if low is None:
        return torch.randn(*shape, generator=generator)
    return torch.randint(low, high, shape, generator=generator)


WINDOW = 2
document = torch.tensor([0, 0, 1, 1, 1, 2, 2])
batched_document = draw(B, 8, low=0, high=3)
offsets = torch.tensor([0, 2, 5, 7], dtype=torch.int32)
lengths = torch.tensor([3, 5])
is_global = torch.tensor([True, False, False, True, False, True])
intervals = torch.tensor([[0, 2], [1, 4], [2, 6]])
topk = draw(B, H, 3, 2, low=0, high=3)
ancestors = draw(6, 6, low=0, high=2).bool()
dense = draw(B, 1, M, N, low=0, high=2).bool()


@mask
def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


@mask
def sliding_window(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < WINDOW)


@mask
def dilated(b, h, q_idx, kv_idx):
    distance = abs(q_idx - kv_idx)
    return (distance <= 4) & (distance % 2 == 0)


@mask
def global_or_local(b, h, q_idx, kv_idx):
    near = torch.abs(q_idx - kv_idx) <= 1
    return near | is_global[q_idx] | is_global[kv_idx]


@mask
def document_causal(b, h, q_idx, kv_idx):
    same = document[q_idx] == document[kv_idx]
    return same & ((q_idx - offsets[document[q_idx]]) >= (kv_idx - offsets[document[kv_idx]]))


@mask
def packed_interval(b, h, q_idx, kv_idx):
    return (kv_idx >= offsets[document[q_idx]]) & (q_idx >= kv_idx)


@mask
def per_sample_prefix(b, h, q_idx, kv_idx):
    return (kv_idx < lengths[b]) | (q_idx >= kv_idx)


@mask
def padding_with_ints_of_torch(b, h, q_idx, kv_idx):
    return torch.logical_and(kv_idx < lengths[b], batched_document[b, kv_idx] > 0)


@mask
def flamingo_row(b, h, q_idx, kv_idx):
    row = intervals[kv_idx // 2]
    return (q_idx >= row[0]) & (q_idx < row[1])


@mask
def topk_tiles(b, h, q_idx, kv_idx):
    return (topk[b, h, q_idx // 2] == (kv_idx // 2).unsqueeze(-1)).any(-1)


@mask
def tree_with_clamp(b, h, q_idx, kv_idx):
    prefix = 2
    safe = (kv_idx - prefix).clamp(0, 5)
    return (kv_idx < prefix) | ((kv_idx >= prefix) & ancestors[q_idx, safe])


@mask
def clamp_by_tensor(b, h, q_idx, kv_idx):
    start = torch.clamp(q_idx - 1, min=torch.zeros_like(q_idx), max=lengths[b] - 2)
    return (start <= kv_idx) & (kv_idx < start + 3)


@mask
def hugging_face_dense(b, h, q_idx, kv_idx):
    return dense[b][0][q_idx][kv_idx]


@mask
def hugging_face_and_masks(b, h, q_idx, kv_idx):
    result = q_idx.new_ones((), dtype=torch.bool)
    for part in (causal, per_sample_prefix):
        result = result & part(b, h, q_idx, kv_idx).to(result.device)
    return result


@mask
def hugging_face_or_masks(b, h, q_idx, kv_idx):
    result = q_idx.new_zeros((), dtype=torch.bool)
    for part in (causal, global_or_local):
        result = result | part(b, h, q_idx, kv_idx)
    return result


@mask
def accumulating_in_place(b, h, q_idx, kv_idx):
    keep = q_idx < 0
    for start in (0, 3):
        keep |= (kv_idx >= start) & (kv_idx < start + 1)
    return keep


@mask
def no_op_like(b, h, q_idx, kv_idx):
    return torch.ones_like(q_idx, dtype=torch.bool)


MASKS["constant_tensor"] = lambda *args: torch.tensor(True)
MASKS["python_false_in_where"] = lambda b, h, q, k: torch.where(q > 2, k <= q, False)


@mask
def morton(b, h, q_idx, kv_idx):
    def spread(x):
        x = (x | (x << 2)) & 0x33
        return (x | (x << 1)) & 0x55

    return (spread(q_idx) ^ spread(kv_idx)) >> 1 != (spread(q_idx & 1) << 3)


@mask
def power_of_two_distance(b, h, q_idx, kv_idx):
    x = q_idx - kv_idx
    return (x > 0) & ((x & (x - 1)) == 0)


@mask
def natten(b, h, q_idx, kv_idx):
    width, kernel = 3, 3
    qr, qc, kr, kc = q_idx // width, q_idx % width, kv_idx // width, kv_idx % width
    rows = qr.clamp(kernel // 2, 2 - 1 - kernel // 2)
    columns = qc.clamp(kernel // 2, width - 1 - kernel // 2)
    return ((rows - kr).abs() <= kernel // 2) & ((columns - kc).abs() <= kernel // 2)


@mask
def xor_and_not(b, h, q_idx, kv_idx):
    return ~((q_idx > kv_idx) ^ torch.logical_not(kv_idx % 2))


@mask
def bool_arithmetic(b, h, q_idx, kv_idx):
    both = (q_idx > 1) * (kv_idx > 1)
    either = (q_idx > 3) + (kv_idx > 3)
    count = (q_idx > 0).int() + (kv_idx > 0) + (h > 0).long()
    return (both | either) & (count >= 2)


@mask
def sink_positions(b, h, q_idx, kv_idx):
    return (torch.tensor([0, 4]) == kv_idx).any() | torch.isin(q_idx, torch.tensor([1, 2]))


@mask
def truncating_division(b, h, q_idx, kv_idx):
    a = torch.div(kv_idx - 4, 3, rounding_mode="trunc")
    return (a == (q_idx - 4) // 3) | (torch.fmod(kv_idx - 4, 3) == torch.remainder(q_idx - 4, 3))


@mask
def numpy_scalars(b, h, q_idx, kv_idx):
    return (np.int64(2) <= q_idx) | (kv_idx + np.int32(1) > np.float32(3.5))


@mask
def negative_indices_and_slices(b, h, q_idx, kv_idx):
    row = batched_document[b, 2:]
    return (row[-1] > 0) | (row[kv_idx] == batched_document[..., -3][b])


@mask
def shapes_as_numbers(b, h, q_idx, kv_idx):
    assert q_idx.shape == () and q_idx.ndim == q_idx.dim() == 0 and q_idx.numel() == 1
    assert q_idx.dtype == torch.int64 and (q_idx > 1).dtype == torch.bool and b.size() == ()
    assert q_idx.device.type == "cpu" and len(batched_document[b].shape) == 1
    return q_idx + batched_document[b].shape[0] > kv_idx + 7


@dataclasses.dataclass
class Metadata:
    physical: Tensor
    page: int

    def logical_mask(self, b, h, q_idx, kv_idx):
        page = self.physical[b, kv_idx // self.page]
        logical = page * self.page + kv_idx % self.page
        return torch.where(page >= 0, q_idx >= logical, False)

    def __call__(self, b, h, q_idx, kv_idx):
        return self.logical_mask(b, h, q_idx, kv_idx)


paged = Metadata(torch.tensor([[1, 0, 2], [0, -1, 1]], dtype=torch.int32), 2)
MASKS["bound_method"] = paged.logical_mask
MASKS["callable_object"] = paged


def shifted(b, h, q_idx, kv_idx, offset, *, strict=False):
    return q_idx + offset > kv_idx if strict else q_idx + offset >= kv_idx


MASKS["partial"] = functools.partial(shifted, offset=torch.tensor(2), strict=True)


@mask
def with_extras(b, h, q_idx, kv_idx, width=3, *rest, scale=2, **options):
    return (kv_idx - q_idx) * scale < width


@functools.wraps(causal)
def decorated(*args, **kwargs):
    return ~causal(*args, **kwargs)


MASKS["decorated"] = decorated


class Module(torch.nn.Module):
    """A module as a mod: called through its hooks, reading its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("valid", torch.tensor([[1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool())

    def forward(self, b, h, q_idx, kv_idx):
        return self.valid[b, kv_idx]


MASKS["module"] = Module()
MASKS["of_torch"] = flex.and_masks(causal, flex.or_masks(flex.noop_mask, global_or_local))


@mask
def tables_made_on_the_spot(b, h, q_idx, kv_idx):
    blocks = torch.arange(8, device=q_idx.device).to(q_idx.dtype) // 2
    return blocks[q_idx] >= blocks.to(kv_idx.device)[kv_idx]


@mask
def loops_over_captured_ranges(b, h, q_idx, kv_idx):
    keep = q_idx >= kv_idx
    for start, end in {0: (0, 2), 1: (3, 5)}.values():
        inside = (q_idx >= start) & (q_idx < end) & (kv_idx >= start) & (kv_idx < end)
        keep = keep | inside
    return keep
