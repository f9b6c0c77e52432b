"""Head dims that are no power of two, as vision models have them."""

from torch import Tensor

from attention_gym.recipe import Picture, Recipe, Reference, Sizes, Source


def dense(score: Tensor) -> Tensor:
    """Nothing is changed; what is special is the size."""
    return score.clone()


RECIPE = Recipe(
    family="systems",
    formula="s' = s, D in 72, 80, 96, 112",
    sources=(
        Source("SigLIP 2 So400m (72)", "arXiv:2502.14786"),
        Source("ViT-H, Phi-2 (80)", "arXiv:2010.11929"),
        Source("Phi-3 mini (96)", "arXiv:2404.14219"),
    ),
    equivalents=(
        "kernels that ask for powers of two pad to the next one; ours do not",
        "run it at another size: python -m attention_gym run odd_head_dims --head-dim 112",
    ),
    pictures=(Picture("# #\n# #\n# #"), Picture("# # #", raw=1.0)),
    references=(Reference(source="dense formula", scores=dense),),
    needs=frozenset({"dv"}),
    sizes=Sizes(heads=16, q_len=1024, head_dim=72),
    fits=Sizes(batch=2, heads=4, kv_heads=2, q_len=47, kv_len=61, head_dim=72, v_dim=80),
)
