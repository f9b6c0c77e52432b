"""Windows side by side, shifted in every other layer; pixels that met by rolling stay apart."""

from types import SimpleNamespace

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def swin_window(height: int = 56, width: int = 56, window: int = 7, shift: int = 3) -> MaskMod:
    """keep = same window and same region, on the image rolled by shift"""

    def region(place, length):
        return (place >= length - window).long() + (place >= length - shift).long()

    def mask_mod(b, h, q_idx, kv_idx):
        q_row, q_column = q_idx // width, q_idx % width
        kv_row, kv_column = kv_idx // width, kv_idx % width
        rows = (q_row // window == kv_row // window) & (
            (region(q_row, height) == region(kv_row, height)) if shift else (q_row == q_row)
        )
        columns = (q_column // window == kv_column // window) & (
            (region(q_column, width) == region(kv_column, width)) if shift else (q_row == q_row)
        )
        return rows & columns

    return mask_mod


def dense(score: Tensor, height: int, width: int, window: int, shift: int) -> Tensor:
    """Windows cut on the rolled image, and squares that were neighbours before it was rolled."""
    image = torch.arange(height * width).view(height, width).roll((-shift, -shift), (0, 1))
    keep = torch.zeros(height * width, height * width, dtype=torch.bool)
    for q in range(height * width):
        for kv in range(height * width):
            (r, c), (s, d) = divmod(q, width), divmod(kv, width)
            if r // window != s // window or c // window != d // window:
                continue
            # Where they lay before: the distance there is the one here unless the edge is between.
            before_q, before_kv = divmod(int(image[r, c]), width), divmod(int(image[s, d]), width)
            moved = (before_q[0] - before_kv[0], before_q[1] - before_kv[1])
            keep[q, kv] = moved == (r - s, c - d)
    return masked(score, keep)


def model(score: Tensor, height: int, width: int, window: int, shift: int) -> Tensor:
    """Swin's own mask of each window, put back to the places of its pixels."""
    from transformers.models.swin.modeling_swin import SwinLayer, window_partition

    layer = SimpleNamespace(window_size=window, shift_size=shift)
    mask = SwinLayer.get_attn_mask(layer, height, width, torch.float32, torch.device("cpu"))
    pixel = torch.arange(height * width, dtype=torch.float32).view(1, height, width, 1)
    places = window_partition(pixel, window).view(-1, window * window).long()
    keep = torch.zeros(height * width, height * width, dtype=torch.bool)
    for seen, mine in zip(mask, places, strict=True):
        keep[mine[:, None], mine] = seen == 0
    return masked(score, keep)


RECIPE = Recipe(
    family="vision and video",
    formula="keep = r_q // P == r_kv // P and region(r_q) == region(r_kv), the same for columns; "
    "region(i) = [i >= L - P] + [i >= L - shift]",
    sources=(Source("Swin Transformer (7 × 7, shift 3)", "arXiv:2103.14030"),),
    mask=swin_window,
    parameters={
        "height": "rows of the image, a multiple of window [tokens]",
        "width": "columns of the image, a multiple of window [tokens]",
        "window": "rows and columns of a window [tokens]",
        "shift": "rows and columns the image is rolled by before, 0 for plain windows [tokens]",
    },
    equivalents=(
        "Swin cuts windows out and adds -100 between regions, which leaves a little weight; here "
        "such pairs are dropped",
        "shift 0: windows alone, as fixed_block in two dimensions",
    ),
    pictures=(
        # One row, rolled by one: the last pixel of the last window came from the front.
        Picture(
            """
            # # . .
            # # . .
            . . # .
            . . . #
            """,
            given={"height": 1, "width": 4, "window": 2, "shift": 1},
        ),
        Picture(
            """
            # # . . # # . .
            # # . . # # . .
            . . # # . . # #
            . . # # . . # #
            # # . . # # . .
            # # . . # # . .
            . . # # . . # #
            . . # # . . # #
            """,
            given={"height": 2, "width": 4, "window": 2, "shift": 0},
        ),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"shift": 0}),
        Reference(source="transformers SwinLayer.get_attn_mask", scores=model),
    ),
    sizes=Sizes(q_len=3136),
    small={"height": 6, "width": 9, "window": 3, "shift": 1},
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=54),
    image=("height", "width"),
)
