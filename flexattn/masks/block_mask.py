"""BlockMask: which blocks of a score matrix attention visits, and the function that cuts them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexattn.errors import BlockMaskError
from flexattn.masks import algebra, pairs, resize, storage, validate
from flexattn.masks.closures import put_back, take_out
from flexattn.masks.fields import DEFAULT_BLOCK
from flexattn.masks.mods import MaskMod, noop_mask
from flexattn.masks.pickling import dump_mod, load_mod
from flexattn.masks.selection import parse
from flexattn.masks.slicing import cut
from flexattn.masks.tables import widen
from flexattn.masks.views import MaskViews

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask


class BlockMask(MaskViews):
    """A block-sparse attention mask with PyTorch's fields.

    A pair (q, kv) is attended to when its block is in the full list, or is in the partial
    list and ``mask_mod`` keeps the pair. Blocks in neither list are never visited.

    Nothing but ``mask_mod`` and ``seq_lengths`` can be assigned.

    Attributes:
        seq_lengths: (Q_LEN, KV_LEN).
        kv_num_blocks: int32 [B, H, rows]; partial blocks in each row. B and H may be 1.
        kv_indices: int32 [B, H, rows, width]; their columns come first, the rest is ignored.
        full_kv_num_blocks: The same for full blocks, or None if there is no such list.
        full_kv_indices: The same for full blocks, or None.
        BLOCK_SIZE: (queries, keys) of a block; the last row and column may reach beyond.
        mask_mod: ``mask_mod(b, h, q_idx, kv_idx) -> bool``.
    """

    @classmethod
    def from_kv_blocks(
        cls,
        kv_num_blocks: Tensor,
        kv_indices: Tensor,
        full_kv_num_blocks: Tensor | None = None,
        full_kv_indices: Tensor | None = None,
        BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK,
        mask_mod: MaskMod | None = None,
        seq_lengths: tuple[int, int] | None = None,
        compute_q_blocks: bool = True,
        *,
        dq_write_order: None = None,
        dq_write_order_full: None = None,
        dq_kv_order: bool | None = None,
    ) -> BlockMask:
        """A mask from block lists.

        Args:
            kv_num_blocks: int [B, H, rows], or without B, or without B and H.
            kv_indices: int [B, H, rows, width]. It may be narrower than the mask, if
                ``seq_lengths`` says how wide that is.
            full_kv_num_blocks: The same for full blocks.
            full_kv_indices: The same for full blocks; its width may differ.
            BLOCK_SIZE: (queries, keys) of a block, or one int for both.
            mask_mod: Decides inside partial blocks; None keeps all of them.
            seq_lengths: (Q_LEN, KV_LEN); by default rows and width times BLOCK_SIZE.
            compute_q_blocks: Whether the mask has ``q_*`` tables.
            dq_write_order: PyTorch's; only None.
            dq_write_order_full: PyTorch's; only None.
            dq_kv_order: PyTorch's; kept, and without effect.
        """
        size = validate.block_size(BLOCK_SIZE)
        if seq_lengths is None:
            partial = validate.pair(kv_num_blocks, kv_indices, "kv")
            seq_lengths = (
                partial[1].shape[-2] * size[0],
                partial[1].shape[-1] * size[1],
            )
        wanted = kv_num_blocks if compute_q_blocks else None
        return cls(
            seq_lengths,
            kv_num_blocks,
            kv_indices,
            full_kv_num_blocks,
            full_kv_indices,
            wanted,
            wanted,
            BLOCK_SIZE=size,
            mask_mod=noop_mask if mask_mod is None else mask_mod,
            dq_write_order=dq_write_order,
            dq_write_order_full=dq_write_order_full,
            dq_kv_order=dq_kv_order,
        )

    # Other masks of this one ------------------------------------------------------------------

    def __getitem__(self, index: Any) -> BlockMask:
        """The mask of some batches, heads, blocks of queries and blocks of keys.

        Each index is an int (kept as a dimension of 1, as in PyTorch), a slice, or integers in
        a list or tensor; several lists select every combination. ``seq_lengths`` and
        ``mask_mod`` are those of the part: query 0 of the result is its first query.
        PyTorch has no fourth index; ``...`` stands for what three indices lack.

        Raises:
            BlockMaskIndexError: An index is out of range, or there are more than four.
        """
        return cut(self, parse(index, (*self._heads, self._rows, self._cols)))

    def _adjust(self, new_q_len: int, new_kv_len: int) -> BlockMask:
        """This mask with other lengths: cropped to the upper left, or grown by its mask_mod."""
        return resize.resize(self, validate.lengths((new_q_len, new_kv_len)))

    def extend_kv(self, new_kv_len: int) -> BlockMask:
        """This mask with keys up to ``new_kv_len``, as a cache grows while decoding.

        ``mask_mod`` is asked about the new columns of blocks alone, and about the last one if
        it was not filled.
        """
        q_len, kv_len = self.seq_lengths
        new = validate.lengths((q_len, new_kv_len))
        if new[1] < kv_len:
            raise BlockMaskError(
                f"a mask for {kv_len} keys cannot be extended to {new[1]}.",
                why="extend_kv adds keys.",
                fix=f"crop it with mask._adjust({q_len}, {new[1]}).",
            )
        return self._adjust(*new)

    # Masks of several -------------------------------------------------------------------------

    def __and__(self, other: BlockMask) -> BlockMask:
        """What both masks keep. B and H are equal, or 1 in one of them.

        Raises:
            BlockMaskError: BLOCK_SIZE, lengths, devices, B or H do not fit together.
        """
        if not isinstance(other, BlockMask):
            return NotImplemented
        return algebra.combine(self, other, algebra.AND)

    def __or__(self, other: BlockMask) -> BlockMask:
        """What either mask keeps; as for ``&``."""
        if not isinstance(other, BlockMask):
            return NotImplemented
        return algebra.combine(self, other, algebra.OR)

    def __invert__(self) -> BlockMask:
        """What this mask does not keep."""
        return algebra.invert(self)

    @classmethod
    def cat(cls, masks: Sequence[BlockMask]) -> BlockMask:
        """The batches of ``masks`` one after another; a mask with B of 1 becomes one batch.

        Raises:
            BlockMaskError: There are none, or BLOCK_SIZE, lengths, devices or H do not fit.
        """
        return algebra.concatenate(masks)

    def equal(self, other: BlockMask) -> bool:
        """Whether both have one shape and BLOCK_SIZE and keep the same pairs.

        Listed blocks may differ (as partial or full), and so may the functions: pairs are
        evaluated where the lists and the functions do not settle it. (``==`` is identity.)
        """
        if not isinstance(other, BlockMask):
            raise BlockMaskError(
                f"a mask was compared with {type(other).__name__}.",
                why="pairs of two masks are compared.",
                fix="pass a BlockMask of flexattn; BlockMask.from_torch makes one of torch's.",
            )
        if self.shape != other.shape or self.BLOCK_SIZE != other.BLOCK_SIZE:
            return False
        if self.device != other.device:
            raise BlockMaskError(
                f"a mask on {self.device} was compared with one on {other.device}.",
                why="their pairs are evaluated together.",
                fix="move one of them: mask.to(device).",
            )
        return pairs.same_pairs(self, other)

    # Other places -----------------------------------------------------------------------------

    def save(self, file: storage.File) -> None:
        """Write this mask, with its mask_mod and what that captures, to a path or file."""
        storage.save(self, file)

    @classmethod
    def load(
        cls,
        file: storage.File,
        *,
        mask_mod: MaskMod | None = None,
        device: torch.device | str | None = None,
    ) -> BlockMask:
        """The mask that ``save`` wrote.

        Reading the stored mask_mod runs code of the file's author: do it with files you trust
        only. With ``mask_mod=`` that part is not read, and any file is safe.

        Args:
            file: A path, or a file open for reading bytes.
            mask_mod: Takes the place of the stored one.
            device: Where the mask shall lie; by default where it lay.

        Raises:
            BlockMaskError: The file holds no mask, or tables that do not fit together.
        """
        return storage.load(cls, file, mask_mod, device)

    def to(self, device: torch.device | str) -> BlockMask:
        """This mask on ``device``, with the tensors that mask_mod's closures hold."""
        device = validate.device(device)
        tensors, rest = take_out(self.mask_mod)
        moved = [tensor.to(device) for tensor in tensors]
        same = all(new is old for new, old in zip(moved, tensors))
        mod = self.mask_mod if same else put_back(rest, moved)
        given, place = self._given, torch.empty(0, device=device).device
        if isinstance(given, tuple):
            tables = tuple(table.to(place) for table in given)
            return self._with(tables[:2], tables[2:] or None, mask_mod=mod)  # type: ignore[arg-type]
        if place == self.device:
            return self._again() if same else self._again(mask_mod=mod, _form=None)
        return self._with_runs(self._blocks, self._heads, device=place, mask_mod=mod)

    @classmethod
    def from_torch(cls, mask: TorchBlockMask) -> BlockMask:
        """The same mask from PyTorch's; its write-order metadata is left behind."""
        if getattr(mask.mask_mod, "__name__", "") == "_sliced_mask_mod_error":
            raise BlockMaskError(
                "the PyTorch mask was sliced, and has lost its mask_mod.",
                why="PyTorch puts a function that raises in its place.",
                fix="set mask.mask_mod first, or slice after from_torch: that keeps it right.",
            )
        return cls(
            mask.seq_lengths,
            mask.kv_num_blocks,
            mask.kv_indices,
            mask.full_kv_num_blocks,
            mask.full_kv_indices,
            mask.q_num_blocks,
            mask.q_indices,
            BLOCK_SIZE=mask.BLOCK_SIZE,
            mask_mod=mask.mask_mod,
            dq_kv_order_spt=getattr(mask, "dq_kv_order_spt", None),
        )

    def to_torch(self) -> TorchBlockMask:
        """The same mask as PyTorch's class."""
        from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

        partial, full = widen(self._partial, self._cols), self._full
        full_counts, full_indices = (None, None) if full is None else widen(full, self._cols)
        return TorchBlockMask.from_kv_blocks(
            *partial,
            full_counts,
            full_indices,
            BLOCK_SIZE=self.BLOCK_SIZE,
            mask_mod=self.mask_mod,
            seq_lengths=self.seq_lengths,
            compute_q_blocks=self._q_wanted,
        )

    # Copies -----------------------------------------------------------------------------------

    def __copy__(self) -> BlockMask:
        return self._again()

    def __deepcopy__(self, memo: dict[int, Any]) -> BlockMask:
        given, mod = self._given, copy.deepcopy(self.mask_mod, memo)
        if isinstance(given, tuple):
            given = copy.deepcopy(given, memo)
            return self._with(given[:2], given[2:] or None, mask_mod=mod)  # type: ignore[arg-type]
        return self._with_runs(self._blocks, self._heads, mask_mod=mod)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("mask_mod", *storage.MADE)}
        if not isinstance(self._given, tuple):
            state["_given"] = self._runs
        return _load, (type(self), state, dump_mod(self.mask_mod))


def _load(cls: type[BlockMask], state: dict[str, Any], mod: Any) -> BlockMask:
    mask = object.__new__(cls)
    mask._store(state.pop("_given"), **state, mask_mod=load_mod(mod))
    return mask
