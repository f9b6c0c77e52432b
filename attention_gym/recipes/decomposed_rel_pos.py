"""A bias of two parts, one along rows and one along columns, each from the query."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def decomposed_rel_pos(along_rows: Tensor, along_columns: Tensor, width: int = 14) -> ScoreMod:
    """s' = s + along_rows[b, h, q, kv // width] + along_columns[b, h, q, kv % width]"""

    def score_mod(score, b, h, q_idx, kv_idx):
        rows = along_rows[b, h, q_idx, kv_idx // width]
        return score + rows + along_columns[b, h, q_idx, kv_idx % width]

    return score_mod


def content(sizes: Sizes, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and both tables of relative embeddings, random."""
    generator = torch.Generator().manual_seed(0)
    dim = 8
    shape = (sizes.batch, sizes.heads, height * width, dim)
    query = torch.randn(shape, generator=generator)
    rows = torch.randn(2 * height - 1, dim, generator=generator)
    columns = torch.randn(2 * width - 1, dim, generator=generator)
    return query, rows, columns


def from_queries(sizes: Sizes, height: int = 14, width: int = 14) -> dict[str, Tensor]:
    """Products of each query with the embeddings of the rows and columns it is away from."""
    query, rows, columns = content(sizes, height, width)
    token = torch.arange(height * width)
    row, column = token // width, token % width
    to_row = rows[row[:, None] - torch.arange(height) + height - 1]
    to_column = columns[column[:, None] - torch.arange(width) + width - 1]
    return {
        "along_rows": torch.einsum("bhqd,qkd->bhqk", query, to_row),
        "along_columns": torch.einsum("bhqd,qkd->bhqk", query, to_column),
    }


def dense(score: Tensor, along_rows: Tensor, along_columns: Tensor) -> Tensor:
    """Both parts spread over the image of keys."""
    height, width = along_rows.shape[-1], along_columns.shape[-1]
    spread = along_rows[..., :, None] + along_columns[..., None, :]
    return score + spread.reshape(*score.shape[:-1], height * width)


def model(score: Tensor, height: int, width: int) -> Tensor:
    """SAM's own code on the same queries and tables, head by head."""
    from transformers import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionAttention

    config = SamVisionConfig(hidden_size=8, num_attention_heads=1, image_size=16, patch_size=16)
    attention = SamVisionAttention(config, window_size=0)
    sizes = Sizes(batch=score.shape[0], heads=score.shape[1])
    query, rows, columns = content(sizes, height, width)
    image = (height, width)
    bias = attention.get_decomposed_rel_pos(query.flatten(0, 1), rows, columns, image, image)
    return score + bias.reshape(score.shape)


RECIPE = Recipe(
    family="vision and video",
    formula="s' = s + R[b, h, q, r_kv] + C[b, h, q, c_kv]",
    sources=(
        Source("MViTv2, decomposed relative positions", "arXiv:2112.01526"),
        Source("SAM (windows of 14 × 14)", "arXiv:2304.02643"),
        Source("ViTDet", "arXiv:2203.16527"),
    ),
    score=decomposed_rel_pos,
    captures=from_queries,
    parameters={
        "height": "rows of the image [tokens]",
        "width": "columns of the image [tokens]",
    },
    captured={
        "along_rows": "[B, Hq, Q_LEN, height] float: query times embedding of each row's distance",
        "along_columns": "[B, Hq, Q_LEN, width] float: the same for columns",
    },
    learned=frozenset({"along_rows", "along_columns"}),
    equivalents=(
        "SAM get_decomposed_rel_pos: the same, from unscaled queries",
        "gradients go on through both tensors to queries and tables",
    ),
    pictures=(
        Picture(
            """
            11 12 21 22
            13 14 23 24
            # # # #
            1 1 # #
            """,
            given={
                "along_rows": [[[[10.0, 20.0], [10.0, 20.0], [0.0, 0.0], [1.0, 0.0]]]],
                "along_columns": [[[[1.0, 2.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]]],
                "width": 2,
            },
        ),
        # Two rows of one column, another head.
        Picture(
            "5 6\n7 8",
            given={
                "along_rows": [[[[0.0, 0.0], [0.0, 0.0]], [[4.0, 5.0], [5.0, 6.0]]]],
                "along_columns": [[[[0.0], [0.0]], [[1.0], [2.0]]]],
                "width": 1,
            },
            head=1,
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers SamVisionAttention.get_decomposed_rel_pos", scores=model),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=4, q_len=196),
    small={"height": 5, "width": 9},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=45),
    image=("height", "width"),
)
