"""How a BlockMask keeps its blocks: runs, or the tables it came with, each made of the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from flexattn.analysis.runs import Array, Runs
from flexattn.errors import BlockMaskError
from flexattn.masks import listing, recorded
from flexattn.masks.sizes import check_table
from flexattn.masks.sources import Source, collected, recolumned, row_counts, slice_uses
from flexattn.masks.tables import Pair, cdiv, distinct_heads, transpose
from flexattn.masks.validate import has_values

Tables: TypeAlias = tuple[Tensor, ...]
"""``kv_num_blocks, kv_indices``, and behind them perhaps ``full_kv_num_blocks, full_kv_indices``"""

AT_HAND = 1 << 22
"""Blocks of a mask that is given its tables when it is made, on accelerators."""


class Stored:
    """The blocks of a mask, and all that is made of them, once and when asked for."""

    seq_lengths: tuple[int, int]
    BLOCK_SIZE: tuple[int, int]
    _q_wanted: bool
    # What the mask was made of. Those up to _kernel are of masks made of runs; frame is (B, H).
    _given: Source | Tables
    _tensors: tuple[Tensor | None, ...]
    _frame: tuple[int, int]
    _place: torch.device
    _separate_full: bool
    # The tables that kernels read, where nobody else holds tables of this mask and may write there;
    # and, while torch.compile traces, those that a mask on an accelerator has from the beginning.
    _kernel: Tables | None
    _at_hand: Tables | None
    # The closed form that the mask was made from (`op/mask_forms.py`), if kernels can use that.
    _form: Any = None
    # What was made of the blocks, by name. Nothing is dropped: CUDA graphs read it unseen.
    _cache: dict[Any, Any]

    # Tables -------------------------------------------------------------------------------------

    @property
    def kv_num_blocks(self) -> Tensor:
        """int32 [B, H, rows]: partial blocks in each row."""
        return self._counts()[0]

    @property
    def kv_indices(self) -> Tensor:
        """int32 [B, H, rows, width]: their columns."""
        return self._tables()[1]

    @property
    def full_kv_num_blocks(self) -> Tensor | None:
        """int32 [B, H, rows]: full blocks in each row; None if they are not told apart."""
        counts = self._counts()
        return counts[1] if len(counts) > 1 else None

    @property
    def full_kv_indices(self) -> Tensor | None:
        """int32 [B, H, rows, width]: their columns."""
        tables = self._tables()
        return tables[3] if len(tables) > 2 else None

    @property
    def q_num_blocks(self) -> Tensor | None:
        """int32 [B, H, cols]: partial blocks in each column; None if not wanted."""
        return self._q_pair("partial")[0]

    @property
    def q_indices(self) -> Tensor | None:
        """int32 [B, H, cols, rows]: their rows."""
        return self._q_pair("partial")[1]

    @property
    def full_q_num_blocks(self) -> Tensor | None:
        """int32 [B, H, cols]: full blocks in each column."""
        return self._q_pair("full")[0]

    @property
    def full_q_indices(self) -> Tensor | None:
        """int32 [B, H, cols, rows]: their rows."""
        return self._q_pair("full")[1]

    @property
    def device(self) -> torch.device:
        """Where the tables lie, or are made."""
        given = self._given
        return given[1].device if isinstance(given, tuple) else self._place

    @property
    def _partial(self) -> Pair:
        tables = self._tables()
        return tables[0], tables[1]

    @property
    def _full(self) -> Pair | None:
        tables = self._tables()
        return (tables[2], tables[3]) if len(tables) > 2 else None

    @property
    def _has_full(self) -> bool:
        """Whether full blocks have a list of their own."""
        given = self._given
        return len(given) > 2 if isinstance(given, tuple) else self._separate_full

    @property
    def _rows(self) -> int:
        given = self._given
        return given[0].shape[-1] if isinstance(given, tuple) else given.rows

    @property
    def _cols(self) -> int:
        return cdiv(self.seq_lengths[1], self.BLOCK_SIZE[1])

    @property
    def _heads(self) -> tuple[int, int]:
        """B and H."""
        given = self._given
        if not isinstance(given, tuple):
            return self._frame
        batch, heads = given[1].shape[:2]
        return batch, heads

    def _tables(self) -> Tables:
        """PyTorch's tables by rows."""
        given = self._given
        if isinstance(given, tuple):
            return given
        if torch.compiler.is_dynamo_compiling():
            return self._recorded(given)
        if "tables" not in self._cache:
            counts = self._counts()
            blocks = recolumned(given, self._cols)
            names = ("kv_indices", "full_kv_indices")[: len(counts)]
            with plainly():
                made = [
                    self._tensor(listing.index_table(blocks, bool(kind), name))
                    for kind, name in enumerate(names)
                ]
            self._keep("tables", tuple(t for pair in zip(counts, made) for t in pair))
        return self._cache["tables"]

    def _counts(self) -> Tables:
        """``kv_num_blocks`` and perhaps ``full_kv_num_blocks``."""
        given = self._given
        if isinstance(given, tuple):
            return given[::2]
        if torch.compiler.is_dynamo_compiling():
            return self._recorded(given)[::2]
        if "counts" not in self._cache:
            kinds = self._row_counts()[: 2 if self._separate_full else 1]
            with plainly():
                made = [
                    self._tensor(listing.by_frame(kind.astype(np.int32), given.slices))
                    for kind in kinds
                ]
            self._keep("counts", tuple(made))
        return self._cache["counts"]

    def _kernel_tables(self) -> Tables:
        """What kernels read: the lists of ``_tables``, or as narrow as the longest row allows."""
        if torch.compiler.is_dynamo_compiling():
            return self._at_hand or self._tables()
        return self._kernel or self._current_tables()

    def _have_at_hand(self) -> None:
        """Make what kernels read now, on accelerators, unless it is large.

        There it costs a wait, which a CUDA graph forbids and a compiled graph would repeat.
        """
        given = self._given
        across = given.slices.size * given.rows * given.cols  # type: ignore[union-attr]
        if self._place.type != "cpu" and across <= AT_HAND and not _is_capturing(self._place):
            self.__dict__["_at_hand"] = self._kernel_tables()

    def _current_tables(self) -> Tables:
        given = self._given
        if isinstance(given, tuple):
            self.__dict__["_kernel"] = given
            return given
        if "tables" in self._cache or self._written():
            return self._tables()  # somebody holds them, and what is written there counts
        if "narrow" not in self._cache:
            names = ("kv_indices", "full_kv_indices")[: 2 if self._separate_full else 1]
            tables: list[Tensor] = []
            with plainly():
                for kind, name in enumerate(names):
                    counts = self._row_counts()[kind]
                    indices = listing.narrow_table(given, bool(kind), counts, name)
                    listed = listing.by_frame(counts.astype(np.int32), given.slices)
                    tables += [self._tensor(listed), self._tensor(indices)]
            self._cache["narrow"] = tuple(tables)
        if "counts" not in self._cache:
            self.__dict__["_kernel"] = self._cache["narrow"]
        return self._cache["narrow"]

    def _q_pair(self, kind: str) -> Pair | tuple[None, None]:
        tables = self._partial if kind == "partial" else self._full
        if tables is None or not self._q_wanted:
            return None, None
        if torch.compiler.is_dynamo_compiling():
            return transpose(tables, self._cols)
        key = (kind, self._cols)
        if key not in self._cache:
            counts, indices = tables
            check_table("q_indices", (*distinct_heads(counts)[0].shape, self._cols))
            with plainly() if has_values(indices) else nullcontext():
                self._cache[key] = transpose(tables, self._cols)
        return self._cache[key]

    def _tensor(self, table: Array) -> Tensor:
        if _is_capturing(self._place):
            raise BlockMaskError(
                "a CUDA graph is captured, and the block lists of a mask are not there yet.",
                why=f"masks of more than {AT_HAND} blocks copy them to the GPU when they are first "
                "used, and a graph that is captured cannot wait for that.",
                fix="call flex_attention with this mask once before capturing.",
            )
        return listing.to_tensor(table, self._place, self._frame)

    def _keep(self, name: str, tables: Tables) -> None:
        """Keep tables that were asked for, and what tells when they are written to."""
        self._cache[name] = tables
        self._cache["versions", name] = [table._version for table in tables]
        self.__dict__["_kernel"] = None

    def _written(self) -> bool:
        """Whether tables that were made of runs have been written to since."""
        return any(
            self._cache["versions", name] != [table._version for table in self._cache[name]]
            for name in ("counts", "tables")
            if name in self._cache
        )

    def _recorded(self, given: Source) -> Tables:
        """The tables in a graph that torch.compile makes."""
        if isinstance(given, Runs):
            sizes = given.rows, self._cols
            return recorded.record_tables(
                *(self._tensors, sizes, self._frame, self._separate_full, self._place)
            )
        if "tables" in self._cache:
            return self._cache["tables"]
        recorded.refuse_on_demand()
        return ()

    # Runs ---------------------------------------------------------------------------------------

    @property
    def _readable(self) -> bool:
        """Whether Python may look at which blocks are listed."""
        if torch.compiler.is_dynamo_compiling():
            return False
        given = self._given
        return not isinstance(given, tuple) or all(map(has_values, given))

    @property
    def _blocks(self) -> Source:
        """The listed blocks, over as many columns as the mask has; of readable masks."""
        given = self._given
        if not isinstance(given, tuple):
            if not self._written():
                return recolumned(given, self._cols)
            given = self.__dict__["_given"] = self._tables()
            self.__dict__["_form"] = None
        if any(table.is_inference() for table in given):  # nothing tells when they are written to
            return listing.runs_of_tables(given, self._cols)
        state = (self._cols, *(table._version for table in given))
        found: tuple[Any, Runs] | None = self._cache.get("runs")
        if found is None or found[0] != state:
            found = self._cache["runs"] = (state, listing.runs_of_tables(given, self._cols))
        return found[1]

    @property
    def _runs(self) -> Runs:
        """``_blocks`` all at once.

        Raises:
            BlockMaskSizeError: They are made on demand, and list too many blocks.
        """
        blocks = self._blocks
        if isinstance(blocks, Runs):
            return blocks
        if "collected" not in self._cache:
            self._cache["collected"] = collected(blocks)
        return self._cache["collected"]

    def _narrow_entries(self) -> int:
        """Entries of the longest list that kernels read, as narrow as its longest row allows."""
        return max(int(counts.max(initial=0)) * counts.size for counts in self._row_counts())

    def _row_counts(self) -> Array:
        """Partial and full blocks in each row: int64 [2, slices, rows]."""
        blocks = self._blocks
        known: tuple[Source, Array] | None = self._cache.get("row counts")
        if known is None or known[0] is not blocks:
            known = self._cache["row counts"] = (blocks, row_counts(blocks))
        return known[1]

    def _block_counts(self) -> tuple[int, int]:
        """Partial and full blocks, over all batches and heads."""
        kinds = self._row_counts().sum(2)
        uses = slice_uses(self._blocks.slices, self._heads, kinds.shape[1])
        partial, full = (kinds @ uses).tolist()
        return partial, full


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@contextmanager
def plainly() -> Iterator[None]:
    """Ordinary tensors, whatever mode or transform the caller is in: they are kept for others."""
    with (
        torch.inference_mode(False),
        _disable_current_modes(),
        torch._C._DisableFuncTorch(),
        torch.no_grad(),
    ):
        yield
