"""Steps of several tokens: causal between steps, both ways within one."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def agent_steps(tokens: int = 3, context: int = 20) -> MaskMod:
    """keep = 0 <= q // tokens - kv // tokens < context"""

    def mask_mod(b, h, q_idx, kv_idx):
        back = q_idx // tokens - kv_idx // tokens
        return (back >= 0) & (back < context)

    return mask_mod


def dense(score: Tensor, tokens: int, context: int) -> Tensor:
    """Step by step, as lists of keys."""
    keep = torch.zeros(score.shape[-2:], dtype=torch.bool)
    for q in range(score.shape[2]):
        step = q // tokens
        first = max(0, (step - context + 1) * tokens)
        keep[q, first : (step + 1) * tokens] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="generation structure",
    formula="keep = 0 <= q // tokens - kv // tokens < context",
    sources=(
        Source("Octo, tokens of one time step together", "arXiv:2405.12213"),
        Source("Decision Transformer (3 tokens a step, 20 steps)", "arXiv:2106.01345"),
    ),
    mask=agent_steps,
    parameters={
        "tokens": "tokens of a step, for example return, state, action [tokens]",
        "context": "steps visible to one query, its own included [steps]",
    },
    equivalents=("Decision Transformer itself is causal token by token: use causal",),
    pictures=(
        Picture(
            """
            # # . . . .
            # # . . . .
            # # # # . .
            # # # # . .
            . . # # # #
            . . # # # #
            """,
            given={"tokens": 2, "context": 2},
        ),
        Picture("# # # .\n# # # .\n# # # .\n. . . #", given={"tokens": 3, "context": 1}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=1020),
    small={"context": 5},
)
