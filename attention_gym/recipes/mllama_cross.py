"""Text sees the tiles of images between two places of its text; unused tiles are seen by none."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked


def mllama_cross(first: Tensor, last: Tensor, used: Tensor, tokens: int = 1601) -> MaskMod:
    """keep = first[b, t] <= q < last[b, t] and used[b, t], t = kv // tokens"""
    end = first.shape[1] - 1

    def mask_mod(b, h, q_idx, kv_idx):
        tile = (kv_idx // tokens).clamp(max=end)
        seen = (first[b, tile] <= q_idx) & (q_idx < last[b, tile])
        return seen & used[b, tile]

    return mask_mod


def tiled(sizes: Sizes, tokens: int = 1601, tiles: int = 4) -> dict[str, Tensor]:
    """Images of ``tiles`` tiles, of which each next batch entry uses one less."""
    count = -(-sizes.kv_len // tokens)
    image, tile = torch.arange(count) // tiles, torch.arange(count) % tiles
    images = int(image.max()) + 1
    first = image * sizes.q_len // images
    last = (image + 1) * sizes.q_len // images
    used = torch.stack([tile < max(1, tiles - b) for b in range(sizes.batch)])
    return {
        "first": first.expand(sizes.batch, -1).contiguous(),
        "last": last.expand(sizes.batch, -1).contiguous(),
        "used": used,
    }


def dense(score: Tensor, first: Tensor, last: Tensor, used: Tensor, tokens: int) -> Tensor:
    """One rectangle a tile."""
    keep = torch.zeros_like(score, dtype=torch.bool)
    for b, tile in used.nonzero().tolist():
        rows = slice(int(first[b, tile]), int(last[b, tile]))
        keep[b, :, rows, tile * tokens : (tile + 1) * tokens] = True
    return masked(score, keep)


def model(score: Tensor, first: Tensor, last: Tensor, used: Tensor, tokens: int) -> Tensor:
    """Mllama's own blow-up of a mask per image and tile; it opens empty rows, which are closed."""
    from transformers.models.mllama.modeling_mllama import _prepare_cross_attention_mask

    text = torch.arange(score.shape[2])[None, :, None]
    seen = (first[:, None] <= text) & (text < last[:, None]) & used[:, None]
    made, whole = _prepare_cross_attention_mask(seen[:, :, None].float(), tokens, torch.float32)
    made = torch.where(whole == 0, torch.finfo(torch.float32).min, made)
    return added(score, made[..., : score.shape[3]])


RECIPE = Recipe(
    family="multimodal",
    formula="keep = first[b, t] <= q < last[b, t] and used[b, t], t = kv // tokens",
    sources=(Source("Llama 3.2 Vision (4 tiles of 1601 tokens)", "transformers models/mllama"),),
    mask=mllama_cross,
    captures=tiled,
    parameters={
        "tokens": "tokens of a tile [tokens]",
        "tiles": "tiles of an image, used or not [count]",
    },
    captured={
        "first": "[B, tiles of all images] int64: first text token that sees the tile",
        "last": "[B, tiles of all images] int64: one past the last that does",
        "used": "[B, tiles of all images] bool: False for tiles that are padding",
    },
    equivalents=(
        "flamingo: one tile an image, all used",
        "transformers lets rows that see nothing see everything, and zeroes their output later; "
        "here they give 0 at once",
    ),
    pictures=(
        Picture(
            """
            # # . . . .
            # # . . . .
            . . . . # #
            """,
            given={
                "first": [[0, 0, 2]], "last": [[2, 2, 3]], "used": [[True, False, True]],
                "tokens": 2,
            },
        ),
        Picture(
            "# # .\n# # #",
            given={
                "first": [[5, 5, 5], [0, 0, 1]], "last": [[9, 9, 9], [2, 2, 2]],
                "used": [[True, True, True], [True, True, True]], "tokens": 1,
            },
            batch=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers _prepare_cross_attention_mask (Mllama)", scores=model),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(q_len=512, kv_len=6404),
    small={"tokens": 7},
)  # fmt: skip
