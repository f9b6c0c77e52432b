"""A learned number per head and bucket of the time between two events."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source
from attention_gym.recipes.causal import causal


def time_gap(time: Tensor, table: Tensor) -> ScoreMod:
    """s' = s + table[bit length of |time[b, q] - time[b, kv]|, h] where q >= kv"""
    last = table.shape[0] - 1

    def score_mod(score, b, h, q_idx, kv_idx):
        gap = torch.abs(time[b, q_idx] - time[b, kv_idx])
        bucket = torch.zeros_like(gap)
        for bit in range(last):
            bucket = bucket + (gap >= 2**bit).long()
        return score + table[bucket, h]

    return score_mod


def visits(sizes: Sizes, buckets: int = 16, pause: int = 60) -> dict[str, Tensor]:
    """Events with random pauses, of ``pause`` seconds in the mean, some far longer."""
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.batch, max(sizes.q_len, sizes.kv_len))
    u = torch.rand(shape, generator=generator).clamp(min=1e-4)
    step = (pause / 2 * u**-0.5).long()
    table = torch.randn(buckets, sizes.heads, generator=generator)
    return {"time": step.cumsum(1), "table": table}


def dense(score: Tensor, time: Tensor, table: Tensor) -> Tensor:
    """Cell by cell, with Python's integers."""
    out = torch.full_like(score, -torch.inf)
    for b, row in enumerate(time.tolist()):
        for q in range(score.shape[2]):
            for kv in range(min(q + 1, score.shape[3])):
                bucket = min(abs(row[q] - row[kv]).bit_length(), len(table) - 1)
                out[b, :, q, kv] = score[b, :, q, kv] + table[bucket]
    return out


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + table[bucket(|time[b, q] - time[b, kv]|), h] where q >= kv, buckets in "
    "powers of two",
    sources=(
        Source("HSTU, relative time", "arXiv:2402.17152"),
        Source("TiSASRec, clipped intervals", "doi:10.1145/3336191.3371786"),
    ),
    score=time_gap,
    mask=causal,
    captures=visits,
    parameters={
        "buckets": "rows of the table: 0, 1, 2 to 3, 4 to 7, … [count]",
        "pause": "usual time between events [seconds]",
    },
    captured={
        "time": "[B, S] int64: time of each event, S = max(Q_LEN, KV_LEN) [seconds]",
        "table": "[buckets, Hq] float: the learned bias",
    },
    learned=frozenset({"table"}),
    equivalents=(
        "HSTU adds it before SiLU in place of softmax, and a bias by position as well",
        "TiSASRec has an embedding per interval and adds its product with the query",
    ),
    pictures=(
        # Gaps 0, 1, 5 (bucket 3): three powers and zero.
        Picture(
            "1 . .\n2 1 .\n4 4 1",
            given={"time": [[10, 11, 16]], "table": [[1.0], [2.0], [3.0], [4.0]]},
        ),
        Picture(
            "5 .\n7 5",
            given={
                "time": [[0, 0], [3, 103]], "table": [[0.0, 5.0], [0.0, 6.0], [0.0, 7.0]]
            },
            batch=1, head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=2, q_len=1024),
    small={"buckets": 9, "pause": 4},
)  # fmt: skip
