"""Apply a recipe's functions to a grid of indices with plain torch operations: the slow, sure way.

Nothing of the compiler is used here, so pictures drawn and checks made with it are independent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, ScoreMod


def modified_scores(score: Tensor, score_mod: ScoreMod | None, mask_mod: MaskMod | None) -> Tensor:
    """Score_mod, then mask_mod, over raw scores [B, H, Q, KV]; -inf where dropped."""
    batch, heads, q_len, kv_len = score.shape
    index = (
        torch.arange(batch).view(-1, 1, 1, 1),
        torch.arange(heads).view(1, -1, 1, 1),
        torch.arange(q_len).view(1, 1, -1, 1),
        torch.arange(kv_len).view(1, 1, 1, -1),
    )
    if score_mod is not None:
        score = score_mod(score, *index)
    if mask_mod is not None:
        score = torch.where(mask_mod(*index), score, -math.inf)
    return score.broadcast_to(batch, heads, q_len, kv_len)


def dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: ScoreMod | None,
    mask_mod: MaskMod | None,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """(out, lse) by the definition, all scores in memory; an empty row gives 0 and -inf."""
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = modified_scores(query @ key.mT * scale, score_mod, mask_mod)
    empty = (scores == -math.inf).all(-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(empty, 0.0), dim=-1).masked_fill(empty, 0.0)
    return weights.to(value.dtype) @ value, torch.logsumexp(scores, dim=-1)
