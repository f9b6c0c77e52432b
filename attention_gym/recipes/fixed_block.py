"""Blocks of fixed length, each by itself."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def fixed_block(block: int = 256) -> MaskMod:
    """keep = q // block == kv // block"""

    def mask_mod(b, h, q_idx, kv_idx):
        return q_idx // block == kv_idx // block

    return mask_mod


def dense(score: Tensor, block: int) -> Tensor:
    """Squares of ones along the diagonal, cut to size."""
    q_len, kv_len = score.shape[-2:]
    count = -(-max(q_len, kv_len) // block)
    squares = torch.block_diag(*[torch.ones(block, block)] * count).bool()
    return masked(score, squares[:q_len, :kv_len])


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = q // block == kv // block",
    sources=(
        Source("torchtitan fixed blocks", "torchtitan get_fixed_block_mask_mod"),
        Source("Block-wise encoders", "BlockBERT, arXiv:1911.02972"),
    ),
    mask=fixed_block,
    parameters={"block": "tokens of a block [tokens]"},
    equivalents=(
        "attention-gym batchify_mask_mod(mask_mod, n): the same with a mask inside each block",
        "reshaping a batch of S tokens to S / block sequences: the same result",
    ),
    pictures=(
        Picture("# # . . .\n# # . . .\n. . # # .\n. . # # .\n. . . . #", given={"block": 2}),
        Picture("# # # . .\n# # # . .", given={"block": 3}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=4096),
    small={"block": 7},
)
