"""A soft cap on the scores, then a causal window: local layers of Gemma 2."""

from types import SimpleNamespace

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.sliding_window import sliding_window
from attention_gym.recipes.tanh_softcap import tanh_softcap
from attention_gym.reference import masked, model_mask


def dense(score: Tensor, cap: float, window: int) -> Tensor:
    """The cap by exponentials in float64, then a band."""
    grown = torch.exp(2 * score.double() / cap)
    capped = (cap * (grown - 1) / (grown + 1)).to(score.dtype)
    lower = torch.ones_like(score, dtype=torch.bool).tril()
    return masked(capped, lower & ~lower.tril(-window))


def model(score: Tensor, cap: float, window: int) -> Tensor:
    """Weights by Gemma 2's own attention and mask, of queries that are the scores and unit keys."""
    from transformers import Gemma2Config
    from transformers.masking_utils import create_sliding_window_causal_mask
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    config = Gemma2Config(sliding_window=window)
    mask = model_mask(create_sliding_window_causal_mask, config, score)
    module = SimpleNamespace(num_key_value_groups=1, training=False)
    key = torch.eye(score.shape[3]).expand(*score.shape[:2], -1, -1)
    options = {"attention_mask": mask, "scaling": 1.0, "softcap": cap}
    return eager_attention_forward(module, score, key, key, **options)[1].log()


RECIPE = Recipe(
    family="score rescaling",
    formula="s' = cap * tanh(s / cap), keep = 0 <= q - kv < window",
    sources=(Source("Gemma 2, local layers (cap 50, window 4096)", "arXiv:2408.00118"),),
    mask=sliding_window,
    score=tanh_softcap,
    parameters={
        "window": "keys visible to one query, itself included [tokens]",
        "cap": "bound of the score's magnitude, in units of the scaled score [1]",
    },
    equivalents=(
        "the cap comes first: a cap after a mask of large negative numbers would let pairs back in",
        "flash-attn softcap=cap, window_size=(window - 1, 0): the same",
    ),
    pictures=(
        # 2 tanh(1).
        Picture(
            "1.523188 . .\n1.523188 1.523188 .\n. 1.523188 1.523188",
            given={"cap": 2.0, "window": 2}, raw=2.0,
        ),
        Picture("-28.920827 .\n. -28.920827", given={"cap": 30.0, "window": 1}, raw=-60.0),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers eager_attention_forward (Gemma 2)", scores=model, weights=True,
            sizes=SQUARE,
        ),
    ),
    sizes=Sizes(q_len=4096),
    small={"cap": 2.0, "window": 6},
)  # fmt: skip
