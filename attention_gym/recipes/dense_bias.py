"""Any bias, as a full tensor over queries and keys."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def dense_bias(bias: Tensor) -> ScoreMod:
    """s' = s + bias[b, h, q, kv]"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + bias[b, h, q_idx, kv_idx]

    return score_mod


def random_bias(sizes: Sizes, strength: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.batch, sizes.heads, sizes.q_len, sizes.kv_len)
    return {"bias": strength * torch.randn(shape, generator=generator)}


def dense(score: Tensor, bias: Tensor) -> Tensor:
    """One addition."""
    return score + bias


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + bias[b, h, q, kv]",
    sources=(
        Source("attn_mask of torch scaled_dot_product_attention", "torch.nn.functional"),
        Source("Most models before fused kernels", "transformers position_bias"),
    ),
    score=dense_bias,
    captures=random_bias,
    parameters={"strength": "standard deviation of the bias [1]"},
    captured={"bias": "[B, Hq, Q_LEN, KV_LEN] float: added to the scaled score (learned)"},
    learned=frozenset({"bias"}),
    equivalents=(
        "torch attn_mask of floats: the same",
        "it takes O(B H Q KV) memory by itself: a formula or a smaller table is better",
    ),
    pictures=(
        Picture("1 2 3\n4 5 6", given={"bias": [[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]}),
        Picture(
            "8 9",
            given={"bias": [[[[0.0, 0.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[7.0, 8.0]]]]},
            batch=1, head=1, raw=1.0,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=1024),
)  # fmt: skip
