"""A masked diffusion language model sees all of its sequence, but no padding."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.key_padding import key_padding, padded_batch
from attention_gym.reference import added, masked, model_mask


def masked_diffusion(valid: Tensor) -> MaskMod:
    """keep = valid[b, kv]"""
    return key_padding(valid)


def dense(score: Tensor, valid: Tensor) -> Tensor:
    """Columns struck out one by one."""
    keep = torch.ones_like(score, dtype=torch.bool)
    for b, kv in (~valid).nonzero().tolist():
        keep[b, :, :, kv] = False
    return masked(score, keep)


def model(score: Tensor, valid: Tensor) -> Tensor:
    """transformers' mask for a decoder whose configuration says it is not causal."""
    from transformers import LlamaConfig
    from transformers.masking_utils import create_causal_mask

    config = LlamaConfig()
    config.is_causal = False
    made = model_mask(create_causal_mask, config, score, attention_mask=valid.long())
    return added(score, made)


RECIPE = Recipe(
    family="generation structure",
    formula="keep = valid[b, kv]",
    sources=(Source("LLaDA", "arXiv:2502.09992"), Source("Dream 7B", "arXiv:2508.15487")),
    mask=masked_diffusion,
    captures=padded_batch,
    parameters={"shortest": "length of the shortest sequence as a share of KV_LEN [1]"},
    captured={"valid": "[B, KV_LEN] bool: False for a padding key"},
    equivalents=(
        "key_padding: the same; mask tokens are seen like others",
        "transformers is_causal=False on a decoder: the same",
    ),
    pictures=(
        Picture("# # # .\n# # # .", given={"valid": [[True, True, True, False]]}),
        Picture(
            "# # .\n# # .\n# # .",
            given={"valid": [[True, True, True], [True, True, False]]},
            batch=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_causal_mask(is_causal=False)", scores=model,
            sizes=Sizes(batch=2, heads=4, kv_heads=2, q_len=47),
        ),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=4, q_len=1024),
)  # fmt: skip
