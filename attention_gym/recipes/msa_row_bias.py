"""Rows of an alignment attend along residues, with one learned pair bias for all rows."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def msa_row_bias(pair: Tensor) -> ScoreMod:
    """s' = s + pair[h, q, kv], with the rows of the alignment as batch"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + pair[h, q_idx, kv_idx]

    return score_mod


def pair_bias(sizes: Sizes, strength: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.heads, sizes.q_len, sizes.kv_len)
    return {"pair": strength * torch.randn(shape, generator=generator)}


def dense(score: Tensor, pair: Tensor) -> Tensor:
    """One addition, the batch broadcast."""
    return score + pair[None]


RECIPE = Recipe(
    family="science and tables",
    formula="s' = s + pair[h, q, kv], one bias for every row b of the alignment",
    sources=(
        Source("AlphaFold 2 Evoformer (8 heads)", "doi:10.1038/s41586-021-03819-2"),
        Source("MSA Transformer, rows", "doi:10.1101/2021.02.12.430858"),
    ),
    score=msa_row_bias,
    captures=pair_bias,
    parameters={"strength": "standard deviation of the bias [1]"},
    captured={"pair": "[Hq, Q_LEN, KV_LEN] float: projected from the pair representation"},
    learned=frozenset({"pair"}),
    equivalents=(
        "OpenFold, DS4Sci EvoformerAttention bias2 [1, H, N, N]: the same",
        "its gradient is summed over all rows of the alignment",
    ),
    pictures=(
        Picture("1 2\n3 4", given={"pair": [[[1.0, 2.0], [3.0, 4.0]]]}, batch=2),
        Picture(
            "5 6 7\n# -1 -2",
            given={
                "pair": [
                    [[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]], [[5.0, 6.0, 7.0], [0.0, -1.0, -2.0]]
                ]
            },
            head=1, raw=0.0,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=8, q_len=256),
)  # fmt: skip
