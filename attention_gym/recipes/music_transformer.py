"""Each query times an embedding of every distance, read by gather in place of the skewing trick."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def music_transformer(relative: Tensor) -> ScoreMod:
    """s' = s + relative[b, h, q, q - kv + length - 1]"""
    length = relative.shape[3] // 2 + 1

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + relative[b, h, q_idx, q_idx - kv_idx + length - 1]

    return score_mod


def from_queries(sizes: Sizes, strength: float = 1.0) -> dict[str, Tensor]:
    """Random products, as many distances as the longer side allows."""
    generator = torch.Generator().manual_seed(0)
    length = max(sizes.q_len, sizes.kv_len)
    shape = (sizes.batch, sizes.heads, sizes.q_len, 2 * length - 1)
    return {"relative": strength * torch.randn(shape, generator=generator)}


def dense(score: Tensor, relative: Tensor) -> Tensor:
    """Row by row, a stretch of the products read backwards."""
    length, kv_len = relative.shape[3] // 2 + 1, score.shape[3]
    rows = []
    for q in range(score.shape[2]):
        stretch = relative[:, :, q, q + length - kv_len : q + length]
        rows.append(stretch.flip(-1))
    return score + torch.stack(rows, 2)


def model(score: Tensor, relative: Tensor) -> Tensor:
    """The shift of Parakeet's conformer, whose columns run from the farthest past on."""
    from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderAttention

    shifted = ParakeetEncoderAttention._rel_shift(None, relative.flip(-1))
    return score + shifted[..., : score.shape[3]]


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + R[b, h, q, q - kv + L - 1], R = q E",
    sources=(
        Source("Music Transformer", "arXiv:1809.04281"),
        Source("Transformer-XL, Conformer: the term of position", "arXiv:1901.02860"),
    ),
    score=music_transformer,
    captures=from_queries,
    parameters={"strength": "standard deviation of the products [1]"},
    captured={
        "relative": "[B, Hq, Q_LEN, 2 L - 1] float: product with each distance, L the longer side"
    },
    learned=frozenset({"relative"}),
    equivalents=(
        "the skew and rel_shift tricks: the same numbers, moved through memory by padding",
        "columns here run from the farthest future on; Transformer-XL has them reversed",
    ),
    pictures=(
        Picture(
            "3 2 1\n14 13 12\n25 24 23",
            given={
                "relative": [
                    [
                        [
                            [1.0, 2.0, 3.0, 4.0, 5.0],
                            [11.0, 12.0, 13.0, 14.0, 15.0],
                            [21.0, 22.0, 23.0, 24.0, 25.0],
                        ]
                    ]
                ]
            },
        ),
        Picture("7 6", given={"relative": [[[[6.0, 7.0, 8.0]]]]}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers ParakeetEncoderAttention._rel_shift", scores=model,
            sizes=Sizes(batch=2, heads=4, kv_heads=2, q_len=47),
        ),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=512),
)  # fmt: skip
