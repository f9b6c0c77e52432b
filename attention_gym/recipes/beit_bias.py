"""A learned number per head and offset of patches, with three more for the class token."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def beit_bias(table: Tensor, index: Tensor) -> ScoreMod:
    """s' = s + table[index[q, kv], h]"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + table[index[q_idx, kv_idx], h]

    return score_mod


def offsets(height: int, width: int) -> Tensor:
    """Row of the table for each pair; the class token comes first: to it, from it, both."""
    token = torch.arange(height * width)
    row = (token // width)[:, None] - token // width + height - 1
    column = (token % width)[:, None] - token % width + width - 1
    count = (2 * height - 1) * (2 * width - 1)
    index = torch.empty(1 + height * width, 1 + height * width, dtype=torch.int64)
    index[1:, 1:] = row * (2 * width - 1) + column
    index[0, :] = count
    index[:, 0] = count + 1
    index[0, 0] = count + 2
    return index


def learned_table(sizes: Sizes, height: int = 14, width: int = 14) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = ((2 * height - 1) * (2 * width - 1) + 3, sizes.heads)
    return {"table": torch.randn(shape, generator=generator), "index": offsets(height, width)}


def dense(score: Tensor, table: Tensor, height: int, width: int) -> Tensor:
    """Cell by cell."""
    bias = torch.empty(score.shape[1], *score.shape[-2:])
    for q in range(score.shape[2]):
        for kv in range(score.shape[3]):
            if q and kv:
                (r, c), (s, d) = divmod(q - 1, width), divmod(kv - 1, width)
                bias[:, q, kv] = table[(r - s + height - 1) * (2 * width - 1) + c - d + width - 1]
            else:
                bias[:, q, kv] = table[{(0, 0): -1, (0, 1): -3}.get((q, min(kv, 1)), -2)]
    return score + bias


def model(score: Tensor, table: Tensor, height: int, width: int) -> Tensor:
    """BEiT's own module, with the table as its weight."""
    from transformers import BeitConfig
    from transformers.models.beit.modeling_beit import BeitRelativePositionBias

    config = BeitConfig(
        image_size=[height, width], patch_size=1, num_attention_heads=table.shape[1]
    )
    module = BeitRelativePositionBias(config)
    module.relative_position_bias_table.data = table
    return score + module((height, width))


RECIPE = Recipe(
    family="vision and video",
    formula="s' = s + table[index[q, kv], h]",
    sources=(
        Source("BEiT (14 × 14)", "arXiv:2106.08254"),
        Source("data2vec vision, EVA", "arXiv:2202.03555"),
    ),
    score=beit_bias,
    captures=learned_table,
    parameters={
        "height": "rows of patches [tokens]",
        "width": "columns of patches [tokens]",
    },
    captured={
        "table": "[(2 height - 1) (2 width - 1) + 3, Hq] float: bias of each offset",
        "index": "[1 + height * width, 1 + height * width] int64: row of the table for each pair",
    },
    learned=frozenset({"table"}),
    equivalents=(
        "BEiT relative_position_index: the same",
        "swin_bias: the same without a class token, its index computed in the kernel",
    ),
    pictures=(
        # A class token and two patches in a row: offsets -1, 0, 1, then class to patch, patch to
        # class, class to class.
        Picture(
            "6 4 4\n5 2 1\n5 3 2",
            given={
                "table": [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]],
                "index": [[5, 3, 3], [4, 1, 0], [4, 2, 1]],
            },
        ),
        Picture(
            "-1 1\n1 -1",
            given={"table": [[0.0, -1.0], [0.0, 1.0]], "index": [[0, 1], [1, 0]]},
            head=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        # The model's module takes height for width and back where it resizes: square ones alone.
        Reference(
            source="transformers BeitRelativePositionBias", scores=model,
            given={"height": 6, "width": 6},
        ),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=4, q_len=197),
    small={"height": 4, "width": 9},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=37),
)  # fmt: skip
