"""Query stream of permuted prediction: a token sees those earlier in the order, not itself."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.xlnet_content import random_order
from attention_gym.reference import masked


def xlnet_query(rank: Tensor) -> MaskMod:
    """keep = rank[b, q] > rank[b, kv]"""

    def mask_mod(b, h, q_idx, kv_idx):
        return rank[b, q_idx] > rank[b, kv_idx]

    return mask_mod


def dense(score: Tensor, rank: Tensor) -> Tensor:
    """Tokens are laid down in order; each row takes what lay there before."""
    keep = torch.zeros_like(score, dtype=torch.bool)
    for b, row in enumerate(rank):
        present: list[int] = []
        for token in row.argsort().tolist():
            if token < score.shape[2]:
                keep[b, :, token, [kv for kv in present if kv < score.shape[3]]] = True
            present.append(token)
    return masked(score, keep)


def model(score: Tensor, rank: Tensor) -> Tensor:
    """Which tokens move the query stream of transformers' XLNet, by its gradients.

    Its own rule for a target is given as ``perm_mask``; the model turns it into two streams.
    """
    from transformers import XLNetConfig, XLNetModel

    config = XLNetConfig(vocab_size=8, d_model=8, n_layer=1, n_head=1, d_inner=8, dropout=0.0)
    net = XLNetModel(config).eval()
    length = score.shape[2]
    rows = []
    for row in rank[:, :length]:
        perm = (row[:, None] <= row[None, :]).float()[None]
        target = torch.eye(length)[None]
        embeds = torch.randn(1, length, 8)

        def stream(embeds: Tensor, perm: Tensor = perm, target: Tensor = target) -> Tensor:
            return net(inputs_embeds=embeds, perm_mask=perm, target_mapping=target)[0]

        with torch.enable_grad():
            slopes = torch.autograd.functional.jacobian(stream, embeds)[0, :, :, 0]
        nothing = perm[0].all(-1, keepdim=True)  # the model then takes the mean of all
        rows.append((slopes.abs().amax((1, 3)) > 0) & ~nothing)
    return masked(score, torch.stack(rows)[:, None])


RECIPE = Recipe(
    family="generation structure",
    formula="keep = rank[b, q] > rank[b, kv]",
    sources=(Source("XLNet, query stream", "arXiv:1906.08237"),),
    mask=xlnet_query,
    captures=random_order,
    parameters={"seed": "which random order [count]"},
    captured={"rank": "[B, S] int64: place of each token in the order, S = max(Q_LEN, KV_LEN)"},
    equivalents=(
        "the first token of the order sees nothing: output 0, lse -inf and gradients 0",
        "transformers XLNet perm_mask[b, q, kv] = rank[q] <= rank[kv]: the same",
    ),
    pictures=(
        # The order is 2, 0, 1.
        Picture(". . #\n# . #\n. . .", given={"rank": [[1, 2, 0]]}),
        Picture(". # #\n. . #\n. . .", given={"rank": [[0, 1, 2], [2, 1, 0]]}, batch=1),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers XLNetModel(perm_mask)", scores=model,
            sizes=Sizes(batch=2, heads=2, q_len=23),
        ),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=512),
)  # fmt: skip
