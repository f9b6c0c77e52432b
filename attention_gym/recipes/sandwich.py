"""The inner product of sinusoidal positions, as a bias that falls with the distance."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source


def sandwich(table: Tensor, share: Tensor) -> ScoreMod:
    """s' = s + table[q - kv + length - 1] * share[h]"""
    length = table.shape[0] // 2 + 1

    def score_mod(score, b, h, q_idx, kv_idx):
        return score + table[q_idx - kv_idx + length - 1] * share[h]

    return score_mod


def sinusoids(sizes: Sizes, dim: int = 128) -> dict[str, Tensor]:
    """Sum of cosines of each distance less its value at 0; heads fall as in the paper."""
    length = max(sizes.q_len, sizes.kv_len)
    distance = torch.arange(1 - length, length, dtype=torch.float64)
    rate = 10000.0 ** (-2 * torch.arange(1, dim // 2 + 1, dtype=torch.float64) / dim)
    table = torch.cos(distance[:, None] * rate).sum(1) - dim / 2
    head = torch.arange(1, sizes.heads + 1)
    return {"table": table.float(), "share": sizes.heads / (8.0 * head)}


def dense(score: Tensor, dim: int) -> Tensor:
    """Sinusoidal embeddings multiplied with each other."""
    position = torch.arange(max(score.shape[-2:]), dtype=torch.float64)
    rate = 10000.0 ** (-2 * torch.arange(1, dim // 2 + 1, dtype=torch.float64) / dim)
    angle = position[:, None] * rate
    embedding = torch.cat([angle.sin(), angle.cos()], 1)
    bias = (embedding @ embedding.mT - dim / 2)[: score.shape[2], : score.shape[3]]
    share = score.shape[1] / (8.0 * torch.arange(1, score.shape[1] + 1))
    return score + (bias * share.view(-1, 1, 1).double()).to(score.dtype)


RECIPE = Recipe(
    family="positional bias",
    formula="s' = s + (sum over i of cos((q - kv) r_i) - D / 2) * H / (8 (h + 1))",
    sources=(Source("Sandwich (D = 128)", "arXiv:2212.10356"),),
    score=sandwich,
    captures=sinusoids,
    parameters={"dim": "channels of the sinusoidal embedding [count]"},
    captured={
        "table": "[2 L - 1] float: bias of each distance, L the longer side",
        "share": "[Hq] float: factor of each head",
    },
    equivalents=(
        "attention-gym generate_sandwich_bias(H, max_seq_len, d_bar): the same up to a constant, "
        "which softmax takes no notice of",
    ),
    pictures=(
        Picture("# -1 -3\n-1 # -1", given={"table": [-3.0, -1.0, 0.0, -1.0, -3.0], "share": [1.0]}),
        Picture("# -4\n2 #", given={"table": [-8.0, 0.0, 4.0], "share": [1.0, 0.5]}, head=1),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    sizes=Sizes(q_len=2048),
    small={"dim": 32},
)
