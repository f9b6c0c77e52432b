"""Scores at odd distances are halved: a toy that shows what a score_mod is."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def checkerboard(factor: float = 0.5) -> ScoreMod:
    """s' = s * factor where |q - kv| is odd"""

    def score_mod(score, b, h, q_idx, kv_idx):
        odd = torch.abs(q_idx - kv_idx) % 2 == 1
        return torch.where(odd, factor * score, score)

    return score_mod


def dense(score: Tensor, factor: float) -> Tensor:
    """Every other column of every other row is scaled in place."""
    out = score.clone()
    out[..., ::2, 1::2] *= factor
    out[..., 1::2, ::2] *= factor
    return out


RECIPE = Recipe(
    family="causal, local, global",
    formula="s' = s * factor where |q - kv| is odd",
    sources=(Source("FlexAttention's introduction", "attention-gym examples/flex_attn.ipynb"),),
    score=checkerboard,
    parameters={"factor": "what a score at an odd distance is multiplied with [1]"},
    equivalents=("the parity of q + kv is that of q - kv",),
    pictures=(
        Picture("# 2 # 2\n2 # 2 #\n# 2 # 2", raw=4.0),
        Picture("# -3\n-3 #\n# -3", given={"factor": 3.0}, raw=-1.0),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048),
)
