"""A constant per head and the distance itself: the smallest score_mods there are."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def head_bias(step: float = 2.0, slope: float = 1.0) -> ScoreMod:
    """s' = s + step * h + slope * (q - kv)"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + step * h + slope * (q_idx - kv_idx)

    return score_mod


def dense(score: Tensor, step: float, slope: float) -> Tensor:
    """Sums of three ramps."""
    heads, q_len, kv_len = score.shape[1:]
    ramps = (
        step * torch.arange(heads).view(-1, 1, 1),
        slope * torch.arange(q_len).view(-1, 1),
        -slope * torch.arange(kv_len),
    )
    return score + ramps[0] + ramps[1] + ramps[2]


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + step * h + slope * (q - kv)",
    sources=(Source("FlexAttention's benchmarks", "attention-gym benchmarks/flex_perf.py"),),
    score=head_bias,
    parameters={
        "step": "added once per number of the head [1]",
        "slope": "added per token of distance [1 / token]",
    },
    equivalents=(
        "step changes no output: softmax takes no notice of a constant in a row, lse does",
        "benchmarks call them head_bias (2 h) and rel (q - kv)",
    ),
    pictures=(
        Picture("# -1 -2\n1 # -1", given={"step": 2.0, "slope": 1.0}),
        Picture("2 2.5\n1.5 2", given={"step": 2.0, "slope": -0.5}, head=1),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048),
    small={"slope": 0.25},
)
