"""A learned number per head and offset on the two axes of a window."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def swin_bias(table: Tensor, height: int = 7, width: int = 7) -> ScoreMod:
    """s' = s + table[(r_q - r_kv + height - 1) * (2 width - 1) + c_q - c_kv + width - 1, h]"""

    def score_mod(score, b, h, q_idx, kv_idx):
        rows = q_idx // width - kv_idx // width + height - 1
        columns = q_idx % width - kv_idx % width + width - 1
        return score + table[rows * (2 * width - 1) + columns, h]

    return score_mod


def learned_table(sizes: Sizes, height: int = 7, width: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = ((2 * height - 1) * (2 * width - 1), sizes.heads)
    return {"table": torch.randn(shape, generator=generator)}


def dense(score: Tensor, table: Tensor, height: int, width: int) -> Tensor:
    """The table as an image of offsets; each pixel takes the part that is centred on it."""
    image = table.view(2 * height - 1, 2 * width - 1, -1).flip(0, 1)
    rows = [
        image[height - 1 - r : 2 * height - 1 - r, width - 1 - c : 2 * width - 1 - c]
        for r in range(height)
        for c in range(width)
    ]
    bias = torch.stack([part.reshape(height * width, -1) for part in rows])
    return score + bias.permute(2, 0, 1)


def model(score: Tensor, table: Tensor, height: int, width: int) -> Tensor:
    """Swin's own module, with the table as its weight."""
    from transformers.models.swin.modeling_swin import SwinRelativePositionBias

    module = SwinRelativePositionBias(table.shape[1], (height, width))
    module.relative_position_bias_table.data = table
    return score + module()


RECIPE = Recipe(
    family="vision and video",
    formula="s' = s + table[(dr + height - 1) (2 width - 1) + dc + width - 1, h], dr = r_q - r_kv",
    sources=(
        Source("Swin Transformer (7 × 7)", "arXiv:2103.14030"),
        Source("LeViT, CoAtNet, the same table", "arXiv:2106.04803"),
    ),
    score=swin_bias,
    captures=learned_table,
    parameters={
        "height": "rows of the window [tokens]",
        "width": "columns of the window [tokens]",
    },
    captured={"table": "[(2 height - 1) (2 width - 1), Hq] float: bias of each offset"},
    learned=frozenset({"table"}),
    equivalents=(
        "Swin relative_position_index: the row of the table, in the same order",
        "relative_bias: the same on one axis",
    ),
    pictures=(
        # One row of three: offsets 2, 1, 0, -1, -2 from the table's end on.
        Picture(
            "30 20 10\n40 30 20\n50 40 30",
            given={"table": [[10.0], [20.0], [30.0], [40.0], [50.0]], "height": 1, "width": 3},
        ),
        # Two by two: nine offsets.
        Picture(
            """
            5 4 2 1
            6 5 3 2
            8 7 5 4
            9 8 6 5
            """,
            given={
                "table": [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0], [9.0]],
                "height": 2, "width": 2,
            },
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers SwinRelativePositionBias", scores=model),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=64, heads=4, q_len=49, head_dim=32),
    small={"height": 5, "width": 7},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=35),
    image=("height", "width"),
)  # fmt: skip
