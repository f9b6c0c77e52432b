"""Several query heads share one key and value head, in groups of any size."""

from types import SimpleNamespace

import torch
from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.causal import causal
from attention_gym.reference import masked


def dense(score: Tensor) -> Tensor:
    """A triangle; what is special are the heads."""
    return masked(score, torch.ones_like(score, dtype=torch.bool).tril())


def model(score: Tensor) -> Tensor:
    """Weights by Llama's own attention, keys repeated by its function, of unit keys."""
    from transformers.models.llama.modeling_llama import eager_attention_forward

    groups, length = 3, score.shape[3]
    module = SimpleNamespace(num_key_value_groups=groups, training=False)
    key = torch.eye(length).expand(score.shape[0], score.shape[1] // groups, -1, -1)
    mask = torch.ones(score.shape[-2:]).tril().log()
    return eager_attention_forward(module, score, key, key, mask, scaling=1.0)[1].log()


RECIPE = Recipe(
    family="systems",
    formula="key head = h // (Hq / Hkv), keep = q >= kv",
    sources=(
        Source("Llama 3 (32 and 8 heads)", "arXiv:2407.21783"),
        Source("StarCoder, one key head", "arXiv:2305.06161"),
        Source("Qwen2.5 7B (28 and 4: groups of seven)", "arXiv:2412.15115"),
    ),
    mask=causal,
    equivalents=(
        "torch enable_gqa=True: the same; groups need not be a power of two",
        "repeating keys and values by hand: the same result, more memory",
    ),
    pictures=(
        Picture("# . .\n# # .\n# # #", head=2),
        Picture("# . . .\n# # . .", batch=1),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers repeat_kv (Llama)", scores=model, weights=True),
    ),
    sizes=Sizes(heads=28, kv_heads=4, q_len=2048, head_dim=128),
    fits=Sizes(batch=2, heads=6, kv_heads=2, q_len=61, head_dim=24),
)
