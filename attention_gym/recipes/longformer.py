"""A two-sided window, and chosen tokens that see all and are seen by all."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def longformer(is_global: Tensor, reach: int = 256) -> MaskMod:
    """keep = |q - kv| <= reach or is_global[q] or is_global[kv]"""

    def mask_mod(b, h, q_idx, kv_idx):
        near = torch.abs(q_idx - kv_idx) <= reach
        return near | is_global[q_idx] | is_global[kv_idx]

    return mask_mod


def first_and_questions(sizes: Sizes, every: int = 512) -> dict[str, Tensor]:
    """The first token and each ``every``-th after it, as for the tokens of a question."""
    position = torch.arange(max(sizes.q_len, sizes.kv_len))
    return {"is_global": position % every == 0}


def dense(score: Tensor, is_global: Tensor, reach: int) -> Tensor:
    """Whole rows and columns laid over a band."""
    ones = torch.ones(score.shape[-2:], dtype=torch.bool)
    keep = ones.tril(reach) & ones.triu(-reach)
    keep[is_global[: score.shape[2]]] = True
    keep[:, is_global[: score.shape[3]]] = True
    return masked(score, keep)


def model(score: Tensor, is_global: Tensor, reach: int) -> Tensor:
    """Which keys move the output of transformers' own Longformer attention, found by gradients.

    Its global projections are made equal to its local ones, which is what a mask means by both.
    """
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    length = score.shape[2]
    config = LongformerConfig(
        hidden_size=8, num_attention_heads=1, attention_window=[2 * reach],
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    layer = LongformerSelfAttention(config, layer_id=0).double().eval()
    for name in ("query", "key", "value"):
        getattr(layer, f"{name}_global").load_state_dict(getattr(layer, name).state_dict())
    hidden = torch.randn(1, length, 8, dtype=torch.float64)
    seen = is_global[:length]

    def output(hidden: Tensor) -> Tensor:
        kind = torch.where(seen, 10000.0, 0.0).double()[None]
        return layer(
            hidden, attention_mask=kind, is_index_masked=(kind < 0),
            is_index_global_attn=kind > 0, is_global_attn=bool(seen.any()),
        )[0]  # fmt: skip

    with torch.enable_grad():
        slopes = torch.autograd.functional.jacobian(output, hidden)[0, :, :, 0]
    moved = slopes.abs().amax((1, 3)) > 0
    itself = torch.eye(length, dtype=torch.bool)
    return masked(score, moved | itself)


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = |q - kv| <= reach or is_global[q] or is_global[kv]",
    sources=(
        Source("Longformer (reach 256)", "arXiv:2004.05150"),
        Source("ETC, Extended Transformer Construction", "arXiv:2004.08483"),
    ),
    mask=longformer,
    captures=first_and_questions,
    parameters={
        "reach": "farthest key seen on either side [tokens]",
        "every": "distance between global tokens [tokens]",
    },
    captured={"is_global": "[S] bool: True for global tokens, S = max(Q_LEN, KV_LEN)"},
    equivalents=(
        "transformers Longformer attention_window=W: reach W // 2, global_attention_mask",
        "Longformer projects global queries, keys and values by weights of their own",
        "attention-gym generate_global_sliding_window(W, is_global): the same",
    ),
    pictures=(
        Picture(
            """
            # # . # .
            # # # # .
            . # # # .
            # # # # #
            . . . # #
            """,
            given={"is_global": [False, False, False, True, False], "reach": 1},
        ),
        Picture("# # #\n# # .\n# . #", given={"is_global": [True, False, False], "reach": 0}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers LongformerSelfAttention", scores=model,
            sizes=Sizes(heads=1, q_len=48), given={"reach": 4, "every": 17},
        ),
    ),
    sizes=Sizes(q_len=4096),
    small={"reach": 4, "every": 30},
)  # fmt: skip
