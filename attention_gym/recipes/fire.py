"""A learned function of the distance over the query's position, read from a table of it."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def fire(table: Tensor, bend: float = 1.0, threshold: int = 16) -> ScoreMod:
    """s' = s + table[h](x), x = log(1 + bend (q - kv)) / log(1 + bend max(q, threshold))"""
    last = table.shape[1] - 1

    def score_mod(score, b, h, q_idx, kv_idx):
        back = (q_idx - kv_idx).clamp(min=0)
        whole = torch.log1p(bend * q_idx.clamp(min=threshold))
        place = torch.log1p(bend * back) / whole * last
        low = place.floor().clamp(0, last - 1)
        part = place - low
        column = low.long()
        return score + (1 - part) * table[h, column] + part * table[h, column + 1]

    return score_mod


def tabulated(sizes: Sizes, points: int = 65) -> dict[str, Tensor]:
    """A small random network evaluated at equal steps of 0 … 1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(0, 1, points)[:, None]
    hidden = torch.relu(x * torch.randn(1, 32, generator=generator) + 0.1)
    out = hidden @ torch.randn(32, sizes.heads, generator=generator) / 4
    return {"table": out.mT.contiguous()}


def dense(score: Tensor, table: Tensor, bend: float, threshold: int) -> Tensor:
    """Interpolation by hat functions around the points."""
    q = torch.arange(score.shape[2], dtype=torch.float64)[:, None]
    back = (q - torch.arange(score.shape[3])).clamp(min=0)
    x = torch.log(1 + bend * back) / torch.log(1 + bend * q.clamp(min=threshold))
    points = torch.linspace(0, 1, table.shape[1], dtype=torch.float64)
    hats = (1 - (x[..., None] - points).abs() * (len(points) - 1)).clamp(min=0)
    return score + torch.einsum("qkp,hp->hqk", hats, table.double()).to(score.dtype)


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + f_h(log(1 + c (q - kv)) / log(1 + c max(q, threshold))), f as a table",
    sources=(Source("FIRE", "arXiv:2310.04418"),),
    score=fire,
    captures=tabulated,
    parameters={
        "bend": "c: how soon the logarithm sets in [1 / token]",
        "threshold": "shortest length the distance is divided by [tokens]",
        "points": "points the learned function is tabulated at [count]",
    },
    captured={"table": "[Hq, points] float: the function at equal steps of 0 … 1 (learned)"},
    learned=frozenset({"table"}),
    equivalents=(
        "the paper evaluates a small network for every pair; between points it is linear here, "
        "which gradients follow",
        "c and threshold are learned in the paper; here they are numbers",
    ),
    pictures=(
        # Two points: the function is x itself. Threshold 3, c = 1: log(1 + d) / log(4).
        Picture(
            "# # #\n0.5 # #\n0.792481 0.5 #\n1 0.792481 0.5",
            given={"table": [[0.0, 1.0]], "bend": 1.0, "threshold": 3},
        ),
        Picture(
            "5 5\n3 5",
            given={"table": [[0.0, 0.0], [5.0, 3.0]], "bend": 1.0, "threshold": 1},
            head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=2048),
    small={"points": 17},
)
