"""A learned key and value stand before the others, always visible: somewhere to put attention."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def learned_kv_sink(sinks: int = 1) -> MaskMod:
    """keep = kv < sinks or q >= kv - sinks"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (kv_idx < sinks) | (q_idx >= kv_idx - sinks)

    return mask_mod


def dense(score: Tensor, sinks: int) -> Tensor:
    """A triangle behind columns of ones."""
    q_len, kv_len = score.shape[-2:]
    rest = torch.ones(q_len, kv_len - sinks, dtype=torch.bool).tril()
    return masked(score, torch.cat([torch.ones(q_len, sinks, dtype=torch.bool), rest], 1))


RECIPE = Recipe(
    family="normalisers and sinks",
    formula="keep = kv < sinks or q >= kv - sinks, keys 0 … sinks - 1 are learned",
    sources=(Source("Explicit attention biases, massive activations", "arXiv:2402.17762"),),
    mask=learned_kv_sink,
    parameters={"sinks": "learned keys and values before the text's [tokens]"},
    equivalents=(
        "torch MultiheadAttention add_bias_kv=True: one learned column, appended at the end",
        "the learned tensors are the first rows of key and value: they get their gradients there",
        "a learned logit without a value: head_sink, which is no mask",
    ),
    pictures=(
        Picture("# # . .\n# # # .\n# # # #", given={"sinks": 1}),
        Picture("# # # .\n# # # #", given={"sinks": 2}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048, kv_len=2049),
    small={"sinks": 2},
)
