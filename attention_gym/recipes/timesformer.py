"""Video in two turns: the same place in all frames, then all places of one frame."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def timesformer(tokens: int = 196, temporal: bool = True) -> MaskMod:
    """keep = q % tokens == kv % tokens (over time), or q // tokens == kv // tokens (in a frame)"""

    def mask_mod(b, h, q_idx, kv_idx):
        if temporal:
            return q_idx % tokens == kv_idx % tokens
        return q_idx // tokens == kv_idx // tokens

    return mask_mod


def dense(score: Tensor, tokens: int, temporal: bool) -> Tensor:
    """Combs of diagonals, or squares along the diagonal."""
    q_len, kv_len = score.shape[-2:]
    frames = -(-max(q_len, kv_len) // tokens)
    one, all_ = torch.eye, lambda n: torch.ones(n, n)
    keep = (
        torch.kron(all_(frames), one(tokens)) if temporal else torch.kron(one(frames), all_(tokens))
    )
    return masked(score, keep[:q_len, :kv_len] > 0)


RECIPE = Recipe(
    family="vision and video",
    formula="keep = q % tokens == kv % tokens, or q // tokens == kv // tokens",
    sources=(Source("TimeSformer, divided attention (196 tokens)", "arXiv:2102.05095"),),
    mask=timesformer,
    parameters={
        "tokens": "tokens of a frame [tokens]",
        "temporal": "the same place in all frames; False for all places of a frame",
    },
    equivalents=(
        "axial on a sheet of frames × tokens: its columns and its rows",
        "ViViT's factorised encoder, Latte: the same pair",
    ),
    pictures=(
        Picture(
            """
            # . # . # .
            . # . # . #
            # . # . # .
            . # . # . #
            """,
            given={"tokens": 2},
        ),
        Picture("# # # .\n# # # .\n# # # .\n. . . #", given={"tokens": 3, "temporal": False}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="dense formula", scores=dense, given={"temporal": False}),
    ),
    sizes=Sizes(q_len=1568),
    small={"tokens": 10},
)
