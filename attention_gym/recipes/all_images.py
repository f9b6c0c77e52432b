"""Causal text; all image tokens see each other both ways, whichever image they are of."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def all_images(visual: Tensor) -> MaskMod:
    """keep = q >= kv or (visual[b, q] and visual[b, kv])"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) | (visual[b, q_idx] & visual[b, kv_idx])

    return mask_mod


def frames(sizes: Sizes, every: int = 64, share: float = 0.6) -> dict[str, Tensor]:
    """Stretches of image tokens, ``share`` of each ``every`` tokens, later in each next entry."""
    position = torch.arange(max(sizes.q_len, sizes.kv_len))
    rows = [(position + 3 * b) % every < share * every for b in range(sizes.batch)]
    return {"visual": torch.stack(rows)}


def dense(score: Tensor, visual: Tensor) -> Tensor:
    """A triangle, and the outer product of the image tokens."""
    rows = visual[:, : score.shape[2]].float()
    columns = visual[:, : score.shape[3]].float()
    square = torch.einsum("bq,bk->bqk", rows, columns)[:, None]
    return masked(score, square + torch.ones_like(score).tril() > 0)


def model(score: Tensor, visual: Tensor) -> Tensor:
    """Molmo 2: image tokens form a single block over a causal mask."""
    from transformers import LlamaConfig
    from transformers.masking_utils import create_causal_mask

    types = visual[:, : score.shape[2]].long()
    options = {"block_sequence_ids": torch.where(types == 1, 0, -1)}
    return added(score, model_mask(create_causal_mask, LlamaConfig(), score, **options))


RECIPE = Recipe(
    family="multimodal",
    formula="keep = q >= kv or (visual[b, q] and visual[b, kv])",
    sources=(
        Source("Molmo 2, frames of a video", "transformers models/molmo2"),
        Source("HRM-text, a prefix given by token types", "transformers models/hrm_text"),
    ),
    mask=all_images,
    captures=frames,
    parameters={
        "every": "distance from one stretch of image tokens to the next [tokens]",
        "share": "part of it that is of images [1]",
    },
    captured={"visual": "[B, S] bool: True for tokens of images, S = max(Q_LEN, KV_LEN)"},
    equivalents=(
        "image_blocks with one number for all images: the same",
        "image tokens see images that come later, which image_blocks does not allow",
    ),
    pictures=(
        Picture(
            """
            # # . # .
            # # . # .
            # # # . .
            # # # # .
            # # # # #
            """,
            given={"visual": [[True, True, False, True, False]]},
        ),
        Picture(
            "# . #\n# # .\n# # #",
            given={"visual": [[False, False, False], [True, False, True]]},
            batch=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_causal_mask(block_sequence_ids) (Molmo 2)", scores=model,
            sizes=SQUARE,
        ),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=2048),
    small={"every": 20},
)  # fmt: skip
