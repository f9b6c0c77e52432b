"""The mean of learned numbers along the shortest path, by kind of edge and place on the path."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def graphormer_edge(table: Tensor, kinds: Tensor, length: Tensor) -> ScoreMod:
    """s' = s + mean over i < length[b, q, kv] of table[h, i, kinds[b, q, kv, i]]"""
    longest = table.shape[1]

    def score_mod(score, b, h, q_idx, kv_idx):
        steps = length[b, q_idx, kv_idx]
        total = 0.0 * score
        for i in range(longest):
            value = table[h, i, kinds[b, q_idx, kv_idx, i]]
            total = total + torch.where(i < steps, value, 0.0)
        return score + total / steps.clamp(min=1)

    return score_mod


def random_paths(sizes: Sizes, longest: int = 4, edges: int = 5) -> dict[str, Tensor]:
    """Random lengths up to ``longest`` and random kinds of edges on the way."""
    generator = torch.Generator().manual_seed(0)
    count = max(sizes.q_len, sizes.kv_len)
    shape = (sizes.batch, count, count)
    return {
        "table": torch.randn(sizes.heads, longest, edges, generator=generator),
        "kinds": torch.randint(edges, (*shape, longest), generator=generator),
        "length": torch.randint(longest + 1, shape, generator=generator),
    }


def dense(score: Tensor, table: Tensor, kinds: Tensor, length: Tensor) -> Tensor:
    """All places gathered at once, then a masked mean."""
    q_len, kv_len = score.shape[-2:]
    kinds, length = kinds[:, :q_len, :kv_len], length[:, :q_len, :kv_len]
    values = torch.stack([table[:, i][:, kinds[..., i]] for i in range(table.shape[1])], -1)
    there = torch.arange(table.shape[1]) < length[..., None]
    mean = (values * there).sum(-1) / length.clamp(min=1)
    return score + mean.transpose(0, 1)


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + mean over i < n of table[h, i, kinds[b, q, kv, i]], n = length[b, q, kv]",
    sources=(Source("Graphormer, edge encoding", "arXiv:2106.05234"),),
    score=graphormer_edge,
    captures=random_paths,
    parameters={
        "longest": "edges of a path that are read [steps]",
        "edges": "kinds of edges [count]",
    },
    captured={
        "table": "[Hq, longest, edges] float: number of each kind at each place (learned)",
        "kinds": "[B, N, N, longest] int64: kinds along the path, N = max(Q_LEN, KV_LEN)",
        "length": "[B, N, N] int64: edges of the path, 0 for a node and itself",
    },
    learned=frozenset({"table"}),
    equivalents=(
        "attention-gym generate_graphormer_edge_bias: the same; it needs a slice of the table per "
        "place, for torch's kernels take one gather of a learned tensor",
        "the paper multiplies edge features by a vector per place; summed, that is this number",
    ),
    pictures=(
        Picture(
            "# 10 15\n10 # 20",
            given={
                "table": [[[10.0, 20.0], [10.0, 20.0]]],
                "kinds": [[[[0, 0], [0, 1], [0, 1]], [[0, 1], [1, 1], [1, 1]]]],
                "length": [[[0, 1, 2], [1, 0, 2]]],
            },
        ),
        Picture(
            "# 4",
            given={
                "table": [[[0.0]], [[1.0]]],
                "kinds": [[[[0], [0]]]],
                "length": [[[0, 1]]],
            },
            head=1, raw=3.0,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=4, q_len=128),
    small={"longest": 3},
)  # fmt: skip
