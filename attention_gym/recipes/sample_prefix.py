"""A prefix of its own length in every sequence, seen by all its queries; causal after it."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def sample_prefix(prefix: Tensor) -> MaskMod:
    """keep = kv < prefix[b] or q >= kv"""

    def mask_mod(b, h, q_idx, kv_idx):
        return (kv_idx < prefix[b]) | (q_idx >= kv_idx)

    return mask_mod


def prompts(sizes: Sizes, longest: int = 512) -> dict[str, Tensor]:
    """The longest prefix first, then shorter ones down to none."""
    share = torch.linspace(1, 0, sizes.batch) if sizes.batch > 1 else torch.ones(1)
    return {"prefix": (share * min(longest, sizes.kv_len)).long()}


def dense(score: Tensor, prefix: Tensor) -> Tensor:
    """A triangle with a rectangle laid over it, sequence by sequence."""
    keep = torch.ones_like(score, dtype=torch.bool).tril()
    for b, length in enumerate(prefix.tolist()):
        keep[b, :, :, :length] = True
    return masked(score, keep)


def model(score: Tensor, prefix: Tensor) -> Tensor:
    """PaliGemma's mask: the prefix is one group that sees itself."""
    from transformers import GemmaConfig
    from transformers.masking_utils import create_causal_mask

    token_type = (torch.arange(score.shape[2]) >= prefix[:, None]).long()
    options = {"block_sequence_ids": torch.where(token_type == 0, 0, -1)}
    return added(score, model_mask(create_causal_mask, GemmaConfig(), score, **options))


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = kv < prefix[b] or q >= kv",
    sources=(
        Source("PaliGemma, image and prompt as prefix", "arXiv:2407.07726"),
        Source("UniLM, sequence to sequence", "arXiv:1905.03197"),
    ),
    mask=sample_prefix,
    captures=prompts,
    parameters={"longest": "prefix of the first sequence [tokens]"},
    captured={"prefix": "[B] int64: tokens of each sequence's prefix"},
    equivalents=(
        "prefix_lm: one length for all sequences",
        "transformers token_type_ids 0 for the prefix (PaliGemma): the same",
    ),
    pictures=(
        Picture("# # . .\n# # . .\n# # # .\n# # # #", given={"prefix": [2, 0]}),
        Picture("# . .\n# # .\n# # #", given={"prefix": [2, 0]}, batch=1),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_causal_mask(block_sequence_ids) (PaliGemma)",
            scores=model, sizes=SQUARE,
        ),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=2048),
    small={"longest": 12},
)  # fmt: skip
