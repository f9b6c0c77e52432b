"""A part of the heads on this machine: a score_mod must know the first one's number."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source
from attention_gym.recipes.alibi import alibi_slopes
from attention_gym.recipes.causal import causal
from attention_gym.reference import masked


def head_shard(slopes: Tensor, first: int = 8) -> ScoreMod:
    """s' = s - slopes[h + first] * (q - kv) where q >= kv"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score - slopes[h + first] * (q_idx - kv_idx)

    return score_mod


def of_all_heads(sizes: Sizes, first: int = 8) -> dict[str, Tensor]:
    """ALiBi's slopes of all heads, as many before these ones as after."""
    return {"slopes": torch.tensor(alibi_slopes(2 * first + sizes.heads))}


def dense(score: Tensor, slopes: Tensor, first: int) -> Tensor:
    """The slopes of this part cut out first."""
    mine = slopes[first : first + score.shape[1]].view(-1, 1, 1)
    distance = torch.arange(score.shape[2])[:, None] - torch.arange(score.shape[3])
    return masked(score - mine * distance, distance >= 0)


RECIPE = Recipe(
    family="systems",
    formula="mod(s, b, h + first, q, kv), here s' = s - slope[h + first] (q - kv)",
    sources=(
        Source("DeepSpeed-Ulysses", "arXiv:2309.14509"),
        Source("Megatron-LM, tensor parallel heads", "arXiv:1909.08053"),
    ),
    score=head_shard,
    mask=causal,
    captures=of_all_heads,
    parameters={"first": "heads on machines before this one [count]"},
    captured={"slopes": "[all heads] float: penalty per token of distance, of every head"},
    equivalents=(
        "any mod: wrap it in one that adds first to h",
        "cutting captured tensors before the call: the same",
    ),
    pictures=(
        Picture("# . .\n-3 # .\n-6 -3 #", given={"slopes": [1.0, 2.0, 3.0, 4.0], "first": 2}),
        Picture("# .\n-4 #", given={"slopes": [1.0, 2.0, 3.0, 4.0], "first": 2}, head=1),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048),
    small={"first": 3},
)
