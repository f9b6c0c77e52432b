"""BlockMask: which blocks of a score matrix attention visits, and the function that cuts them."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexattn.errors import BlockMaskError
from flexattn.masks import resize, validate
from flexattn.masks.closures import put_back, take_out
from flexattn.masks.fields import DEFAULT_BLOCK, MaskFields
from flexattn.masks.mods import MaskMod, noop_mask
from flexattn.masks.pickling import dump_mod, load_mod
from flexattn.masks.picture import draw
from flexattn.masks.selection import parse
from flexattn.masks.slicing import cut
from flexattn.masks.tables import Pair, to_classes, widen

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask


class BlockMask(MaskFields):
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
        """The mask of some batches, heads and blocks of queries.

        Each index is an int (kept as a dimension of 1, as in PyTorch), a slice, or integers in
        a list or tensor; several lists select every combination. ``seq_lengths`` and
        ``mask_mod`` are those of the part: query 0 of the result is its first query.

        Raises:
            BlockMaskIndexError: An index is out of range, or there are more than three.
        """
        sizes = (*self.kv_num_blocks.shape[:2], self.kv_num_blocks.shape[2])
        partial, full, mod, q_len = cut(
            self._partial,
            self._full,
            parse(index, sizes),
            cols=self._cols,
            q_len=self.seq_lengths[0],
            block=self.BLOCK_SIZE[0],
            mask_mod=self.mask_mod,
        )
        return self._with(partial, full, mask_mod=mod, seq_lengths=(q_len, self.seq_lengths[1]))

    def _adjust(self, new_q_len: int, new_kv_len: int) -> BlockMask:
        """This mask with other lengths: cropped to the upper left, or grown by its mask_mod."""
        new = validate.lengths((new_q_len, new_kv_len))
        partial, full = resize.resize(self, new)
        return self._with(partial, full, seq_lengths=new)

    def to(self, device: torch.device | str) -> BlockMask:
        """This mask on ``device``, with the tensors that mask_mod's closures hold."""
        tensors, rest = take_out(self.mask_mod)
        moved = [tensor.to(device) for tensor in tensors]
        same = all(new is old for new, old in zip(moved, tensors))
        full = self._full
        return self._with(
            (self.kv_num_blocks.to(device), self.kv_indices.to(device)),
            None if full is None else (full[0].to(device), full[1].to(device)),
            mask_mod=self.mask_mod if same else put_back(rest, moved),
        )

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
        return self._with(self._partial, self._full)

    def __deepcopy__(self, memo: dict[int, Any]) -> BlockMask:
        partial, full, mod = copy.deepcopy((self._partial, self._full, self.mask_mod), memo)
        return self._with(partial, full, mask_mod=mod)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("mask_mod", "_q_cache")}
        return _load, (type(self), state, dump_mod(self.mask_mod))

    # To look at -------------------------------------------------------------------------------

    def to_dense(self) -> Tensor:
        """1 for each listed block, else 0: int32 [B, H, rows, cols]."""
        return (to_classes(self._partial, self._full, self._cols) != 0).int()

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """A picture of each head, at most ``limit`` of them.

        ``██`` is a full block, ``░░`` one that mask_mod cuts (or several that differ), and
        blank one that is not visited. Of a mask with more blocks than ``grid_size`` (rows,
        columns) several share a sign; -1 shows every block.
        """
        rows, cols = self.kv_num_blocks.shape[-1], self._cols
        if grid_size == -1:
            grid_size = (max(rows, 1), max(cols, 1))
        grid = validate.block_size(grid_size)
        batch, heads = self.shape[:2]
        pictures = []
        for b, h in itertools.islice(itertools.product(range(batch), range(heads)), limit):
            tables = [_head(table, b, h) for table in (self._partial, self._full)]
            classes = to_classes(tables[0], tables[1], cols)[0, 0]
            pictures.append(f"({b}, {h})\n{draw(classes, grid)}")
        if batch * heads > limit:
            more = batch * heads - limit
            pictures.append(f"... and {more} more: to_string(limit=N), or mask[b, h].")
        return "\n".join(pictures)

    def __str__(self) -> str:
        picture = self.to_string().rstrip("\n")
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%,\n{picture}\n)"

    def __repr__(self) -> str:
        tables = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
        shapes = [(name, self.__dict__[name]) for name in tables]
        lines = [f"{name}={None if t is None else tuple(t.shape)}" for name, t in shapes]
        name = getattr(self.mask_mod, "__name__", None) or repr(self.mask_mod)
        lines += [f"BLOCK_SIZE={self.BLOCK_SIZE}", f"shape={self.shape}"]
        if validate.has_values(self.kv_num_blocks):
            lines.append(f"sparsity={self.sparsity():.2f}%")
        lines.append(f"mask_mod={name}")
        return "BlockMask(\n    " + ",\n    ".join(lines) + ",\n)"


def _head(pair: Pair | None, b: int, h: int) -> Any:
    return None if pair is None else tuple(t[b : b + 1, h : h + 1] for t in pair)


def _load(cls: type[BlockMask], state: dict[str, Any], mod: Any) -> BlockMask:
    mask = object.__new__(cls)
    mask.__dict__.update(state, mask_mod=load_mod(mod), _q_cache={})
    return mask
