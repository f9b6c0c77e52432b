"""Image patches see each other both ways; the queries after them read causally."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def causal_flow(patches: int = 256) -> MaskMod:
    """keep = kv < patches and q < patches, or q >= kv"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) | ((kv_idx < patches) & (q_idx < patches))

    return mask_mod


def dense(score: Tensor, patches: int) -> Tensor:
    """A triangle with its first square filled."""
    keep = torch.ones_like(score, dtype=torch.bool).tril()
    keep[..., :patches, :patches] = True
    return masked(score, keep)


def model(score: Tensor, patches: int) -> Tensor:
    """DeepSeek-OCR 2's visual encoder: the patches form one block over a causal mask."""
    from transformers import Qwen2Config
    from transformers.masking_utils import create_causal_mask

    block = torch.full((score.shape[0], score.shape[2]), -1)
    block[:, :patches] = 0
    options = {"block_sequence_ids": block}
    return added(score, model_mask(create_causal_mask, Qwen2Config(), score, **options))


RECIPE = Recipe(
    family="multimodal",
    formula="keep = q >= kv or (q < patches and kv < patches)",
    sources=(Source("DeepSeek-OCR 2", "transformers models/deepseek_ocr2"),),
    mask=causal_flow,
    parameters={"patches": "image patches before the causal queries [tokens]"},
    equivalents=("prefix_lm: the same, since a query after the prefix sees all of it anyway",),
    pictures=(
        Picture("# # . .\n# # . .\n# # # .\n# # # #", given={"patches": 2}),
        Picture("# . .\n# # .", given={"patches": 1}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_causal_mask(block_sequence_ids) (DeepSeek-OCR 2)",
            scores=model, sizes=SQUARE,
        ),
    ),
    sizes=Sizes(q_len=512),
    small={"patches": 30},
)  # fmt: skip
