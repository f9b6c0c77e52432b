"""Edges of a graph of residues attend around triangles: from a start node, or to an end node."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def triangle_attention(pair: Tensor, ending: bool = False) -> ScoreMod:
    """s' = s + pair[h, q, kv], or + pair[h, kv, q] around the ending node"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + (pair[h, kv_idx, q_idx] if ending else pair[h, q_idx, kv_idx])

    return score_mod


def pair_bias(sizes: Sizes, strength: float = 1.0) -> dict[str, Tensor]:
    """Square: edges between all residues, as many as the longer side."""
    length = max(sizes.q_len, sizes.kv_len)
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.heads, length, length)
    return {"pair": strength * torch.randn(shape, generator=generator)}


def dense(score: Tensor, pair: Tensor, ending: bool) -> Tensor:
    """The bias, turned round for the ending node, cut to size."""
    bias = pair.mT if ending else pair
    return score + bias[:, : score.shape[2], : score.shape[3]]


RECIPE = Recipe(
    family="science and tables",
    formula="s' = s + pair[h, q, kv] (starting node) or s + pair[h, kv, q] (ending node)",
    sources=(
        Source("AlphaFold 2 (4 heads)", "doi:10.1038/s41586-021-03819-2"),
        Source("AlphaFold 3", "doi:10.1038/s41586-024-07487-w"),
    ),
    score=triangle_attention,
    captures=pair_bias,
    parameters={
        "ending": "around the ending node; False for the starting node",
        "strength": "standard deviation of the bias [1]",
    },
    captured={"pair": "[Hq, N, N] float: bias of the third edge, N = max(Q_LEN, KV_LEN)"},
    learned=frozenset({"pair"}),
    equivalents=(
        "the batch is the first node of the edge: row i for starting, column i for ending",
        "ending on a transposed pair representation is starting: transpose input and output",
    ),
    pictures=(
        Picture(
            "1 2 3\n4 5 6\n7 8 9",
            given={"pair": [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]},
            batch=1,
        ),
        Picture(
            "1 4 7\n2 5 8\n3 6 9",
            given={
                "pair": [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]], "ending": True
            },
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"ending": True}),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=8, heads=4, q_len=256),
)  # fmt: skip
