"""Cells of a table see their row and their column; text sees and is seen by all."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def table_structure(row: Tensor, column: Tensor) -> MaskMod:
    """keep = row[b, q] == row[b, kv] or column[b, q] == column[b, kv] or either is text"""

    def mask_mod(b, h, q_idx, kv_idx):
        same_row = row[b, q_idx] == row[b, kv_idx]
        same_column = column[b, q_idx] == column[b, kv_idx]
        text = (row[b, q_idx] < 0) | (row[b, kv_idx] < 0)
        return same_row | same_column | text

    return mask_mod


def questions(sizes: Sizes, columns: int = 6, words: int = 12) -> dict[str, Tensor]:
    """A question of ``words`` tokens (one more in each next entry), then cells row by row."""
    position = torch.arange(max(sizes.q_len, sizes.kv_len))
    rows, places = [], []
    for b in range(sizes.batch):
        cell = position - words - b
        rows.append(torch.where(cell < 0, -1, cell // columns))
        places.append(torch.where(cell < 0, -1, cell % columns))
    return {"row": torch.stack(rows), "column": torch.stack(places)}


def dense(score: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Cell by cell, as sets of what is shared."""
    keep = torch.zeros(score.shape[0], 1, *score.shape[-2:], dtype=torch.bool)
    for b, (rows, columns) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
        marks = [
            {("row", r), ("column", c)} for r, c in zip(rows, columns, strict=True)
        ]  # fmt: skip
        for q in range(score.shape[2]):
            for kv in range(score.shape[3]):
                keep[b, 0, q, kv] = min(rows[q], rows[kv]) < 0 or bool(marks[q] & marks[kv])
    return masked(score, keep)


RECIPE = Recipe(
    family="science and tables",
    formula="keep = row[b, q] == row[b, kv] or column[b, q] == column[b, kv] or either is text",
    sources=(
        Source("TURL, visibility matrix", "arXiv:2006.14806"),
        Source("MATE, heads by row or column", "arXiv:2109.04312"),
    ),
    mask=table_structure,
    captures=questions,
    parameters={
        "columns": "columns of the table, one token a cell [count]",
        "words": "tokens of the question before the table [tokens]",
    },
    captured={
        "row": "[B, S] int64: row of each token, -1 for text, S = max(Q_LEN, KV_LEN)",
        "column": "[B, S] int64: column of each token, -1 for text",
    },
    equivalents=(
        "TAPAS gives rows and columns as embeddings and masks nothing",
        "MATE has heads that see rows and heads that see columns: choose by h",
    ),
    pictures=(
        # One word, then a table of two by two.
        Picture(
            """
            # # # # #
            # # # # .
            # # # . #
            # # . # #
            # . # # #
            """,
            given={"row": [[-1, 0, 0, 1, 1]], "column": [[-1, 0, 1, 0, 1]]},
        ),
        Picture(
            "# . .\n. # #\n. # #",
            given={"row": [[0, 0, 0], [0, 1, 2]], "column": [[0, 0, 0], [0, 1, 1]]},
            batch=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=512),
)
