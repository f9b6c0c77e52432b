"""Keys of earlier segments stand before the queries' own: causal, moved by the memory's length."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def recurrent_memory(memory: int = 512, window: int = 1024) -> MaskMod:
    """keep = 0 <= q + memory - kv < window"""

    def mask_mod(b, h, q_idx, kv_idx):
        back = q_idx + memory - kv_idx
        return (back >= 0) & (back < window)

    return mask_mod


def dense(score: Tensor, memory: int, window: int) -> Tensor:
    """Row by row, from the window's first key to the query's own."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for q in range(score.shape[2]):
        keep[q, max(0, q + memory - window + 1) : q + memory + 1] = True
    return masked(score, keep)


def model(score: Tensor, memory: int, window: int) -> Tensor:
    """XLNet makes such a mask: causal over memory and segment; the window is laid on here."""
    from transformers import XLNetConfig, XLNetModel

    q_len, kv_len = score.shape[-2:]
    net = XLNetModel(XLNetConfig(vocab_size=8, d_model=8, n_layer=1, n_head=1, d_inner=8))
    drop = net.create_mask(q_len, kv_len - q_len)
    near = (torch.arange(q_len)[:, None] + memory - torch.arange(kv_len)) < window
    return masked(score, (drop == 0) & near)


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = 0 <= q + memory - kv < window",
    sources=(
        Source("Transformer-XL, masks of its memory", "arXiv:1901.02860"),
        Source("XLNet", "arXiv:1906.08237"),
    ),
    mask=recurrent_memory,
    parameters={
        "memory": "keys of earlier segments before the first query's own [tokens]",
        "window": "keys visible to one query, itself included [tokens]",
    },
    equivalents=(
        "Transformer-XL same_length=True: window = memory + 1; False: no window",
        "causal_offset with offset = memory: the same without a window",
    ),
    pictures=(
        Picture(
            """
            # # # . .
            # # # # .
            # # # # #
            """,
            given={"memory": 2, "window": 9},
        ),
        Picture(
            """
            # # . . .
            . # # . .
            . . # # .
            """,
            given={"memory": 1, "window": 2},
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers XLNetModel.create_mask", scores=model,
            sizes=Sizes(batch=1, heads=2, q_len=41, kv_len=58), given={"memory": 17},
        ),
    ),
    sizes=Sizes(q_len=1024, kv_len=1536),
    small={"memory": 18, "window": 30},
)  # fmt: skip
