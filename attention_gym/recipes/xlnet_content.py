"""Content stream of permuted prediction: a token sees itself and those earlier in the order."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def xlnet_content(rank: Tensor) -> MaskMod:
    """keep = rank[b, q] >= rank[b, kv]"""

    def mask_mod(b, h, q_idx, kv_idx):
        return rank[b, q_idx] >= rank[b, kv_idx]

    return mask_mod


def random_order(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """A random permutation in every batch entry."""
    length = max(sizes.q_len, sizes.kv_len)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(length, generator=generator) for _ in range(sizes.batch)]
    return {"rank": torch.stack(rows)}


def dense(score: Tensor, rank: Tensor) -> Tensor:
    """Tokens are laid down in order; each row takes what lies there by then."""
    keep = torch.zeros_like(score, dtype=torch.bool)
    for b, row in enumerate(rank):
        present: list[int] = []
        for token in row.argsort().tolist():
            present.append(token)
            if token < score.shape[2]:
                keep[b, :, token, [kv for kv in present if kv < score.shape[3]]] = True
    return masked(score, keep)


RECIPE = Recipe(
    family="generation structure",
    formula="keep = rank[b, q] >= rank[b, kv]",
    sources=(Source("XLNet, content stream", "arXiv:1906.08237"),),
    mask=xlnet_content,
    captures=random_order,
    parameters={"seed": "which random order [count]"},
    captured={"rank": "[B, S] int64: place of each token in the order, S = max(Q_LEN, KV_LEN)"},
    equivalents=(
        "rank = 0, 1, 2, …: causal",
        "transformers XLNet perm_mask: the opposite sense, 1 means not seen",
    ),
    pictures=(
        # The order is 2, 0, 1.
        Picture("# . #\n# # #\n. . #", given={"rank": [[1, 2, 0]]}),
        Picture("# # #\n. # #\n. . #", given={"rank": [[0, 1, 2], [2, 1, 0]]}, batch=1),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=512),
)
