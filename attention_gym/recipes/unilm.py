"""A batch of mixed tasks: both ways, left to right, or a prefix and then left to right."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def unilm(task: Tensor, prefix: Tensor) -> MaskMod:
    """keep = task[b] == 0 or q >= kv or (task[b] == 2 and kv < prefix[b])"""

    def mask_mod(b, h, q_idx, kv_idx):
        causal = q_idx >= kv_idx
        to_sequence = causal | (kv_idx < prefix[b])
        return torch.where(task[b] == 0, True, torch.where(task[b] == 1, causal, to_sequence))

    return mask_mod


def tasks(sizes: Sizes, share: float = 0.4) -> dict[str, Tensor]:
    """Tasks 2, 0, 1, 2, 0, … and a prefix of ``share`` of the keys."""
    prefix = torch.full((sizes.batch,), round(share * sizes.kv_len))
    return {"task": (torch.arange(sizes.batch) + 2) % 3, "prefix": prefix}


def dense(score: Tensor, task: Tensor, prefix: Tensor) -> Tensor:
    """One matrix per entry, chosen by its task."""
    lower = torch.ones(score.shape[-2:], dtype=torch.bool).tril()
    rows = []
    for kind, length in zip(task.tolist(), prefix.tolist(), strict=True):
        keep = lower.clone()
        keep[:, : score.shape[3] if kind == 0 else length if kind == 2 else 0] = True
        rows.append(keep)
    return masked(score, torch.stack(rows)[:, None])


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = any pair, q >= kv, or kv < prefix[b] or q >= kv, for task[b] = 0, 1, 2",
    sources=(Source("UniLM", "arXiv:1905.03197"), Source("GLM, ERNIE 3.0", "arXiv:2103.10360")),
    mask=unilm,
    captures=tasks,
    parameters={"share": "prefix as a share of KV_LEN [1]"},
    captured={
        "task": "[B] int64: 0 both ways, 1 left to right, 2 sequence to sequence",
        "prefix": "[B] int64: tokens of the first sequence, for task 2",
    },
    equivalents=("task 0: full, 1: causal, 2: sample_prefix",),
    pictures=(
        Picture("# # .\n# # .\n# # #", given={"task": [2, 0, 1], "prefix": [2, 2, 2]}),
        Picture("# # #\n# # #", given={"task": [2, 0, 1], "prefix": [2, 2, 2]}, batch=1),
        Picture("# . .\n# # .", given={"task": [2, 0, 1], "prefix": [2, 2, 2]}, batch=2),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="dense formula", scores=dense,
            sizes=Sizes(batch=3, heads=4, kv_heads=2, q_len=31, kv_len=40),
        ),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=3, q_len=1024),
)  # fmt: skip
