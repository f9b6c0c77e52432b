"""ALiBi for encoders and packed sequences: the penalty grows with the distance of positions."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source
from attention_gym.recipes.alibi import alibi_slopes


def alibi_symmetric(slopes: Tensor, position: Tensor) -> ScoreMod:
    """s' = s - slopes[h] * |position[b, q] - position[b, kv]|"""

    def score_mod(score, b, h, q_idx, kv_idx):
        return score - slopes[h] * torch.abs(position[b, q_idx] - position[b, kv_idx])

    return score_mod


def packed(sizes: Sizes, documents: int = 3) -> dict[str, Tensor]:
    """Positions begin anew in each of ``documents`` parts, one token later in each next entry."""
    total = max(sizes.q_len, sizes.kv_len)
    length = -(-total // documents)
    rows = [(torch.arange(total) + b) % length for b in range(sizes.batch)]
    return {"slopes": torch.tensor(alibi_slopes(sizes.heads)), "position": torch.stack(rows)}


def dense(score: Tensor, slopes: Tensor, position: Tensor) -> Tensor:
    """The larger position less the smaller one, as matrices."""
    rows = position[:, None, : score.shape[2], None].float()
    columns = position[:, None, None, : score.shape[3]].float()
    apart = torch.maximum(rows, columns) - torch.minimum(rows, columns)
    return score - slopes.view(1, -1, 1, 1) * apart


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s - slope[h] * |position[b, q] - position[b, kv]|",
    sources=(
        Source("ALiBi, symmetric for encoders", "arXiv:2108.12409"),
        Source("Jina embeddings v2", "arXiv:2310.19923"),
    ),
    score=alibi_symmetric,
    captures=packed,
    parameters={"documents": "parts of each sequence whose positions begin anew [count]"},
    captured={
        "slopes": "[Hq] float: penalty per token of distance",
        "position": "[B, S] int64: position of each token, S = max(Q_LEN, KV_LEN)",
    },
    equivalents=(
        "alibi: the same where q >= kv and positions are indices",
        "other forms for encoders give the future slopes of its own, or drop it in half the heads",
    ),
    pictures=(
        Picture(
            "# -1 -2 # -1\n-1 # -1 -1 #",
            given={"slopes": [1.0], "position": [[0, 1, 2, 0, 1]]},
        ),
        Picture(
            "# -1.5\n-1.5 #",
            given={"slopes": [1.0, 0.5], "position": [[0, 0], [4, 7]]},
            batch=1, head=1,
        ),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(batch=2, q_len=2048),
)  # fmt: skip
