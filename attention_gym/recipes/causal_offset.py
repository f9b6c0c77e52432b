"""Causal attention of the newest queries over a longer cache, with an offset per sequence."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def causal_offset(offset: Tensor) -> MaskMod:
    """keep = q + offset[b] >= kv"""

    def mask_mod(b, h, q_idx, kv_idx):
        return q_idx + offset[b] >= kv_idx

    return mask_mod


def cached(sizes: Sizes, uneven: int = 3) -> dict[str, Tensor]:
    """The first sequence ends with the last key, each other ``uneven`` keys earlier."""
    newest = sizes.kv_len - sizes.q_len - uneven * torch.arange(sizes.batch)
    return {"offset": newest.clamp(min=0)}


def dense(score: Tensor, offset: Tensor) -> Tensor:
    """A triangle, moved to the right by the offset, for each sequence."""
    ones = torch.ones(score.shape[-2:], dtype=torch.bool)
    return masked(score, torch.stack([ones.tril(int(o)) for o in offset])[:, None])


def model(score: Tensor, offset: Tensor) -> Tensor:
    """transformers' causal function with its own offsets, one sequence at a time."""
    from transformers.masking_utils import add_offsets_to_mask_function, causal_mask_function

    q, kv = torch.arange(score.shape[2])[:, None], torch.arange(score.shape[3])
    rows = [
        add_offsets_to_mask_function(causal_mask_function, int(o), 0)(0, 0, q, kv) for o in offset
    ]
    return masked(score, torch.stack(rows)[:, None])


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q + offset[b] >= kv",
    sources=(
        Source("Decoding with a cache, chunked prefill", "torchtune kv_offset_mask_flex"),
        Source("Every cached decoder", "transformers masking_utils.add_offsets_to_mask_function"),
    ),
    mask=causal_offset,
    captures=cached,
    parameters={"uneven": "keys by which each sequence is shorter than the one before [tokens]"},
    captured={"offset": "[B] int64: keys in the cache before the first query"},
    equivalents=(
        "flash-attn causal=True from 2.1 on: offset = KV_LEN - Q_LEN, the bottom right corner",
        "torch CausalBias lower_right: the same offset",
        "torch is_causal=True: offset 0, the top left corner",
    ),
    pictures=(
        Picture("# # # . .\n# # # # .\n# # # # #", given={"offset": [2]}),
        Picture("# . . .\n# # . .", given={"offset": [3, 0]}, batch=1),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers add_offsets_to_mask_function", scores=model),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=512, kv_len=4096),
)
