"""Decoding block by block: the newest block sees all before it and itself both ways."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def block_diffusion_decode(prompt: int = 1024, block: int = 32) -> MaskMod:
    """keep = kv // block <= (q + prompt) // block"""

    def mask_mod(b, h, q_idx, kv_idx):
        return kv_idx // block <= (q_idx + prompt) // block

    return mask_mod


def dense(score: Tensor, prompt: int, block: int) -> Tensor:
    """Each row ends with the block its token stands in."""
    rows = [(q + prompt) // block * block + block for q in range(score.shape[2])]
    return masked(score, torch.arange(score.shape[3]) < torch.tensor(rows)[:, None])


def model(score: Tensor, prompt: int, block: int) -> Tensor:
    """transformers' causal mask with one group a block, the rows after the prompt."""
    from transformers import Qwen3Config
    from transformers.masking_utils import create_causal_mask

    whole = score.new_zeros(score.shape[0], 1, prompt + score.shape[2], prompt + score.shape[2])
    group = (torch.arange(whole.shape[2]) // block).expand(score.shape[0], -1)
    made = model_mask(create_causal_mask, Qwen3Config(), whole, block_sequence_ids=group)
    return added(score, made[:, :, prompt:, : score.shape[3]])


RECIPE = Recipe(
    family="generation structure",
    formula="keep = kv // block <= (q + prompt) // block",
    sources=(
        Source("SDAR, block diffusion decoding", "arXiv:2510.06303"),
        Source("Fast-dLLM v2", "arXiv:2509.26328"),
    ),
    mask=block_diffusion_decode,
    parameters={
        "prompt": "tokens in the cache before the first query [tokens]",
        "block": "tokens of a block, counted from the start of the text [tokens]",
    },
    equivalents=(
        "block_causal with the queries moved by the prompt's length",
        "one block at a time over a cache: every query sees every key, no mask is needed",
    ),
    pictures=(
        Picture("# # # # . .\n# # # # # #\n# # # # # #", given={"prompt": 3, "block": 2}),
        Picture("# # . .\n# # . .\n# # # #", given={"prompt": 0, "block": 2}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_causal_mask(block_sequence_ids)", scores=model,
            sizes=Sizes(batch=2, heads=4, kv_heads=2, q_len=31, kv_len=51),
        ),
    ),
    sizes=Sizes(q_len=256, kv_len=1280),
    small={"prompt": 20, "block": 6},
)  # fmt: skip
