"""A learned number per key and head: how much a token is worth attending to."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def key_bias(worth: Tensor) -> ScoreMod:
    """s' = s + worth[b, h, kv]"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + worth[b, h, kv_idx]

    return score_mod


def from_values(sizes: Sizes, strength: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.batch, sizes.heads, sizes.kv_len)
    return {"worth": strength * torch.randn(shape, generator=generator)}


def dense(score: Tensor, worth: Tensor) -> Tensor:
    """Weights multiplied by exp(worth), then the logarithm again."""
    return (score.double().exp() * worth.double().exp()[:, :, None]).log().to(score.dtype)


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + worth[b, h, kv]",
    sources=(
        Source("Doge, its dynamic mask before keys are dropped", "arXiv:2412.11834"),
        Source("Token merging, log of a token's size", "arXiv:2210.09461"),
    ),
    score=key_bias,
    captures=from_values,
    parameters={"strength": "standard deviation of the bias [1]"},
    captured={"worth": "[B, Hq, KV_LEN] float: added to all scores of a key (learned)"},
    learned=frozenset({"worth"}),
    equivalents=(
        "proportional attention of token merging: worth = log(size)",
        "a bias per query alone changes nothing: softmax takes no notice of it",
    ),
    pictures=(
        Picture("1 2 3\n1 2 3", given={"worth": [[[1.0, 2.0, 3.0]]]}),
        Picture("-4 5", given={"worth": [[[0.0, 0.0], [-4.0, 5.0]]]}, head=1),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=2048),
)
