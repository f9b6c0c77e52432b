"""Most layers look through a window, every few layers see all earlier keys."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.causal import causal
from attention_gym.recipes.sliding_window import sliding_window
from attention_gym.reference import added, masked, model_mask


def layer_schedule(layer: int = 0, period: int = 6, window: int = 1024) -> MaskMod:
    """keep = causal in each period-th layer, 0 <= q - kv < window in the others"""
    whole = (layer + 1) % period == 0
    return causal() if whole else sliding_window(window)


def dense(score: Tensor, layer: int, period: int, window: int) -> Tensor:
    """The list of layers written out, then a triangle or a band."""
    kinds = (["local"] * (period - 1) + ["global"]) * (layer // period + 1)
    lower = torch.ones(score.shape[-2:], dtype=torch.bool).tril()
    return masked(score, lower if kinds[layer] == "global" else lower & ~lower.tril(-window))


def model(score: Tensor, layer: int, window: int) -> Tensor:
    """Gemma 3's own list of layers (period 6), and transformers' mask for the one asked for."""
    from transformers import Gemma3TextConfig
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

    config = Gemma3TextConfig(num_hidden_layers=layer + 1, sliding_window=window)
    kinds = {
        "full_attention": create_causal_mask,
        "sliding_attention": create_sliding_window_causal_mask,
    }
    return added(score, model_mask(kinds[config.layer_types[layer]], config, score))


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q >= kv, and q - kv < window unless (layer + 1) % period == 0",
    sources=(
        Source("Gemma 3 (5 local to 1 global, window 1024)", "arXiv:2503.19786"),
        Source("Gemma 2, gpt-oss (1 to 1)", "arXiv:2408.00118"),
        Source("Cohere Command A (3 to 1)", "arXiv:2504.00698"),
    ),
    mask=layer_schedule,
    parameters={
        "layer": "layer the mask is for, from 0 on [count]",
        "period": "layers after which the pattern repeats [count]",
        "window": "keys visible to one query of a local layer, itself included [tokens]",
    },
    equivalents=(
        "transformers layer_types: full_attention where (layer + 1) % period == 0",
        "two masks serve all layers: build both block masks once and share them",
        "GPT-Neo, ModernBERT begin with a global layer: layer % period == 0",
    ),
    pictures=(
        Picture("# . .\n# # .\n# # #", given={"layer": 5, "period": 3, "window": 1}),
        Picture("# . .\n# # .\n. # #", given={"layer": 4, "period": 3, "window": 2}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"layer": 11}),
        Reference(source="transformers Gemma3TextConfig.layer_types", scores=model, sizes=SQUARE),
        Reference(
            source="transformers Gemma3TextConfig.layer_types", scores=model, sizes=SQUARE,
            given={"layer": 11},
        ),
    ),
    sizes=Sizes(q_len=4096),
    small={"window": 5},
)  # fmt: skip
