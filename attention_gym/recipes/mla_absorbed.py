"""Latent attention while decoding: one key of 576 channels, whose first 512 are the value."""

from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked, places


def mla_absorbed(cached: int = 4095) -> MaskMod:
    """keep = q + cached >= kv"""

    def mask_mod(b, h, q_idx, kv_idx):
        return q_idx + cached >= kv_idx

    return mask_mod


def dense(score: Tensor, cached: int) -> Tensor:
    """Each row ends with the query's own key."""
    q, kv = places(score)
    return masked(score, kv < q + cached + 1)


RECIPE = Recipe(
    family="systems",
    formula="keep = q + cached >= kv, D = 576, Dv = 512, value = key[..., :512], one key head",
    sources=(Source("DeepSeek-V3, decoding (576 and 512)", "arXiv:2412.19437"),),
    mask=mla_absorbed,
    parameters={"cached": "keys before the first query's own [tokens]"},
    equivalents=(
        "FlashMLA: the same sizes",
        "pass value = key[..., :512], a view: nothing is copied; gradients of both add up",
        "softmax scale is 1 / sqrt(192), of the heads before absorption: pass scale",
    ),
    pictures=(
        Picture("# # # . .\n# # # # .", given={"cached": 2}),
        Picture("# . .\n# # .\n# # #", given={"cached": 0}),
    ),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"dv"}),
    sizes=Sizes(heads=16, kv_heads=1, q_len=1, kv_len=4096, head_dim=576, v_dim=512),
    small={"cached": 50},
    fits=Sizes(batch=2, heads=4, kv_heads=1, q_len=9, kv_len=59, head_dim=72, v_dim=64),
    value_in_key=True,
    scale=192**-0.5,
)
