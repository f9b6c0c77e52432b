"""A forget gate at every token: what lies before closed gates weighs less."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source
from attention_gym.recipes.causal import causal


def forgetting(gates: Tensor) -> ScoreMod:
    """s' = s + gates[b, h, q] - gates[b, h, kv] where q >= kv"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + gates[b, h, q_idx] - gates[b, h, kv_idx]

    return score_mod


def summed_gates(sizes: Sizes, openness: float = 3.0) -> dict[str, Tensor]:
    """Running sum of log sigmoid of random gates around ``openness``."""
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.batch, sizes.heads, max(sizes.q_len, sizes.kv_len))
    gate = openness + torch.randn(shape, generator=generator)
    return {"gates": torch.nn.functional.logsigmoid(gate).cumsum(-1)}


def dense(score: Tensor, gates: Tensor) -> Tensor:
    """Gates between key and query added up one by one."""
    steps = gates.diff(dim=-1, prepend=torch.zeros_like(gates[..., :1]))
    out = torch.full_like(score, -torch.inf)
    for q in range(score.shape[2]):
        total = torch.zeros(score.shape[:2])
        for kv in range(q, -1, -1):
            if kv < score.shape[3]:
                out[:, :, q, kv] = score[:, :, q, kv] + total
            total = total + steps[:, :, kv]
    return out


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + sum of log f[b, h, i] over kv < i <= q, where q >= kv",
    sources=(Source("Forgetting Transformer (FoX)", "arXiv:2503.02130"),),
    score=forgetting,
    mask=causal,
    captures=summed_gates,
    parameters={"openness": "mean of the gates before the sigmoid [1]"},
    captured={"gates": "[B, Hq, S] float: running sum of log f, S = max(Q_LEN, KV_LEN)"},
    learned=frozenset({"gates"}),
    equivalents=(
        "one constant gate per head: exponential_decay",
        "the running sum is taken before the call, in float32, and gets its gradient",
    ),
    pictures=(
        Picture("# . .\n-2 # .\n-5 -3 #", given={"gates": [[[-1.0, -3.0, -6.0]]]}),
        Picture(
            "# .\n-4 #",
            given={"gates": [[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [-1.0, -5.0]]]},
            batch=1, head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(q_len=2048),
)  # fmt: skip
