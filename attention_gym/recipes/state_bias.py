"""Each query brings a bias for every distance back to a limit; farther keys get none."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def state_bias(relative: Tensor) -> ScoreMod:
    """s' = s + relative[b, h, q, q - kv] where 0 <= q - kv < extent"""
    extent = relative.shape[3]

    def score_mod(score, b, h, q_idx, kv_idx):
        back = q_idx - kv_idx
        near = (back >= 0) & (back < extent)
        return score + torch.where(near, relative[b, h, q_idx, back.clamp(0, extent - 1)], 0.0)

    return score_mod


def content(sizes: Sizes, extent: int) -> tuple[Tensor, Tensor]:
    """States of the tokens, and profiles of bias against distance, random."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(sizes.batch, sizes.q_len, sizes.heads, 4, generator=generator)
    return states, torch.randn(4, extent, generator=generator)


def from_states(sizes: Sizes, extent: int = 128) -> dict[str, Tensor]:
    states, profiles = content(sizes, extent)
    return {"relative": (states @ profiles).transpose(1, 2).contiguous()}


def dense(score: Tensor, relative: Tensor) -> Tensor:
    """Diagonal by diagonal."""
    out = score.clone()
    for back in range(min(relative.shape[3], score.shape[2])):
        line = out.diagonal(-back, -2, -1)
        line += relative[:, :, back : back + line.shape[-1], back]
    return out


def model(score: Tensor, extent: int) -> Tensor:
    """Inkling's own module on the same states and profiles."""
    from transformers.models.inkling.modeling_inkling import InklingRelativeLogits

    module = InklingRelativeLogits(4, extent)
    sizes = Sizes(batch=score.shape[0], heads=score.shape[1], q_len=score.shape[2])
    states, profiles = content(sizes, extent)
    module.proj.data = profiles
    return score + module(states, torch.arange(score.shape[2]), torch.arange(score.shape[3]))


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + R[b, h, q, q - kv] where 0 <= q - kv < extent",
    sources=(Source("Inkling", "transformers models/inkling"),),
    score=state_bias,
    captures=from_states,
    parameters={"extent": "distances that have a bias [tokens]"},
    captured={"relative": "[B, Hq, Q_LEN, extent] float: bias of each query at each distance"},
    learned=frozenset({"relative"}),
    equivalents=(
        "shaw clips the distance in place of giving no bias beyond",
        "Inkling multiplies bias and query by a factor of the position on long texts: before the "
        "call",
    ),
    pictures=(
        Picture(
            "1 # # #\n4 3 # #\n# 6 5 #\n# # 8 7",
            given={"relative": [[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]]]},
        ),
        Picture("9 #", given={"relative": [[[[9.0]]]]}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers InklingRelativeLogits", scores=model),
    ),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=1024),
    small={"extent": 9},
)
