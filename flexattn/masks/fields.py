"""The fields of a BlockMask: checked when made, fixed after, ``q_*`` tables derived when asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexattn.errors import BlockMaskAttributeError, BlockMaskError
from flexattn.masks import validate
from flexattn.masks.mods import MaskMod, check_callable, noop_mask
from flexattn.masks.tables import Pair, cdiv, transpose

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_BLOCK = 128
KEPT = ("seq_lengths", "BLOCK_SIZE", "mask_mod", "dq_kv_order_spt", "_q_wanted", "_mod_alone")


class MaskFields:
    """What a BlockMask holds; see there."""

    seq_lengths: tuple[int, int]
    kv_num_blocks: Tensor
    kv_indices: Tensor
    full_kv_num_blocks: Tensor | None
    full_kv_indices: Tensor | None
    BLOCK_SIZE: tuple[int, int]
    mask_mod: MaskMod
    dq_kv_order_spt: bool | None
    _q_wanted: bool
    # Whether mask_mod alone keeps exactly what list and mask_mod together keep: known of masks
    # that were made from it, and of what is made of those.
    _mod_alone: bool = False
    _q_cache: dict[tuple[str, int], Pair]
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
        state = self.__dict__
        state["kv_num_blocks"], state["kv_indices"] = partial
        state["full_kv_num_blocks"], state["full_kv_indices"] = full or (None, None)
        state["_q_cache"] = {}
        state["dq_kv_order_spt"] = None
        state["_mod_alone"] = False
        state.update(fields)

    @classmethod
    def _make(cls, partial: Pair, full: Pair | None, **fields: Any) -> Self:
        """A mask of tables made here, which need no checks."""
        mask = object.__new__(cls)
        mask._fill(partial, full, **fields)
        return mask

    def _with(self, partial: Pair, full: Pair | None, **fields: Any) -> Self:
        """This mask with other tables."""
        return self._make(partial, full, **{name: self.__dict__[name] for name in KEPT} | fields)

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
        validate.rows_fit(self.kv_num_blocks.shape[-1], lengths[0], self.BLOCK_SIZE[0])
        validate.values_fit(self._partial, self._full, cdiv(lengths[1], self.BLOCK_SIZE[1]))

    @property
    def _partial(self) -> Pair:
        return self.kv_num_blocks, self.kv_indices

    @property
    def _full(self) -> Pair | None:
        if self.full_kv_num_blocks is None or self.full_kv_indices is None:
            return None
        return self.full_kv_num_blocks, self.full_kv_indices

    @property
    def _cols(self) -> int:
        return cdiv(self.seq_lengths[1], self.BLOCK_SIZE[1])

    def _q_pair(self, kind: str) -> Pair | tuple[None, None]:
        tables = self._partial if kind == "partial" else self._full
        if tables is None or not self._q_wanted:
            return None, None
        key = (kind, self._cols)
        if key not in self._q_cache:
            self._q_cache[key] = transpose(tables, self._cols)
        return self._q_cache[key]

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
        """Where the tables lie."""
        return self.kv_indices.device

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, H, Q_LEN, KV_LEN)."""
        return (*self.kv_indices.shape[:2], *self.seq_lengths)

    def numel(self) -> int:
        """Number of pairs, kept or not."""
        batch, heads, queries, keys = self.shape
        return batch * heads * queries * keys

    def sparsity(self) -> float:
        """Percentage of blocks that are not visited; 100 for a mask without elements."""
        total = self.kv_num_blocks.numel() * self._cols
        if not total:
            return 100.0
        listed = int(self.kv_num_blocks.sum())
        if self.full_kv_num_blocks is not None:
            listed += int(self.full_kv_num_blocks.sum())
        return 100 * (1 - listed / total)

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
