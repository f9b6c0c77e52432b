"""Many time series in one sequence: a learned bias for one's own series, another for the rest."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def any_variate(variate: Tensor, same: Tensor, other: Tensor) -> ScoreMod:
    """s' = s + (same[h] where variate[b, q] == variate[b, kv], else other[h])"""

    def score_mod(score, b, h, q_idx, kv_idx):
        own = variate[b, q_idx] == variate[b, kv_idx]
        return score + torch.where(own, same[h], other[h])

    return score_mod


def series(sizes: Sizes, variates: int = 4) -> dict[str, Tensor]:
    """``variates`` series one after another, the first a little longer in each next entry."""
    total = max(sizes.q_len, sizes.kv_len)
    position = torch.arange(total)
    rows = [(position - b).clamp(min=0) * variates // total for b in range(sizes.batch)]
    generator = torch.Generator().manual_seed(0)
    same, other = torch.randn(2, sizes.heads, generator=generator)
    return {"variate": torch.stack(rows), "same": same.clone(), "other": other.clone()}


def dense(score: Tensor, variate: Tensor, same: Tensor, other: Tensor) -> Tensor:
    """Two numbers mixed by products of one-hot rows."""
    hot = torch.nn.functional.one_hot(variate).float()
    own = (hot[:, : score.shape[2]] @ hot[:, : score.shape[3]].mT)[:, None]
    return score + own * same.view(-1, 1, 1) + (1 - own) * other.view(-1, 1, 1)


RECIPE = Recipe(
    family="multimodal",
    formula="s' = s + (same[h] where variate[b, q] == variate[b, kv], else other[h])",
    sources=(Source("Moirai, any-variate attention", "arXiv:2402.02592"),),
    score=any_variate,
    captures=series,
    parameters={"variates": "series in each sequence [count]"},
    captured={
        "variate": "[B, S] int64: series of each token, S = max(Q_LEN, KV_LEN)",
        "same": "[Hq] float: added within a series (learned)",
        "other": "[Hq] float: added between series (learned)",
    },
    learned=frozenset({"same", "other"}),
    equivalents=(
        "uni2ts BinaryAttentionBias: the same, from an embedding of two rows",
        "softmax takes no notice of what both numbers share: their difference alone matters",
    ),
    pictures=(
        Picture(
            "1 1 -2\n1 1 -2\n-2 -2 1",
            given={"variate": [[0, 0, 1]], "same": [1.0], "other": [-2.0]},
        ),
        Picture(
            "5 3\n3 5",
            given={"variate": [[0, 0], [0, 1]], "same": [0.5, 5.0], "other": [0.0, 3.0]},
            batch=1, head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"gr"}),
    sizes=Sizes(batch=2, q_len=512),
)  # fmt: skip
