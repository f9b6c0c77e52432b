"""A learned number per head and clipped distance is added to the score."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def relative_bias(table: Tensor) -> ScoreMod:
    """s' = s + table[h, clip(q - kv, -reach, reach) + reach], table of 2 * reach + 1 columns"""
    reach = table.shape[1] // 2

    def score_mod(score, b, h, q_idx, kv_idx):
        distance = (q_idx - kv_idx).clamp(-reach, reach)
        return score + table[h, distance + reach]

    return score_mod


def random_table(sizes: Sizes, reach: int = 128) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"table": torch.randn(sizes.heads, 2 * reach + 1, generator=generator)}


def dense(score: Tensor, table: Tensor) -> Tensor:
    """Diagonal by diagonal, each filled with its column of the table."""
    reach, bias = table.shape[1] // 2, torch.zeros_like(score)
    q_len, kv_len = score.shape[-2:]
    for distance in range(-kv_len + 1, q_len):
        column = table[:, min(max(distance, -reach), reach) + reach]
        bias.diagonal(-distance, -2, -1).copy_(column[:, None])
    return score + bias


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + table[h, clip(q - kv, -reach, reach) + reach]",
    sources=(
        Source("Clipped relative positions, one scalar per head here", "arXiv:1803.02155"),
        Source("Swin Transformer, the same in two dimensions", "arXiv:2103.14030"),
    ),
    score=relative_bias,
    captures=random_table,
    parameters={"reach": "distance from which on all tokens share one entry [tokens]"},
    captured={"table": "[Hq, 2 * reach + 1] float: column d + reach is the bias at q - kv = d"},
    learned=frozenset({"table"}),
    equivalents=(
        "Shaw et al. index by kv - q: the same table with its columns reversed",
        "T5 (t5_bias) shares entries between far distances in growing buckets",
    ),
    pictures=(
        # reach 1: column 0 where kv is after q, column 1 on the diagonal, column 2 before.
        Picture(
            """
            20 10 10 10
            30 20 10 10
            30 30 20 10
            """,
            given={"table": [[10.0, 20.0, 30.0]]},
        ),
        Picture(
            """
            1 0
            2 1
            3 2
            4 3
            4 4
            """,
            given={"table": [[9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0], [-2.0, -1, 0, 1, 2, 3, 4]]},
            head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=1024),
    small={"reach": 4},
)
