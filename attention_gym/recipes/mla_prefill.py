"""Multi-head latent attention over a prompt: keys of 192 channels, values of 128."""

from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.causal import causal


def dense(score: Tensor) -> Tensor:
    """A triangle; what is special are the sizes."""
    keep = score.new_ones(score.shape).tril() > 0
    return score.masked_fill(~keep, -float("inf"))


RECIPE = Recipe(
    family="systems",
    formula="keep = q >= kv, D = 192, Dv = 128",
    sources=(
        Source("DeepSeek-V2, V3 (192 and 128)", "arXiv:2405.04434"),
        Source("MiMo-V2-Flash (192 and 128)", "transformers models/mimo_v2_flash"),
    ),
    mask=causal,
    equivalents=(
        "causal; softmax scale is 1 / sqrt(192), of query and key",
        "flash-attn 3 takes the same two head dims",
    ),
    pictures=(Picture("# . .\n# # .\n# # #"), Picture("# . . .\n# # . .")),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"dv"}),
    sizes=Sizes(heads=16, q_len=2048, head_dim=192, v_dim=128),
    fits=Sizes(batch=2, heads=4, q_len=61, head_dim=48, v_dim=32),
)
