"""A learned number per head and length of the shortest path between two nodes."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def graphormer_spatial(table: Tensor, distance: Tensor) -> ScoreMod:
    """s' = s + table[h, distance[b, q, kv]]"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + table[h, distance[b, q_idx, kv_idx]]

    return score_mod


def shortest_paths(adjacent: Tensor, farthest: int) -> Tensor:
    """Steps between all nodes of graphs [B, N, N]; ``farthest`` where there is no path so short."""
    count = adjacent.shape[-1]
    reached = torch.eye(count, dtype=torch.bool).expand_as(adjacent)
    distance = torch.full(adjacent.shape, farthest)
    for step in range(farthest):
        distance = torch.where(reached & (distance == farthest), step, distance)
        reached = reached | ((reached.float() @ adjacent.float()) > 0)
    return distance


def random_graphs(sizes: Sizes, farthest: int = 8, degree: float = 2.5) -> dict[str, Tensor]:
    """Random graphs of ``degree`` neighbours a node in the mean, others in every batch entry."""
    generator = torch.Generator().manual_seed(0)
    count = max(sizes.q_len, sizes.kv_len)
    edge = torch.rand(sizes.batch, count, count, generator=generator) < degree / count / 2
    table = torch.randn(sizes.heads, farthest + 1, generator=generator)
    return {"table": table, "distance": shortest_paths(edge | edge.mT, farthest)}


def dense(score: Tensor, table: Tensor, distance: Tensor) -> Tensor:
    """One-hot distances times the table."""
    part = distance[:, : score.shape[2], : score.shape[3]]
    hot = torch.nn.functional.one_hot(part, table.shape[1]).float()
    return score + torch.einsum("bqkd,hd->bhqk", hot, table)


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + table[h, distance[b, q, kv]]",
    sources=(Source("Graphormer, spatial encoding", "arXiv:2106.05234"),),
    score=graphormer_spatial,
    captures=random_graphs,
    parameters={
        "farthest": "path length from which on all pairs share one entry [steps]",
        "degree": "neighbours of a node in the mean [count]",
    },
    captured={
        "table": "[Hq, farthest + 1] float: bias of each path length (learned)",
        "distance": "[B, N, N] int64: steps between nodes, N = max(Q_LEN, KV_LEN)",
    },
    learned=frozenset({"table"}),
    equivalents=(
        "attention-gym generate_graphormer_spatial_bias(table, distances): the same",
        "Graphormer's virtual node is one more node with a number of its own",
    ),
    pictures=(
        # A path of three nodes.
        Picture(
            "# 1 2\n1 # 1\n2 1 #",
            given={"table": [[0.0, 1.0, 2.0]], "distance": [[[0, 1, 2], [1, 0, 1], [2, 1, 0]]]},
        ),
        Picture(
            "5 6\n6 5",
            given={
                "table": [[0.0, 0.0], [5.0, 6.0]],
                "distance": [[[0, 0], [0, 0]], [[0, 1], [1, 0]]],
            },
            batch=1, head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=8, q_len=128),
    small={"farthest": 5},
)  # fmt: skip
