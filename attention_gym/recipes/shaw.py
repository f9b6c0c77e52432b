"""Relative positions as keys: each query times an embedding of the clipped distance."""

from types import SimpleNamespace

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def shaw(relative: Tensor) -> ScoreMod:
    """s' = s + relative[b, h, q, clip(kv - q, -reach, reach) + reach]"""
    reach = relative.shape[3] // 2

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + relative[b, h, q_idx, (kv_idx - q_idx).clamp(-reach, reach) + reach]

    return score_mod


def content(sizes: Sizes, reach: int) -> tuple[Tensor, Tensor]:
    """Queries and the table of embeddings, random."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(sizes.batch, sizes.heads, sizes.q_len, 8, generator=generator)
    return query, torch.randn(2 * reach + 1, 8, generator=generator)


def from_queries(sizes: Sizes, reach: int = 16) -> dict[str, Tensor]:
    """Products of all queries with all embeddings, scaled as scores are."""
    query, table = content(sizes, reach)
    return {"relative": query @ table.mT / 8**0.5}


def dense(score: Tensor, relative: Tensor) -> Tensor:
    """Row by row, a stretch of the products with its ends repeated."""
    reach, (q_len, kv_len) = relative.shape[3] // 2, score.shape[-2:]
    first, last = relative[..., :1], relative[..., -1:]
    wide = torch.cat([first] * q_len + [relative] + [last] * kv_len, -1)
    rows = [wide[:, :, q, reach + q_len - q :][..., :kv_len] for q in range(q_len)]
    return score + torch.stack(rows, 2)


def model(score: Tensor, reach: int) -> Tensor:
    """Wav2Vec2-BERT's own function on the same queries and embeddings."""
    from transformers.models.wav2vec2_bert import modeling_wav2vec2_bert as wav2vec2

    sizes = Sizes(batch=score.shape[0], heads=score.shape[1], q_len=score.shape[2])
    query, table = content(sizes, reach)
    module = SimpleNamespace(
        left_max_position_embeddings=reach, right_max_position_embeddings=reach,
        distance_embedding=torch.nn.Embedding.from_pretrained(table), scaling=8**-0.5,
    )  # fmt: skip
    key = score[:, :, 0, :, None]  # for its length
    return score + wav2vec2._apply_relative_key_position_encoding(module, query, key)[1]


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + R[b, h, q, clip(kv - q, -reach, reach) + reach], R = q E / sqrt(D)",
    sources=(
        Source("Shaw et al., keys", "arXiv:1803.02155"),
        Source("Wav2Vec2-BERT, relative_key", "transformers models/wav2vec2_bert"),
    ),
    score=shaw,
    captures=from_queries,
    parameters={"reach": "distance from which on all tokens share one embedding [tokens]"},
    captured={
        "relative": "[B, Hq, Q_LEN, 2 * reach + 1] float: query times embedding of each distance"
    },
    learned=frozenset({"relative"}),
    equivalents=(
        "relative_bias: one number per head in place of a product with the query",
        "the paper's second table, added to values, needs weights and is not a score_mod",
    ),
    pictures=(
        # reach 1: before, here, after.
        Picture(
            "2 3 3\n4 5 6\n7 7 8",
            given={"relative": [[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]]},
        ),
        Picture(
            "# 5\n-5 #",
            given={
                "relative": [
                    [[[9.0, 9.0, 9.0]] * 2, [[9.0, 9.0, 9.0]] * 2],
                    [[[9.0, 9.0, 9.0]] * 2, [[-5.0, 0.0, 5.0]] * 2],
                ]
            },
            batch=1, head=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers _apply_relative_key_position_encoding (Wav2Vec2-BERT)",
            scores=model,
        ),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=512),
    small={"reach": 5},
)  # fmt: skip
