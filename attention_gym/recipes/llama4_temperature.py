"""Scores sharpen slowly with the query's position, in steps."""

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, ScoreMod, Sizes, Source
from attention_gym.recipes.causal import causal
from attention_gym.reference import Given, masked


def llama4_temperature(scale: float = 0.1, floor: int = 8192) -> ScoreMod:
    """s' = s * (1 + scale * log(1 + floor((q + 1) / floor)))"""

    def score_mod(score, b, h, q_idx, kv_idx):
        steps = torch.floor((q_idx + 1.0) / floor)
        return score * (torch.log1p(steps) * scale + 1.0)

    return score_mod


def dense(score: Tensor, scale: float, floor: int) -> Tensor:
    """Rows multiplied one by one, and the upper triangle dropped."""
    step = [int((q + 1) / floor) for q in range(score.shape[2])]
    factor = 1 + scale * torch.log(1 + torch.tensor(step, dtype=torch.float64))
    out = (score.double() * factor[:, None]).to(score.dtype)
    return masked(out, torch.ones_like(score, dtype=torch.bool).tril())


def model(score: Tensor, scale: float, floor: int) -> Tensor:
    """Weights by Llama 4's own attention without rotary positions, of given queries and keys."""
    from transformers import Llama4TextConfig
    from transformers.models.llama4.modeling_llama4 import Llama4TextAttention

    batch, heads, length = score.shape[:3]
    config = Llama4TextConfig(
        hidden_size=8, num_attention_heads=heads, num_key_value_heads=heads, head_dim=length,
        attn_scale=scale, floor_scale=floor, attn_temperature_tuning=True,
        use_qk_norm=False,
    )  # fmt: skip
    config._attn_implementation = "eager"
    attention = Llama4TextAttention(config, layer_idx=0).eval()
    attention.use_rope, attention.scaling = False, 1.0
    unit = torch.eye(length).expand(batch, heads, -1, -1)
    flat = {"q": score, "k": unit, "v": unit}
    for name, tensor in flat.items():
        setattr(attention, f"{name}_proj", Given(tensor.transpose(1, 2).flatten(2)))
    keep = torch.ones(1, 1, length, length).tril().log()
    return attention(torch.zeros(batch, length, 8), None, keep)[1].log()


RECIPE = Recipe(
    family="score rescaling",
    formula="s' = s (1 + scale log(1 + floor((q + 1) / floor)))",
    sources=(
        Source("Llama 4, layers without rotation (0.1, 8192)", "transformers models/llama4"),
    ),
    score=llama4_temperature,
    mask=causal,
    parameters={
        "scale": "growth of the factor with the logarithm [1]",
        "floor": "tokens after which the factor takes its next step [tokens]",
    },
    equivalents=(
        "transformers attn_scale, floor_scale: the same, applied to the queries",
        "scalable_softmax: smooth, and learned per head",
    ),
    pictures=(
        # Steps of two tokens: factors 1, 1 + log 2, 1 + log 2, 1 + log 3.
        Picture(
            """
            # . .
            3.386294 3.386294 .
            3.386294 3.386294 3.386294
            4.197225 4.197225 4.197225
            """,
            given={"scale": 1.0, "floor": 2}, raw=2.0,
        ),
        Picture("# .\n# #", given={"scale": 0.1, "floor": 8192}, raw=1.5),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers Llama4TextAttention", scores=model, weights=True,
            sizes=Sizes(batch=2, heads=4, kv_heads=2, q_len=84),
        ),
    ),
    sizes=Sizes(q_len=4096),
    small={"scale": 0.5, "floor": 9},
)  # fmt: skip
