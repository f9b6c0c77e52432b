"""Tokens see those in their own hash bucket, causally; a token's own score is lowered."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, ScoreMod, Sizes, Source


def reformer_lsh(bucket: Tensor) -> MaskMod:
    """keep = bucket[b, h, q] == bucket[b, h, kv] and q >= kv"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (bucket[b, h, q_idx] == bucket[b, h, kv_idx]) & (q_idx >= kv_idx)

    return mask_mod


def not_itself(penalty: float = 1e5) -> ScoreMod:
    """s' = s - penalty where q == kv"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return torch.where(q_idx == kv_idx, score - penalty, score)

    return score_mod


def hashed(sizes: Sizes, buckets: int = 8) -> dict[str, Tensor]:
    """Nearest of ``buckets`` random directions, of random vectors, by head."""
    generator = torch.Generator().manual_seed(0)
    length = max(sizes.q_len, sizes.kv_len)
    vectors = torch.randn(sizes.batch, sizes.heads, length, 16, generator=generator)
    directions = torch.randn(16, buckets // 2, generator=generator)
    turned = vectors @ directions
    return {"bucket": torch.cat([turned, -turned], -1).argmax(-1)}


def dense(score: Tensor, bucket: Tensor, penalty: float) -> Tensor:
    """Bucket by bucket, a triangle over its tokens."""
    out = torch.full_like(score, -torch.inf)
    for b in range(score.shape[0]):
        for h in range(score.shape[1]):
            for number in bucket[b, h].unique():
                tokens = (bucket[b, h] == number).nonzero().flatten()
                for q in tokens[tokens < score.shape[2]].tolist():
                    for kv in tokens[(tokens <= q) & (tokens < score.shape[3])].tolist():
                        out[b, h, q, kv] = score[b, h, q, kv] - (penalty if q == kv else 0)
    return out


RECIPE = Recipe(
    family="data-dependent sparsity",
    formula="keep = bucket[b, h, q] == bucket[b, h, kv] and q >= kv; s' = s - penalty if q == kv",
    sources=(
        Source("Reformer (penalty 1e5)", "arXiv:2001.04451"),
        Source("Routing Transformer, clusters in place of hashes", "arXiv:2003.05997"),
    ),
    mask=reformer_lsh,
    score=not_itself,
    captures=hashed,
    parameters={
        "penalty": "what the token's own score is lowered by [1]",
        "buckets": "hash buckets, an even number [count]",
    },
    captured={"bucket": "[B, Hq, S] int64: bucket of each token, S = max(Q_LEN, KV_LEN)"},
    equivalents=(
        "Reformer sorts by bucket, so that blocks near the diagonal hold all; unsorted, the mask "
        "is the same and more blocks are visited",
        "a token alone in its bucket sees itself in spite of the penalty",
        "queries and keys are the same vectors there, keys normalised",
    ),
    pictures=(
        Picture("-9 . .\n. -9 .\n# . -9", given={"bucket": [[[0, 1, 0]]], "penalty": 9.0}),
        Picture(
            "-1 .\n# -1",
            given={"bucket": [[[0, 1], [3, 3]]], "penalty": 1.0},
            head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"bh"}),
    sizes=Sizes(q_len=2048),
    small={"penalty": 3.0},
)
