"""Mods as people write them: the traced graph gives what calling the mod on numbers gives."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flexattn.ir.interpreter import evaluate
from flexattn.ir.program import CaptureType, Program
from flexattn.ir.verifier import verify
from flexattn.trace import trace_mod

B, H, M, N = 2, 3, 5, 6
MODS: dict[str, tuple[str, Callable[..., Any]]] = {}


def score(fn: Callable[..., Any]) -> Callable[..., Any]:
    MODS[fn.__name__] = ("score", fn)
    return fn


def mask(fn: Callable[..., Any]) -> Callable[..., Any]:
    MODS[fn.__name__] = ("mask", fn)
    return fn


def draw(*shape: int, low: int | None = None, high: int = 0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 17 * len(shape))
    if low is None:
        return torch.randn(*shape, generator=generator)
    return torch.randint(low, high, shape, generator=generator)


def grid(kind: str, fn: Callable[..., Any], dtype: torch.dtype = torch.float32) -> Tensor:
    """The oracle: ``fn`` itself, called once for every pair on tensors without dimensions."""
    scores = draw(B, H, M, N, seed=5).to(dtype) * 3
    out = torch.empty(B, H, M, N, dtype=torch.bool if kind == "mask" else dtype)
    for at in itertools.product(range(B), range(H), range(M), range(N)):
        indices = [torch.tensor(i) for i in at]
        out[at] = fn(*indices) if kind == "mask" else fn(scores[at].clone(), *indices)
    return out


def traced(kind: str, fn: Callable[..., Any], compute: str = "f32") -> Tensor:
    result = trace_mod(fn, kind, compute=compute)
    root = result.graph()
    names = {torch.bool: "bool", torch.bfloat16: "bf16", torch.float16: "f16"}
    names |= {torch.float32: "f32", torch.float64: "f64", torch.uint8: "u8", torch.int8: "i8"}
    names |= {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}
    types = tuple(CaptureType(names[t.dtype], t.ndim) for t in result.captures)
    verify(root, Program(root, None, types, (), compute))
    dtype = torch.float64 if compute == "f64" else torch.float32
    env = {
        "score": draw(B, H, M, N, seed=5).to(dtype) * 3,
        "b": torch.arange(B).view(B, 1, 1, 1),
        "h": torch.arange(H).view(H, 1, 1),
        "q_idx": torch.arange(M).view(M, 1),
        "kv_idx": torch.arange(N),
    }
    value = evaluate(root, env, result.captures, compute, on_fault="safe")
    return value.expand(B, H, M, N)


# Masks ----------------------------------------------------------------------------------------

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


MODS["constant_tensor"] = ("mask", lambda *args: torch.tensor(True))
MODS["python_false_in_where"] = (
    "mask",
    lambda b, h, q, k: torch.where(q > 2, k <= q, False),
)


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
MODS["bound_method"] = ("mask", paged.logical_mask)
MODS["callable_object"] = ("mask", paged)


def shifted(b, h, q_idx, kv_idx, offset, *, strict=False):
    return q_idx + offset > kv_idx if strict else q_idx + offset >= kv_idx


MODS["partial"] = ("mask", functools.partial(shifted, offset=torch.tensor(2), strict=True))


@mask
def with_extras(b, h, q_idx, kv_idx, width=3, *rest, scale=2, **options):
    return (kv_idx - q_idx) * scale < width


@functools.wraps(causal)
def decorated(*args, **kwargs):
    return ~causal(*args, **kwargs)


MODS["decorated"] = ("mask", decorated)

# Scores ---------------------------------------------------------------------------------------

slopes = torch.exp2(-torch.arange(1, H + 1) * 8.0 / H)
bias = draw(B, H, M, N)
low_bias = draw(H, seed=3).bfloat16()
half_bias = draw(H, seed=4).half()
double_bias = draw(H, seed=6).double()
small = torch.tensor([3, 1, 2], dtype=torch.uint8)
relative = draw(2 * 6 + 1, H)
buckets = draw(B, M, N, low=0, high=4)
table = draw(H, 4)
strided = draw(4, H, 8).transpose(0, 1)[:, 1:, ::2]
expanded = draw(1, N).expand(H, N)
parameter = torch.nn.Parameter(torch.tensor(0.7))
q_rope, k_rope = draw(B, H, M, 4), draw(B, 1, N, 4, seed=2)


@score
def identity(score, b, h, q_idx, kv_idx):
    return score


@score
def alibi(score, b, h, q_idx, kv_idx):
    return score + (kv_idx - q_idx) * slopes[h]


@score
def alibi_functional(score, b, h, q_idx, kv_idx):
    scale = torch.exp2(-((h + 1) * 8.0 / H))
    return score + scale * (kv_idx - q_idx)


@score
def softcap(score, b, h, q_idx, kv_idx):
    return 20 * torch.tanh(score / 20)


@score
def softcap_in_steps(score, b, h, q_idx, kv_idx):
    score = score / 30.0
    score = torch.tanh(score)
    score = score * 30.0
    return torch.where(q_idx >= kv_idx, score, -float("inf"))


@score
def relative_bias(score, b, h, q_idx, kv_idx):
    return score + relative[q_idx - kv_idx + 6, h]


@score
def t5(score, b, h, q_idx, kv_idx):
    distance = kv_idx - q_idx
    bucket = (distance > 0).to(torch.long) * 2
    near = torch.abs(distance)
    large = 1 + (torch.log(near.float() / 1) / math.log(8) * 1).to(torch.long)
    large = torch.min(large, torch.full_like(large, 1))
    return score + table[h, bucket + torch.where(near < 1, near, large)]


@score
def graphormer(score, b, h, q_idx, kv_idx):
    return score + table[h, buckets[b, q_idx, kv_idx]]


@score
def rotary_dot(score, b, h, q_idx, kv_idx):
    return score + 0.5 * torch.dot(q_rope[b, h, q_idx, :], k_rope[b, h // H, kv_idx])


@score
def rotary_sum(score, b, h, q_idx, kv_idx):
    return score + (q_rope[b, h, q_idx] * k_rope[b, 0, kv_idx]).sum(dim=-1) / q_rope.shape[-1]


@score
def many_dtypes(score, b, h, q_idx, kv_idx):
    return score + low_bias[h] + half_bias[h] + small[h] + is_global[q_idx]


@score
def views(score, b, h, q_idx, kv_idx):
    return score + strided[h, q_idx % 3, kv_idx % 4] * expanded[h, kv_idx] + relative.t()[h, q_idx]


@score
def learned_scalar(score, b, h, q_idx, kv_idx):
    return score * parameter + parameter.detach() - torch.sigmoid(parameter)


@score
def checkerboard(score, b, h, q_idx, kv_idx):
    score = torch.where(torch.abs(kv_idx - q_idx) % 2 == 1, score * 0.5, score)
    return torch.where(torch.abs(kv_idx - q_idx) % 2 == 0, score * 2.0, score)


@score
def llama4_temperature(score, b, h, q_idx, kv_idx):
    return score * (torch.log1p(torch.floor((q_idx + 1) / 2)) * 0.1 + 1)


@score
def ignores_score(score, b, h, q_idx, kv_idx):
    return F.leaky_relu(slopes[h] + bias[b, h, q_idx, kv_idx], 0.2)


@score
def activation_log(score, b, h, q_idx, kv_idx):
    return torch.log(F.gelu(score) + 1.0)


@score
def integers_out(score, b, h, q_idx, kv_idx):
    return q_idx - kv_idx


@score
def row_statistics(score, b, h, q_idx, kv_idx):
    row = q_rope[b, h, q_idx]
    extremes = row.max() - row.amin(-1) + row.max(-1).values - row.min(dim=0)[0]
    return score + row.mean() * row[1:3].prod() + extremes + (row > 0).sum() + len(row)


@score
def row_shapes(score, b, h, q_idx, kv_idx):
    row = q_rope[b, h, q_idx].view(2, 2)
    first, second = row
    total = (row + k_rope[b, 0, kv_idx, None, :2]).sum(-1, keepdim=True)
    return score + total[1, 0] + total.flatten()[0] + first[0] * second.unsqueeze(0)[0, 1]


@score
def tensors_without_symbols(score, b, h, q_idx, kv_idx):
    scale = torch.arange(4).float().mean() / torch.tensor(2.0)
    return score * scale + slopes.sum() - torch.stack([score, scale + h]).amax()


@score
def row_indices(score, b, h, q_idx, kv_idx):
    return score + table[h, topk[b, h, q_idx // 2]].sum() + table[:, 1][h] + table[h][None, 2][0]


@score
def numpy_float(score, b, h, q_idx, kv_idx):
    return np.float64(1.5) * score - np.float32(0.25) + score / np.int64(3)


@score
def embedding_lookup(score, b, h, q_idx, kv_idx):
    return score + F.embedding((q_idx - kv_idx).clamp(-6, 6) + 6, relative)[h]


@pytest.mark.parametrize("name", MODS)
def test_traced_mod_gives_what_the_mod_gives(name: str) -> None:
    kind, fn = MODS[name]
    expected = grid(kind, fn)
    if kind == "mask":
        assert torch.equal(traced(kind, fn), expected)
    else:
        torch.testing.assert_close(traced(kind, fn), expected, rtol=2e-5, atol=1e-6)


def test_double_precision_is_computed_in_double() -> None:
    double = {"double": lambda s, b, h, q, k: torch.tanh(s / 3.0) * 0.1 + double_bias[h]}
    expected = grid("score", double["double"], torch.float64)
    torch.testing.assert_close(
        traced("score", double["double"], "f64"), expected, rtol=1e-14, atol=1e-14
    )


def test_a_result_that_does_not_depend_on_the_mod_would_be_noticed() -> None:
    wrong = traced("mask", lambda b, h, q, k: q > k)
    assert not torch.equal(wrong, grid("mask", causal))
