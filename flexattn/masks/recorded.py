"""The operator that stands for a mask's tables in a graph: made of its runs when the graph runs.

While torch.compile traces, a mask's runs are inputs of the graph like other tensors, so that one
graph serves masks with other blocks, and nothing is kept with the mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexattn.analysis.runs import Runs
from flexattn.errors import BlockMaskSizeError
from flexattn.masks.listing import by_frame, index_table
from flexattn.masks.sources import row_counts

LIBRARY = torch.library.Library("flexattn", "FRAGMENT")
LIBRARY.define(
    "tables(Tensor slices, Tensor first, Tensor start, Tensor stop, Tensor full, Tensor? period,"
    " Tensor? count, SymInt rows, SymInt cols, bool separate_full, Device device) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def as_tensors(runs: Runs) -> tuple[Tensor | None, ...]:
    """The arrays of ``runs`` as the operator takes them; their memory is shared.

    They are kept with the mask: torch.export stores the tensors that it meets, but not arrays.
    """
    arrays = (runs.slices, runs.first, runs.start, runs.stop, runs.full, runs.period, runs.count)
    return tuple(
        None if a is None else torch.from_numpy(a if a.flags.writeable else a.copy())
        for a in arrays
    )


def record_tables(
    tensors: tuple[Tensor | None, ...],
    sizes: tuple[int, int],
    frame: tuple[int, int],
    separate_full: bool,
    device: torch.device,
) -> tuple[Tensor, ...]:
    """``kv_num_blocks, kv_indices`` and, with ``separate_full``, ``full_kv_*`` of a mask.

    Args:
        tensors: Of ``as_tensors``.
        sizes: Rows and columns of blocks.
        frame: B and H.
    """
    tables = torch.ops.flexattn.tables(*tensors, *sizes, separate_full, device)
    return tuple(table.expand(*frame, *table.shape[2:]) for table in tables)


def refuse_on_demand() -> None:
    """Raise BlockMaskSizeError for a mask whose runs are made on demand."""
    raise BlockMaskSizeError(
        "the block lists of this mask are made on demand, row by row.",
        why="a compiled graph takes them as tensors, and this mask lists very many blocks.",
        fix="ask for mask.kv_indices once before the compiled call, or take a part of it.",
    )


# Dynamo runs a function marked so as it is, and can trace no error class.
refuse_on_demand._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _make(
    slices: Tensor,
    first: Tensor,
    start: Tensor,
    stop: Tensor,
    full: Tensor,
    period: Tensor | None,
    count: Tensor | None,
    rows: int,
    cols: int,
    separate_full: bool,
    device: torch.device,
) -> list[Tensor]:
    arrays = (slices, first, start, stop, full, period, count)
    runs = Runs(rows, cols, *(None if t is None else t.numpy() for t in arrays))  # type: ignore[arg-type]
    counts = row_counts(runs)
    tables = []
    for kind in (False, True) if separate_full else (False,):
        tables += [
            by_frame(counts[int(kind)].astype("int32"), runs.slices),
            index_table(runs, kind, "full_kv_indices" if kind else "kv_indices"),
        ]
    return [torch.from_numpy(table).to(device) for table in tables]


# The runs lie on the CPU, whatever the device of the tables.
LIBRARY.impl("tables", _make, "CPU")


def _shapes(
    slices: Tensor,
    first: Tensor,
    start: Tensor,
    stop: Tensor,
    full: Tensor,
    period: Tensor | None,
    count: Tensor | None,
    rows: int,
    cols: int,
    separate_full: bool,
    device: torch.device,
) -> list[Tensor]:
    shapes = [(*slices.shape, rows), (*slices.shape, rows, cols)] * (2 if separate_full else 1)
    return [torch.empty(shape, dtype=torch.int32, device=device) for shape in shapes]


torch.library.register_fake("flexattn::tables", _shapes, lib=LIBRARY)
