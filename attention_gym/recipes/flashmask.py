"""Columns with one or two intervals of hidden rows: any of many masks in O(KV_LEN) memory."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def flashmask(rows: Tensor, is_causal: bool = True) -> MaskMod:
    """keep = q outside the hidden rows of kv below the diagonal, and of those above it"""
    count = rows.shape[3]

    def mask_mod(b, h, q_idx, kv_idx):
        first = rows[b, h, kv_idx, 0]
        if is_causal:
            hidden = q_idx >= first
            if count == 2:
                hidden = hidden & (q_idx < rows[b, h, kv_idx, 1])
            return (q_idx >= kv_idx) & ~((q_idx >= kv_idx) & hidden)
        if count == 2:
            return ~((q_idx >= kv_idx) & (q_idx >= first)) & ~(
                (q_idx < kv_idx) & (q_idx < rows[b, h, kv_idx, 1])
            )
        below = (q_idx >= first) & (q_idx < rows[b, h, kv_idx, 1])
        above = (q_idx >= rows[b, h, kv_idx, 2]) & (q_idx < rows[b, h, kv_idx, 3])
        return ~((q_idx >= kv_idx) & below) & ~((q_idx < kv_idx) & above)

    return mask_mod


def intervals(
    sizes: Sizes, documents: int = 4, count: int = 1, is_causal: bool = True
) -> dict[str, Tensor]:
    """Documents of nearly equal length; with further columns, gaps in them.

    ``count`` is 1 or 2 for causal masks, 2 or 4 for others: start of the hidden rows below, their
    end, start and end of those above.
    """
    length, kv = max(sizes.q_len, sizes.kv_len), torch.arange(sizes.kv_len)
    if not is_causal:
        count = max(2, count)
    number = kv * documents // length
    end = -(-(number + 1) * length // documents)
    begin = -(-number * length // documents)
    columns = [end]
    if is_causal and count == 2:
        columns = [kv + 3, end]  # a gap between the near keys and the document's end
    elif count == 2:
        columns = [end, begin]
    elif count == 4:
        columns = [end, torch.full_like(kv, length), torch.zeros_like(kv), begin]
    rows = torch.stack(columns, 1).expand(sizes.batch, sizes.heads, -1, -1).clone()
    rows[..., 0] -= torch.arange(sizes.batch).view(-1, 1, 1) * int(not is_causal or count == 1)
    return {"rows": rows}


def dense(score: Tensor, rows: Tensor, is_causal: bool) -> Tensor:
    """Column by column, hidden stretches painted over."""
    q_len, kv_len = score.shape[-2:]
    keep = torch.ones_like(score, dtype=torch.bool)
    for b in range(score.shape[0]):
        for h in range(score.shape[1]):
            for kv in range(kv_len):
                given = rows[b, h, kv].tolist()
                ends_below = len(given) == 4 or (is_causal and len(given) == 2)
                below = (given[0], given[1] if ends_below else q_len)
                column = keep[b, h, :, kv]
                column[max(below[0], kv, 0) : max(below[1], 0)] = False
                if is_causal:
                    column[:kv] = False
                elif len(given) == 2:
                    column[: min(given[1], kv)] = False
                else:
                    column[max(given[2], 0) : min(given[3], kv)] = False
    return masked(score, keep)


RECIPE = Recipe(
    family="systems",
    formula="keep = not (q >= kv and LTS[kv] <= q < LTE[kv]) and not (q < kv and UTS[kv] <= q < "
    "UTE[kv])",
    sources=(Source("FlashMask, PaddlePaddle", "arXiv:2410.01359"),),
    mask=flashmask,
    captures=intervals,
    parameters={
        "is_causal": "keys after the query are hidden as well",
        "documents": "documents in the example [count]",
        "count": "numbers per column: 1 or 2 if causal, else 2 or 4 [count]",
    },
    captured={
        "rows": "[B, Hq, KV_LEN, count] int64: start (and end) of hidden rows below the diagonal, "
        "then of those above"
    },
    equivalents=(
        "Paddle flashmask_attention(startend_row_indices, causal): the same in all four forms",
        "documents, prefixes, windows, shared questions are special cases: one mask_mod serves all",
    ),
    pictures=(
        # Causal, one number: documents of two.
        Picture(
            "# . . .\n# # . .\n. . # .\n. . # #",
            given={"rows": [[[[2], [2], [4], [4]]]], "is_causal": True},
        ),
        # Causal, start and end: key 0 is hidden from rows 1 and 2.
        Picture(
            "# . . .\n. # . .\n. # # .\n# # # #",
            given={"rows": [[[[1, 3], [4, 4], [4, 4], [4, 4]]]], "is_causal": True},
        ),
        # Both ways, start below and end above: documents of two.
        Picture(
            "# # . .\n# # . .\n. . # #\n. . # #",
            given={"rows": [[[[2, 0], [2, 0], [4, 2], [4, 2]]]], "is_causal": False},
        ),
        # Four numbers: key 0 is hidden from row 1, key 2 from row 0.
        Picture(
            "# # .\n. # #\n# # #",
            given={
                "rows": [[[[1, 2, 0, 0], [3, 3, 0, 0], [3, 3, 0, 1]]]], "is_causal": False
            },
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"count": 2}),
        Reference(source="dense formula", scores=dense, given={"count": 2, "is_causal": False}),
        Reference(source="dense formula", scores=dense, given={"count": 4, "is_causal": False}),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(q_len=4096),
)  # fmt: skip
