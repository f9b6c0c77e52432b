"""Scores are squeezed smoothly into (-cap, cap) before the mask and the softmax."""

from types import SimpleNamespace

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def tanh_softcap(cap: float = 50.0) -> ScoreMod:
    """s' = cap * tanh(s / cap)"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return cap * torch.tanh(score / cap)

    return score_mod


def dense(score: Tensor, cap: float) -> Tensor:
    """The hyperbolic tangent by exponentials, in float64."""
    grown = torch.exp(2 * score.double() / cap)
    return (cap * (grown - 1) / (grown + 1)).to(score.dtype)


def model(score: Tensor, cap: float) -> Tensor:
    """Weights by Gemma 2's own attention, of queries that are the scores and unit keys."""
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    module = SimpleNamespace(num_key_value_groups=1, training=False)
    key = torch.eye(score.shape[3]).expand(*score.shape[:2], -1, -1)
    options = {"attention_mask": None, "scaling": 1.0, "softcap": cap}
    return eager_attention_forward(module, score, key, key, **options)[1].log()


RECIPE = Recipe(
    family="score rescaling",
    formula="s' = cap * tanh(s / cap)",
    sources=(
        Source("Gemma 2 (cap 50)", "arXiv:2408.00118"),
        Source("Grok-1 (cap 30)", "github.com/xai-org/grok-1"),
    ),
    score=tanh_softcap,
    parameters={"cap": "bound of the score's magnitude, in units of the scaled score [1]"},
    equivalents=(
        "flash-attn softcap=cap: the same",
        "attention-gym generate_tanh_softcap(cap): the same; approx=True rounds the tanh",
        "transformers attn_logit_softcapping: the same, applied before the mask is added",
    ),
    pictures=(
        # 2 tanh(1), 50 tanh(1) and 30 tanh(-2), to six digits.
        Picture("1.523188 1.523188\n1.523188 1.523188", given={"cap": 2.0}, raw=2.0),
        Picture("38.079708", given={"cap": 50.0}, raw=50.0),
        Picture("-28.920827 -28.920827", given={"cap": 30.0}, raw=-60.0),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers eager_attention_forward (Gemma 2)", scores=model, weights=True
        ),
    ),
    sizes=Sizes(q_len=1024),
    small={"cap": 2.0},
)
