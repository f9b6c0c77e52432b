"""Chunks of speech: a query sees its own chunk and a few before it."""

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.reference import masked


def streaming_asr(left: int = 70, right: int = 13) -> MaskMod:
    """keep = 0 <= q // chunk - kv // chunk <= left // chunk, chunk = right + 1"""
    chunk = right + 1
    before = left // chunk

    def mask_mod(b, h, q_idx, kv_idx):
        back = q_idx // chunk - kv_idx // chunk
        return (back >= 0) & (back <= before)

    return mask_mod


def dense(score: Tensor, left: int, right: int) -> Tensor:
    """Chunk by chunk: a rectangle from the first chunk in reach to the end of its own."""
    chunk, keep = right + 1, torch.zeros(score.shape[-2:], dtype=torch.bool)
    for start in range(0, score.shape[2], chunk):
        first = max(0, start - left // chunk * chunk)
        keep[start : start + chunk, first : start + chunk] = True
    return masked(score, keep)


def model(score: Tensor, left: int, right: int) -> Tensor:
    """The function Nemotron's streaming encoder makes its mask of."""
    from transformers.models.nemotron_asr_streaming import modeling_nemotron_asr_streaming as asr

    keep = asr.chunked_limited_mask_function(left, right)
    q, kv = torch.arange(score.shape[2])[:, None], torch.arange(score.shape[3])
    return masked(score, keep(0, 0, q, kv))


RECIPE = Recipe(
    family="causal, local, global",
    formula="keep = 0 <= q // chunk - kv // chunk <= left // chunk, chunk = right + 1",
    sources=(
        Source("NeMo FastConformer, chunked_limited (70, 13)", "arXiv:2312.17279"),
        Source("Nemotron ASR streaming", "transformers models/nemotron_asr_streaming"),
    ),
    mask=streaming_asr,
    parameters={
        "left": "context before the query's chunk, rounded down to whole chunks [frames]",
        "right": "longest look ahead; a chunk is one longer [frames]",
    },
    equivalents=(
        "NeMo att_context_size=[left, right] with style chunked_limited: the same",
        "WeNet chunk masks count chunks on the left: left = chunks * chunk",
    ),
    pictures=(
        Picture(
            """
            # # . . . .
            # # . . . .
            # # # # . .
            # # # # . .
            . . # # # #
            . . # # # #
            """,
            given={"left": 3, "right": 1},
        ),
        Picture("# . . .\n# # . .\n# # # .\n. # # #", given={"left": 2, "right": 0}),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers chunked_limited_mask_function (Nemotron)", scores=model),
    ),
    sizes=Sizes(q_len=1024),
    small={"left": 10, "right": 3},
)
