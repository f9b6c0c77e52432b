"""Proteins packed into one row of residues; each sees itself."""

import itertools

import torch
from torch import Tensor

from attention_gym.recipe import MaskMod, Picture, Recipe, Reference, Sizes, Source
from attention_gym.recipes.document import document
from attention_gym.reference import masked


def protein_packing(sequence_id: Tensor) -> MaskMod:
    """keep = sequence_id[b, q] == sequence_id[b, kv]"""
    return document(sequence_id)


def proteins(sizes: Sizes, longest: int = 300) -> dict[str, Tensor]:
    """Random lengths up to ``longest``; the row's rest is padding of number -1."""
    total = max(sizes.q_len, sizes.kv_len)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(sizes.batch):
        lengths = torch.randint(1, longest + 1, (total,), generator=generator)
        ends = lengths.cumsum(0)
        number = torch.searchsorted(ends, torch.arange(total), right=True)
        fits = int((ends <= total).sum())
        rows.append(torch.where(number < fits, number, -1))
    return {"sequence_id": torch.stack(rows)}


def dense(score: Tensor, sequence_id: Tensor) -> Tensor:
    """A square between neighbouring changes of the number."""
    keep = torch.zeros_like(score, dtype=torch.bool)
    for b, row in enumerate(sequence_id.tolist()):
        cuts = [0, *(i for i in range(1, len(row)) if row[i] != row[i - 1]), len(row)]
        for first, last in itertools.pairwise(cuts):
            keep[b, :, first:last, first:last] = True
    return masked(score, keep)


def model(score: Tensor, sequence_id: Tensor) -> Tensor:
    """The function ESM C gives to transformers' masks."""
    from transformers.masking_utils import packed_sequence_mask_function

    b, q, kv = torch.meshgrid(*(torch.arange(score.shape[i]) for i in (0, 2, 3)), indexing="ij")
    return masked(score, packed_sequence_mask_function(sequence_id)(b, 0, q, kv)[:, None])


RECIPE = Recipe(
    family="science and tables",
    formula="keep = sequence_id[b, q] == sequence_id[b, kv]",
    sources=(
        Source("ESM C", "transformers models/esmc"),
        Source("ESM3", "doi:10.1126/science.ads0018"),
    ),
    mask=protein_packing,
    captures=proteins,
    parameters={"longest": "residues of the longest protein [residues]"},
    captured={"sequence_id": "[B, S] int64: protein of each residue, -1 for padding"},
    equivalents=(
        "document: the same; padding forms a document of its own, which nobody reads",
        "ESM sequence_id: the same",
    ),
    pictures=(
        Picture("# # . .\n# # . .\n. . # .\n. . . #", given={"sequence_id": [[0, 0, 1, -1]]}),
        Picture("# . #\n. # .", given={"sequence_id": [[0, 0, 0], [4, 2, 4]]}, batch=1),
    ),
    references=(
        Reference(source="dense formula", scores=dense),
        Reference(source="transformers packed_sequence_mask_function (ESM C)", scores=model),
    ),
    needs=frozenset({"bh"}),
    sizes=Sizes(batch=2, q_len=2048),
    small={"longest": 20},
)
