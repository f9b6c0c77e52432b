"""The fields of a BlockMask: checked when made, fixed after, its tables derived when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexattn.analysis.runs import Runs
from flexattn.errors import BlockMaskAttributeError, BlockMaskError
from flexattn.masks import recorded, validate
from flexattn.masks.mods import MaskMod, check_callable, noop_mask
from flexattn.masks.runs_check import columns_fit
from flexattn.masks.sources import Source, rowwise
from flexattn.masks.steps import without_full
from flexattn.masks.stored import Stored, Tables
from flexattn.masks.tables import Pair, cdiv

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_BLOCK = 128
KEPT = ("seq_lengths", "BLOCK_SIZE", "mask_mod", "dq_kv_order_spt", "_q_wanted", "_mod_alone")


class MaskFields(Stored):
    """What a BlockMask holds; see there."""

    mask_mod: MaskMod
    dq_kv_order_spt: bool | None
    # Whether mask_mod alone keeps exactly what list and mask_mod together keep: known of masks
    # that were made from it, and of what is made of those.
    _mod_alone: bool = False
    # PyTorch's write-order metadata; gradients here are repeatable without it.
    dq_write_order: None = None
    dq_write_order_full: None = None
    dq_kv_order: None = None

    def __init__(
        self,
        seq_lengths: tuple[int, int],
        kv_num_blocks: Tensor,
        kv_indices: Tensor,
        full_kv_num_blocks: Tensor | None = None,
        full_kv_indices: Tensor | None = None,
        q_num_blocks: Tensor | None = None,
        q_indices: Tensor | None = None,
        full_q_num_blocks: Tensor | None = None,
        full_q_indices: Tensor | None = None,
        BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK,
        mask_mod: MaskMod = noop_mask,
        *,
        dq_write_order: None = None,
        dq_write_order_full: None = None,
        dq_kv_order: bool | None = None,
        dq_kv_order_spt: bool | None = None,
    ) -> None:
        """As PyTorch's. The ``q_*`` tables say whether there are any; they are always derived."""
        order = (dq_write_order, dq_write_order_full)
        validate.all_none(order, ("dq_write_order", "dq_write_order_full"))
        if dq_kv_order is not None and not isinstance(dq_kv_order, bool):
            validate.all_none((dq_kv_order,), ("a tensor dq_kv_order",))
        for one, other, names in (
            (full_kv_num_blocks, full_kv_indices, "full_kv_num_blocks and full_kv_indices"),
            (q_num_blocks, q_indices, "q_num_blocks and q_indices"),
            (full_q_num_blocks, full_q_indices, "full_q_num_blocks and full_q_indices"),
        ):
            if (one is None) != (other is None):
                raise BlockMaskError(
                    f"one of {names} is missing.",
                    why="counts and columns make one list.",
                    fix="pass both, or neither.",
                )
        partial = validate.pair(kv_num_blocks, kv_indices, "kv")
        full = None
        if full_kv_num_blocks is not None:
            full = validate.pair(full_kv_num_blocks, full_kv_indices, "full_kv")
            partial, full = validate.same_frame(partial, full)
        check_callable(mask_mod, "BlockMask")
        spt = dq_kv_order if dq_kv_order_spt is None else dq_kv_order_spt
        self._fill(
            partial,
            full,
            seq_lengths=validate.lengths(seq_lengths),
            BLOCK_SIZE=validate.block_size(BLOCK_SIZE),
            mask_mod=mask_mod,
            dq_kv_order_spt=spt,
            _q_wanted=q_num_blocks is not None,
        )
        self.check()

    def _fill(self, partial: Pair, full: Pair | None, **fields: Any) -> None:
        self._store((*partial, *(full or ())), **fields)

    def _store(self, given: Source | Tables, **fields: Any) -> None:
        state = self.__dict__
        state["_given"] = given
        if isinstance(given, Runs):
            state["_tensors"] = recorded.as_tensors(given)
        state["_kernel"] = state["_at_hand"] = None
        state["_cache"] = {}
        state["dq_kv_order_spt"] = None
        state["_mod_alone"] = False
        state.update(fields)

    @classmethod
    def _make(cls, partial: Pair, full: Pair | None, **fields: Any) -> Self:
        """A mask of tables made here, which need no checks."""
        mask = object.__new__(cls)
        mask._fill(partial, full, **fields)
        return mask

    @classmethod
    def _of_runs(
        cls,
        runs: Source,
        *,
        frame: tuple[int, int],
        device: torch.device,
        separate_full: bool = True,
        **fields: Any,
    ) -> Self:
        """A mask of runs made here, which need no checks, for ``frame`` = (B, H).

        Args:
            runs: They stay on the CPU, whatever the device.
            device: Where tables are made; on ``meta`` they are made now, as nothing is read there.
            separate_full: Whether full blocks have a list of their own.
        """
        mask = object.__new__(cls)
        if device.type == "meta":
            counts = torch.empty((*runs.slices.shape, runs.rows), dtype=torch.int32, device=device)
            indices = counts.unsqueeze(-1).expand(-1, -1, -1, runs.cols)
            pair = counts.expand(*frame, -1), indices.expand(*frame, -1, -1)
            mask._fill(pair, pair if separate_full else None, **fields)
            return mask
        own = runs if separate_full else rowwise(without_full, runs)
        mask._store(own, _frame=frame, _place=device, _separate_full=separate_full, **fields)
        if device.type != "cpu":
            mask._have_at_hand()
        return mask

    def _with(self, partial: Pair, full: Pair | None, **fields: Any) -> Self:
        """This mask with other tables."""
        return self._make(partial, full, **self._kept() | fields)

    def _with_runs(self, runs: Source, frame: tuple[int, int], **fields: Any) -> Self:
        """This mask with other blocks: ``_of_runs``."""
        place: dict[str, Any] = {"device": self.device, "separate_full": self._has_full}
        return self._of_runs(runs, frame=frame, **place | self._kept() | fields)

    def _again(self, **fields: Any) -> Self:
        """This mask with the same blocks, and what was made of them."""
        mask = object.__new__(type(self))
        mask.__dict__.update(self.__dict__ | {"_cache": dict(self._cache)} | fields)
        return mask

    def _kept(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in KEPT}

    # Fields ---------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "mask_mod":
            check_callable(value, "BlockMask.mask_mod")
        elif name == "seq_lengths":
            value = validate.lengths(value)
            self._check_lengths(value)
        else:
            raise BlockMaskAttributeError(
                f"BlockMask.{name} cannot be assigned.",
                why="the other fields follow from the block lists, which kernels trust.",
                fix="make a new mask: create_block_mask(...) or BlockMask.from_kv_blocks(...).",
            )
        self.__dict__[name] = value
        self.__dict__["_mod_alone"] = False
        self.__dict__["_form"] = None

    def __delattr__(self, name: str) -> None:
        raise BlockMaskAttributeError(
            f"BlockMask.{name} cannot be deleted.",
            why="a mask needs all its fields.",
            fix="make a new mask instead.",
        )

    def check(self) -> None:
        """Raise BlockMaskError unless tables, lengths and block size fit together."""
        self._check_lengths(self.seq_lengths)

    def _check_lengths(self, lengths: tuple[int, int]) -> None:
        given, cols = self._given, cdiv(lengths[1], self.BLOCK_SIZE[1])
        validate.rows_fit(self._rows, lengths[0], self.BLOCK_SIZE[0])
        if isinstance(given, tuple):
            validate.values_fit(self._partial, self._full, cols)
        else:
            columns_fit(given, cols)

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, H, Q_LEN, KV_LEN)."""
        return (*self._heads, *self.seq_lengths)

    def numel(self) -> int:
        """Number of pairs, kept or not."""
        batch, heads, queries, keys = self.shape
        return batch * heads * queries * keys

    def sparsity(self) -> float:
        """Percentage of blocks that are not visited; 100 for a mask without elements."""
        batch, heads = self._heads
        total = batch * heads * self._rows * self._cols
        return 100 * (1 - sum(self._block_counts()) / total) if total else 100.0

    def as_tuple(self, flatten: bool = True) -> tuple[Any, ...]:
        """PyTorch's tuple of all fields; ``flatten`` spreads lengths and block size."""
        spread: Callable[[tuple[int, int]], tuple[Any, ...]] = (
            (lambda pair: pair) if flatten else (lambda pair: (pair,))
        )
        return (
            *spread(self.seq_lengths),
            *self._partial,
            *(self._full or (None, None)),
            self.q_num_blocks,
            self.q_indices,
            self.full_q_num_blocks,
            self.full_q_indices,
            self.dq_write_order,
            self.dq_write_order_full,
            self.dq_kv_order,
            self.dq_kv_order_spt,
            *spread(self.BLOCK_SIZE),
            self.mask_mod,
        )
