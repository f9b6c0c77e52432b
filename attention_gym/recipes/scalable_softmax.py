"""Scores grow with the logarithm of the number of keys, by a learned factor per head."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source
from attention_gym.recipes.causal import causal
from attention_gym.reference import masked


def scalable_softmax(factor: Tensor) -> ScoreMod:
    """s' = s * factor[h] * log(q + 1)"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score * factor[h] * torch.log(q_idx + 1.0)

    return score_mod


def learned_factors(sizes: Sizes, start: float = 0.43) -> dict[str, Tensor]:
    """Spread a little around ``start``."""
    return {"factor": start * torch.linspace(0.8, 1.2, sizes.heads)}


def dense(score: Tensor, factor: Tensor) -> Tensor:
    """Softmax with base n to the power of factor in place of e, n keys in sight."""
    count = torch.arange(1, score.shape[2] + 1, dtype=torch.float64)[:, None]
    base = count ** factor.double().view(-1, 1, 1)
    out = torch.log(base ** score.double()).to(score.dtype)
    return masked(out, torch.ones_like(score, dtype=torch.bool).tril())


RECIPE = Recipe(
    family="score rescaling",
    formula="s' = s factor[h] log(q + 1) where q >= kv",
    sources=(
        Source("Scalable-Softmax (factor about 0.43)", "arXiv:2501.19399"),
        Source("Qwen 1, log-n attention", "arXiv:2309.16609"),
    ),
    score=scalable_softmax,
    mask=causal,
    captures=learned_factors,
    parameters={"start": "mean of the factors [1]"},
    captured={"factor": "[Hq] float: s in the paper (learned)"},
    learned=frozenset({"factor"}),
    equivalents=(
        "Qwen 1 use_logn_attn: max(1, log(q + 1) / log(trained length)), not learned",
        "the first query sees one key: its factor of log(1) = 0 changes nothing",
    ),
    pictures=(
        # log 1, log 2, log 3 times 2 times 3.
        Picture(
            "0 . .\n4.158883 4.158883 .\n6.591674 6.591674 6.591674",
            given={"factor": [2.0]}, raw=3.0,
        ),
        Picture("0 .\n-0.693147 -0.693147", given={"factor": [0.0, 1.0]}, head=1, raw=-1.0),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=2048),
)  # fmt: skip
