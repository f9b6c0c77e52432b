"""A bucketed bias of the distance, scaled by a gate that each query computes."""

import math

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def gated_bias(gate: Tensor, table: Tensor, bucket: Tensor) -> ScoreMod:
    """s' = s + gate[b, h, q] * table[bucket[|kv - q|] (+ half where kv > q), h]"""
    half, farthest = table.shape[0] // 2, bucket.shape[0] - 1

    def score_mod(score, b, h, q_idx, kv_idx):
        far = torch.abs(kv_idx - q_idx).clamp(max=farthest)
        row = bucket[far] + torch.where(kv_idx > q_idx, half, 0)
        return score + gate[b, h, q_idx] * table[row, h]

    return score_mod


def buckets_of(count: int, farthest: int) -> Tensor:
    """Bucket of each distance 0 … farthest, in one direction: exact, then in log steps."""
    exact = count // 2
    distance = torch.arange(farthest + 1)
    steps = torch.log(distance.clamp(min=1) / exact) / math.log(farthest / exact)
    far = exact + (steps * (count - exact)).long()
    return torch.where(distance < exact, distance, far.clamp(max=count - 1))


def content(sizes: Sizes, buckets: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states by head, weights of the gates, their constants and the table, random."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(sizes.batch, sizes.heads, sizes.q_len, 4, generator=generator)
    weight = torch.randn(8, 4, generator=generator)
    constant = torch.randn(1, sizes.heads, 1, 1, generator=generator)
    return hidden, weight, constant, torch.randn(buckets, sizes.heads, generator=generator)


def from_hidden(sizes: Sizes, buckets: int = 320, farthest: int = 800) -> dict[str, Tensor]:
    """Gates in 1 … 3 or so, as WavLM computes them."""
    hidden, weight, constant, table = content(sizes, buckets)
    parts = torch.sigmoid((hidden @ weight.mT).unflatten(-1, (2, 4)).sum(-1))
    first, second = parts.chunk(2, -1)
    gate = first * (second * constant - 1) + 2
    bucket = buckets_of(buckets // 2, farthest)
    return {"gate": gate.squeeze(-1), "table": table, "bucket": bucket}


def dense(score: Tensor, gate: Tensor, table: Tensor, buckets: int, farthest: int) -> Tensor:
    """Cell by cell the bucket, then one product."""
    half = buckets // 2
    exact, bias = half // 2, torch.zeros(score.shape[1:])
    for q in range(score.shape[2]):
        for kv in range(score.shape[3]):
            row, far = (half if kv > q else 0), abs(kv - q)
            if far >= exact:
                steps = math.log(far / exact) / math.log(farthest / exact) * (half - exact)
                far = min(exact + int(steps), half - 1)
            bias[:, q, kv] = table[row + far]
    return score + gate[..., None] * bias


def model(score: Tensor, buckets: int, farthest: int) -> Tensor:
    """WavLM's own attention, stopped where it has the bias."""
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    heads = score.shape[1]
    attention = WavLMAttention(4 * heads, heads, num_buckets=buckets, max_distance=farthest)
    sizes = Sizes(batch=score.shape[0], heads=heads, q_len=score.shape[2])
    hidden, weight, constant, table = content(sizes, buckets)
    attention.gru_rel_pos_linear.weight.data = weight
    attention.gru_rel_pos_linear.bias.data.zero_()
    attention.gru_rel_pos_const.data = constant
    attention.rel_attn_embed.weight.data = table
    attention.torch_multi_head_self_attention = lambda hidden, mask, bias: (hidden, bias)
    states = hidden.transpose(1, 2).flatten(2)
    return score + attention(states)[1].view(score.shape)


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + gate[b, h, q] table[bucket(kv - q), h]",
    sources=(Source("WavLM (320 buckets, farthest 800)", "arXiv:2110.13900"),),
    score=gated_bias,
    captures=from_hidden,
    parameters={
        "buckets": "rows of the table, both directions together [count]",
        "farthest": "distance from which on all tokens share the last bucket [tokens]",
    },
    captured={
        "gate": "[B, Hq, Q_LEN] float: gate of each query",
        "table": "[buckets, Hq] float: the learned bias",
        "bucket": "[farthest + 1] int64: bucket of each distance, in one direction",
    },
    learned=frozenset({"gate", "table"}),
    equivalents=(
        "t5_bias: the same buckets, no gate",
        "XLM-R XL, UniSpeech-SAT have no gate",
    ),
    pictures=(
        # Two buckets a direction: here 1, far 2; the future 3 (never used) and 4.
        Picture(
            "10 40 40\n40 20 80",
            given={
                "gate": [[[10.0, 20.0]]], "table": [[1.0], [2.0], [3.0], [4.0]], "bucket": [0, 1]
            },
        ),
        Picture(
            "3 #\n6 3",
            given={
                "gate": [[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 3.0]]],
                "table": [[0.0, 1.0], [0.0, 2.0], [0.0, 5.0], [0.0, 0.0]],
                "bucket": [0, 1],
            },
            batch=1, head=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers WavLMAttention", scores=model,
            sizes=Sizes(batch=2, heads=4, kv_heads=2, q_len=61),
        ),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=1024),
    small={"buckets": 24, "farthest": 40},
)  # fmt: skip
