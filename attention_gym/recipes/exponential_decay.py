"""Weights fall by a learned factor per token of distance: causal softmax with decay."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source
from attention_gym.recipes.causal import causal


def exponential_decay(log_gamma: Tensor) -> ScoreMod:
    """s' = s + (q - kv) * log_gamma[h] where q >= kv"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + (q_idx - kv_idx) * log_gamma[h]

    return score_mod


def retention_rates(sizes: Sizes, slowest: int = 12) -> dict[str, Tensor]:
    """gamma = 1 - 2^-5 … 1 - 2^-slowest, as RetNet begins."""
    power = torch.linspace(5, slowest, sizes.heads)
    return {"log_gamma": torch.log1p(-(2.0**-power))}


def dense(score: Tensor, log_gamma: Tensor) -> Tensor:
    """Weights exp(s) times powers of gamma, then the logarithm again."""
    q_len, kv_len = score.shape[-2:]
    back = torch.arange(q_len)[:, None] - torch.arange(kv_len)
    gamma = log_gamma.double().exp().view(-1, 1, 1)
    decay = torch.where(back >= 0, gamma ** back.clamp(min=0), 0.0)
    return (score.double().exp() * decay).log().to(score.dtype)


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + (q - kv) log gamma[h] where q >= kv",
    sources=(Source("RetNet's decay, with softmax", "arXiv:2307.08621"),),
    score=exponential_decay,
    mask=causal,
    captures=retention_rates,
    parameters={"slowest": "gamma of the last head is 1 - 2^-slowest [1]"},
    captured={"log_gamma": "[Hq] float: logarithm of what is left after each token (learned)"},
    learned=frozenset({"log_gamma"}),
    equivalents=(
        "alibi with slopes = -log_gamma: the same",
        "RetNet itself has no softmax: decay multiplies the scores there",
    ),
    pictures=(
        Picture("# . .\n-1 # .\n-2 -1 #", given={"log_gamma": [-1.0]}),
        Picture("# .\n-0.5 #\n-1 -0.5", given={"log_gamma": [-1.0, -0.5]}, head=1),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=2048),
)
