"""A learned kernel of the distance per head, logarithmic or a power."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def kerple(amount: Tensor, shape: Tensor, power: bool = False) -> ScoreMod:
    """s' = s - amount[h] * log(1 + shape[h] * |q - kv|), or - amount[h] * |q - kv| ^ shape[h]"""

    def score_mod(score, b, h, q_idx, kv_idx):
        distance = torch.abs(q_idx - kv_idx)
        if not power:
            return score - amount[h] * torch.log1p(shape[h] * distance)
        grown = torch.exp(shape[h] * torch.log(distance.clamp(min=1).float()))
        return score - torch.where(distance == 0, 0.0, amount[h] * grown)

    return score_mod


def kernels(sizes: Sizes, largest: float = 1.5) -> dict[str, Tensor]:
    """Amounts fall and shapes rise from head to head, all positive."""
    head = torch.arange(1, sizes.heads + 1) / sizes.heads
    return {"amount": largest / head.sqrt() / 2, "shape": head}


def dense(score: Tensor, amount: Tensor, shape: Tensor, power: bool) -> Tensor:
    """The kernel of every distance in float64, laid down as a Toeplitz matrix."""
    distance = torch.arange(max(score.shape[-2:]), dtype=torch.float64)
    a, p = amount.double()[:, None], shape.double()[:, None]
    kernel = a * distance**p if power else a * torch.log(1 + p * distance)
    kernel[:, 0] = 0
    index = (torch.arange(score.shape[2])[:, None] - torch.arange(score.shape[3])).abs()
    return score - kernel[:, index].to(score.dtype)


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s - a[h] log(1 + p[h] |q - kv|), or s - a[h] |q - kv|^p[h]",
    sources=(Source("KERPLE", "arXiv:2205.09921"),),
    score=kerple,
    captures=kernels,
    parameters={
        "power": "the power kernel; False for the logarithmic one",
        "largest": "scale of all amounts [1]",
    },
    captured={
        "amount": "[Hq] float: a, positive (learned)",
        "shape": "[Hq] float: p, positive, below 2 for the power kernel (learned)",
    },
    learned=frozenset({"amount", "shape"}),
    equivalents=(
        "the power kernel with p = 1: ALiBi with learned slopes",
        "the paper's r1, r2 are amount and shape; it keeps them positive by clamping",
    ),
    pictures=(
        # log(1 + 1 * d) with amount 1: 0.693147, 1.098612.
        Picture(
            "# -0.693147 -1.098612\n-0.693147 # -0.693147",
            given={"amount": [1.0], "shape": [1.0]},
        ),
        Picture(
            "# -3 -12\n-3 # -3",
            given={"amount": [1.0, 3.0], "shape": [1.0, 2.0], "power": True},
            head=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"power": True}),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=2048),
)
