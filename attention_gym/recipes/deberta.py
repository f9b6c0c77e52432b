"""Content to position and position to content: two products, read at a bucketed distance."""

import math

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def deberta(to_position: Tensor, to_content: Tensor, bucket: Tensor) -> ScoreMod:
    """s' = s + to_position[b, h, q, d] + to_content[b, h, kv, d], d = bucket(q - kv) + span"""
    span, farthest = to_position.shape[3] // 2, bucket.shape[0] // 2

    def score_mod(score, b, h, q_idx, kv_idx):
        distance = bucket[(q_idx - kv_idx).clamp(-farthest, farthest) + farthest]
        column = (distance + span).clamp(0, 2 * span - 1)
        return score + to_position[b, h, q_idx, column] + to_content[b, h, kv_idx, column]

    return score_mod


def log_bucket(distance: int, span: int, farthest: int) -> int:
    """Exact up to span / 2 on each side, then in log steps up to ``farthest``."""
    middle = span // 2
    if abs(distance) <= middle:
        return distance
    steps = math.log(abs(distance) / middle) / math.log((farthest - 1) / middle) * (middle - 1)
    return int(math.copysign(math.ceil(steps) + middle, distance))


def content(sizes: Sizes, span: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, and embeddings of 2 * span distances, random."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(sizes.batch, sizes.heads, sizes.q_len, 8, generator=generator)
    key = torch.randn(sizes.batch, sizes.heads, sizes.kv_len, 8, generator=generator)
    return query, key, torch.randn(2 * span, 8, generator=generator)


def from_content(sizes: Sizes, span: int = 64, farthest: int = 512) -> dict[str, Tensor]:
    query, key, table = content(sizes, span)
    scale = math.sqrt(3 * query.shape[-1])
    reach = max(sizes.q_len, sizes.kv_len, 2)
    buckets = [log_bucket(d, span, farthest) for d in range(-reach, reach + 1)]
    return {
        "to_position": query @ table.mT / scale,
        "to_content": key @ table.mT / scale,
        "bucket": torch.tensor(buckets),
    }


def dense(
    score: Tensor, to_position: Tensor, to_content: Tensor, span: int, farthest: int
) -> Tensor:
    """Diagonal by diagonal: one column of each product for all of it."""
    out, (q_len, kv_len) = score.clone(), score.shape[-2:]
    for distance in range(1 - kv_len, q_len):
        column = min(max(log_bucket(distance, span, farthest) + span, 0), 2 * span - 1)
        rows = range(max(0, distance), min(q_len, kv_len + distance))
        keys = [q - distance for q in rows]
        added = to_position[:, :, list(rows), column] + to_content[:, :, keys, column]
        out[:, :, list(rows), keys] += added
    return out


def model(score: Tensor, span: int, farthest: int) -> Tensor:
    """DeBERTa-v2's own function on the same queries, keys and embeddings."""
    from transformers import DebertaV2Config
    from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

    config = DebertaV2Config(
        hidden_size=8, num_attention_heads=1, relative_attention=True, share_att_key=False,
        pos_att_type=["c2p", "p2c"], position_buckets=span, max_relative_positions=farthest,
    )  # fmt: skip
    attention = DisentangledSelfAttention(config).eval()
    for part in (attention.pos_key_proj, attention.pos_query_proj):
        part.weight.data, bias = torch.eye(8), part.bias
        if bias is not None:
            bias.data.zero_()
    sizes = Sizes(
        batch=score.shape[0], heads=score.shape[1], q_len=score.shape[2], kv_len=score.shape[3]
    )
    query, key, table = content(sizes, span)
    bias = attention.disentangled_attention_bias(
        query.flatten(0, 1), key.flatten(0, 1), None, table, scale_factor=3
    )
    return score + bias.view(score.shape)


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + C[b, h, q, d + span] + P[b, h, kv, d + span], d = bucket(q - kv), scale 1 / "
    "sqrt(3 D)",
    sources=(
        Source("DeBERTa", "arXiv:2006.03654"),
        Source("DeBERTa v3 (256 buckets, farthest 512)", "arXiv:2111.09543"),
    ),
    score=deberta,
    captures=from_content,
    parameters={
        "span": "buckets of the distance to each side [count]",
        "farthest": "distance of the last bucket [tokens]",
    },
    captured={
        "to_position": "[B, Hq, Q_LEN, 2 * span] float: query times embedding of each bucket",
        "to_content": "[B, Hq, KV_LEN, 2 * span] float: key times embedding of each bucket",
        "bucket": "[2 * reach + 1] int64: bucket of each distance, reach the longer side",
    },
    learned=frozenset({"to_position", "to_content"}),
    equivalents=(
        "transformers gathers position to content at -bucket(kv - q): the same column, since "
        "buckets are odd",
        "pass scale = 1 / sqrt(3 D): three products share the variance",
    ),
    pictures=(
        # span 2: columns -2, -1, 0, 1; nothing bucketed.
        Picture(
            "33 22\n44 33",
            given={
                "to_position": [[[[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]]],
                "to_content": [[[[10.0, 20.0, 30.0, 40.0], [10.0, 20.0, 30.0, 40.0]]]],
                "bucket": [-2, -1, 0, 1, 2],
            },
        ),
        # Which row each product is read from: the query's and the key's.
        Picture(
            "6 7\n7 8",
            given={
                "to_position": [[[[1.0, 1.0], [2.0, 2.0]]]],
                "to_content": [[[[5.0, 5.0], [6.0, 6.0]]]],
                "bucket": [0, 0, 0],
            },
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers DisentangledSelfAttention.disentangled_attention_bias",
            scores=model, sizes=Sizes(batch=2, heads=4, kv_heads=2, q_len=59),
        ),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=512),
    small={"span": 8, "farthest": 40},
)  # fmt: skip
