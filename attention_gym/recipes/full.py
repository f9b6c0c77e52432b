"""Every query sees every key, as in an encoder without padding."""

import torch
from torch import Tensor

from attention_gym.recipe import SQUARE, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import added, masked, model_mask


def dense(score: Tensor) -> Tensor:
    """A mask of ones."""
    return masked(score, torch.ones(score.shape[-2:], dtype=torch.bool))


def model(score: Tensor) -> Tensor:
    """The mask of an encoder of transformers with nothing padded."""
    from transformers import BertConfig
    from transformers.masking_utils import create_bidirectional_mask

    options = {"allow_is_bidirectional_skip": False}
    return added(score, model_mask(create_bidirectional_mask, BertConfig(), score, **options))


RECIPE = Recipe(
    family="causal, local, global",
    formula="s' = s",
    sources=(Source("BERT", "arXiv:1810.04805"), Source("ViT", "arXiv:2010.11929")),
    equivalents=(
        "torch scaled_dot_product_attention without a mask: the same",
        "flexattn noop_mask as mask_mod: the same, and no block mask is made for it",
    ),
    pictures=(Picture("# # #\n# # #"), Picture("#\n#\n#", raw=2.0)),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(
            source="transformers create_bidirectional_mask (BERT)", scores=model, sizes=SQUARE
        ),
    ),
    sizes=Sizes(q_len=2048),
)
