"""Queries of one sequence, keys of another whose end is padding."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def cross_attention(length: Tensor) -> MaskMod:
    """keep = kv < length[b]"""

    def mask_mod(b, h, q_idx, kv_idx):
        return kv_idx < length[b]

    return mask_mod


def encoded(sizes: Sizes, shortest: float = 0.5) -> dict[str, Tensor]:
    """The first sequence is whole, the last one ``shortest`` of that."""
    share = torch.linspace(1.0, shortest, sizes.batch) if sizes.batch > 1 else torch.ones(1)
    return {"length": (share * sizes.kv_len).round().long().clamp(min=1)}


def dense(score: Tensor, length: Tensor) -> Tensor:
    """Columns cut away, sequence by sequence."""
    keep = torch.ones_like(score, dtype=torch.bool)
    for b, end in enumerate(length.tolist()):
        keep[b, :, :, end:] = False
    return masked(score, keep)


def model(score: Tensor, length: Tensor) -> Tensor:
    """What transformers gives to the decoder's cross attention."""
    from transformers import T5Config
    from transformers.masking_utils import create_bidirectional_mask

    real = (torch.arange(score.shape[3]) < length[:, None]).long()
    options = {
        "attention_mask": real,
        "encoder_hidden_states": torch.zeros(score.shape[0], score.shape[3], 8),
    }
    return added(score, model_mask(create_bidirectional_mask, T5Config(), score, **options))


RECIPE = Recipe(
    family="padding, packing, prefixes",
    formula="keep = kv < length[b]",
    sources=(
        Source("Transformer, decoder to encoder", "arXiv:1706.03762"),
        Source("T5, NLLB, Marian", "transformers models/t5"),
    ),
    mask=cross_attention,
    captures=encoded,
    parameters={"shortest": "length of the shortest sequence as a share of KV_LEN [1]"},
    captured={"length": "[B] int64: keys of each sequence that are no padding"},
    equivalents=(
        "key_padding: the same from a table of booleans, with gaps where one likes",
        "transformers encoder_attention_mask: ones for the first length[b] keys",
    ),
    pictures=(
        Picture("# # # . .\n# # # . .", given={"length": [3, 1]}),
        Picture("# . .\n# . .\n# . .\n# . .", given={"length": [3, 1]}, batch=1),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers create_bidirectional_mask (T5)", scores=model),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=4, q_len=512, kv_len=2048),
)
