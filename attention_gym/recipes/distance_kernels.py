"""Gaussians of the distance between atoms, weighted per head."""

import math

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def distance_kernels(distance: Tensor, weight: Tensor, widest: float = 8.0) -> ScoreMod:
    """s' = s + sum over r of weight[h, r] * exp(-(distance[b, q, kv] - mean[r])^2 / (2 width^2))"""
    count = weight.shape[1]
    width = widest / count

    def score_mod(score, b, h, q_idx, kv_idx):
        apart = distance[b, q_idx, kv_idx]
        total = 0.0 * score
        for r in range(count):
            away = (apart - r * width) / width
            total = total + weight[h, r] * torch.exp(-0.5 * away * away)
        return score + total

    return score_mod


def molecules(sizes: Sizes, kernels: int = 8, box: float = 4.0) -> dict[str, Tensor]:
    """Atoms at random places within ``box``, others in every batch entry."""
    generator = torch.Generator().manual_seed(0)
    count = max(sizes.q_len, sizes.kv_len)
    place = box * torch.rand(sizes.batch, count, 3, generator=generator)
    weight = torch.randn(sizes.heads, kernels, generator=generator)
    return {"distance": torch.cdist(place, place), "weight": weight}


def dense(score: Tensor, distance: Tensor, weight: Tensor, widest: float) -> Tensor:
    """Normal densities of torch.distributions, scaled to 1 at their means."""
    width = widest / weight.shape[1]
    mean = torch.arange(weight.shape[1]) * width
    part = distance[:, : score.shape[2], : score.shape[3], None]
    density = torch.distributions.Normal(mean, width).log_prob(part)
    kernels = torch.exp(density + math.log(width * math.sqrt(2 * math.pi)))
    return score + torch.einsum("bqkr,hr->bhqk", kernels, weight)


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + sum over r of w[h, r] exp(-(D[b, q, kv] - m_r)^2 / (2 sigma^2))",
    sources=(
        Source("Transformer-M", "arXiv:2210.01765"),
        Source("Uni-Mol, pair representation", "doi:10.26434/chemrxiv-2022-jjm0j"),
    ),
    score=distance_kernels,
    captures=molecules,
    parameters={
        "widest": "distance the means are spread over; their step is the width [Å]",
        "kernels": "Gaussians [count]",
        "box": "side of the box the atoms lie in [Å]",
    },
    captured={
        "distance": "[B, N, N] float: distance of atoms, N = max(Q_LEN, KV_LEN) [Å]",
        "weight": "[Hq, kernels] float: weight of each Gaussian (learned)",
    },
    learned=frozenset({"weight"}),
    equivalents=(
        "the models learn means and widths too, and a scale per pair of elements: fold these "
        "into distance before the call",
        "their kernels have the factor 1 / (sigma sqrt(2 pi)): fold it into the weights",
    ),
    pictures=(
        # One Gaussian of width 1 at 0, weight 2: 2 exp(-1/2), 2 exp(-2).
        Picture(
            "2 1.213061\n1.213061 2\n0.270671 1.213061",
            given={
                "distance": [[[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]]], "weight": [[2.0]],
                "widest": 1.0,
            },
        ),
        # Two of width 1 at 0 and 1: 3 exp(-1/2) + 5.
        Picture(
            "6.819592",
            given={"distance": [[[1.0]]], "weight": [[0.0, 0.0], [3.0, 5.0]], "widest": 2.0},
            head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=8, q_len=256),
)  # fmt: skip
