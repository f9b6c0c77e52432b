"""A query sees the keys at most reach tokens away, on both sides."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def two_sided_window(reach: int = 64) -> MaskMod:
    """keep = |q - kv| <= reach"""

    def mask_mod(b, h, q_idx, kv_idx):
        return torch.abs(q_idx - kv_idx) <= reach

    return mask_mod


def dense(score: Tensor, reach: int) -> Tensor:
    """A band cut out of a matrix of ones."""
    ones = torch.ones_like(score, dtype=torch.bool)
    return masked(score, ones.tril(reach) & ones.triu(-reach))


def model(score: Tensor, reach: int) -> Tensor:
    """ModernBERT's local layers; its configuration holds the whole window, twice the reach."""
    from transformers import ModernBertConfig
    from transformers.masking_utils import create_bidirectional_sliding_window_mask

    config = ModernBertConfig(local_attention=2 * reach)
    create = create_bidirectional_sliding_window_mask
    return added(score, model_mask(create, config, score, allow_is_bidirectional_skip=False))


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = |q - kv| <= reach",
    sources=(
        Source("ModernBERT local layers (reach 64)", "arXiv:2412.13663"),
        Source("Longformer without global tokens", "arXiv:2004.05150"),
    ),
    mask=two_sided_window,
    parameters={"reach": "farthest key seen on either side [tokens]"},
    equivalents=(
        "flash-attn window_size=(reach, reach): the same 2 * reach + 1 keys",
        "transformers ModernBERT local_attention=W: reach W // 2",
        "EmbeddingGemma, vLLM abs(q - kv) < W: reach W - 1",
    ),
    pictures=(
        Picture("# # . .\n# # # .\n. # # #\n. . # #", given={"reach": 1}),
        Picture("# . .\n. # .\n. . #\n. . .", given={"reach": 0}),
        Picture("# # # . .\n# # # # .", given={"reach": 2}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_bidirectional_sliding_window_mask (ModernBERT)",
            scores=model, sizes=SQUARE,
        ),
    ),
    sizes=Sizes(q_len=4096),
    small={"reach": 4},
)  # fmt: skip
