"""score_mods as people write them, over B = 2, H = 3, M = 5, N = 6."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mask_zoo import B, H, M, N, draw, is_global, topk

SCORES: dict[str, Callable[..., Any]] = {}


def score(fn: Callable[..., Any]) -> Callable[..., Any]:
    SCORES[fn.__name__] = fn
    return fn


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


class GatedBias(torch.nn.Module):
    """A learned bias with its own parameters, as a callable object."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = torch.nn.Parameter(torch.linspace(-1, 1, H))
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, score, b, h, q_idx, kv_idx):
        return score + self.scale * torch.sigmoid(self.gate[h]) * relative[q_idx - kv_idx + 6, h]


SCORES["module"] = GatedBias()


@score
def masks_with_the_dtype_s_minimum(score, b, h, q_idx, kv_idx):
    lowest = torch.tensor(torch.finfo(score.dtype).min, dtype=score.dtype, device=score.device)
    return torch.where(q_idx >= kv_idx, score, lowest) + torch.zeros((), dtype=score.dtype)
