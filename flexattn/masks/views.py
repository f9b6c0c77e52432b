"""What can be seen of a BlockMask: figures and pictures."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from flexattn.analysis.cost import Cost
from flexattn.masks import figures, pairs, validate
from flexattn.masks.fields import MaskFields
from flexattn.masks.picture import draw
from flexattn.masks.svg import draw_svg
from flexattn.masks.tables import Pair, to_classes


class MaskViews(MaskFields):
    """Figures and pictures of the fields."""

    # Figures ----------------------------------------------------------------------------------

    def sparsity(self, exact: bool = False) -> float:
        """Percentage of blocks that are not visited; 100 for a mask without elements.

        With ``exact``, of pairs that are not kept: partial blocks are evaluated, in pieces of
        bounded memory.
        """
        if not exact or not self.numel():
            return super().sparsity()
        return 100 * (1 - pairs.count_kept(self) / self.numel())

    def cost(
        self,
        D: int,
        Dv: int | None = None,
        *,
        B: int | None = None,
        Hq: int | None = None,
        Hkv: int | None = None,
        dtype: torch.dtype = torch.float32,
        backward: bool = False,
    ) -> Cost:
        """Floating-point operations and bytes of one attention call with this mask.

        Partial blocks are computed whole. Counted as in ``flexattn/analysis/cost.py``: matrix
        products, and every tensor moved once.

        Args:
            D: Head dimension of query and key.
            Dv: Head dimension of value; D by default.
            B: Batches of the call; by default those of the mask.
            Hq: Query heads; by default those of the mask.
            Hkv: Key heads; Hq by default.
            dtype: Of query, key, value and output.
            backward: The backward pass instead of the forward pass.
        """
        return figures.cost(self, (B, Hq, Hkv), (D, D if Dv is None else Dv), dtype, backward)

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
        if grid_size == -1:
            grid_size = (max(self.kv_num_blocks.shape[-1], 1), max(self._cols, 1))
        grid = validate.block_size(grid_size)
        pictures = [f"{title}\n{draw(classes, grid)}" for title, classes in self._heads(limit)]
        if (more := self.shape[0] * self.shape[1] - limit) > 0:
            pictures.append(f"... and {more} more: to_string(limit=N), or mask[b, h].")
        return "\n".join(pictures)

    def to_svg(
        self, grid_size: int | tuple[int, int] = (48, 48), limit: int = 4, cell: int = 6
    ) -> str:
        """The same picture as SVG text, for pages and files; it follows light and dark.

        Args:
            grid_size: Most (rows, columns) of cells; more blocks share cells.
            limit: Most heads to draw.
            cell: Pixels of a cell's side.
        """
        grid = validate.block_size(grid_size)
        label = f"BlockMask of shape {self.shape}"
        return draw_svg(self._heads(limit), grid, cell, label)

    def _repr_html_(self) -> str:
        """What notebooks show."""
        if not validate.has_values(self.kv_num_blocks):
            import html  # the table of entities is large

            return f"<pre>{html.escape(repr(self))}</pre>"
        text = f"BlockMask, shape {self.shape}, block {self.BLOCK_SIZE}"
        return f"<div>{text}, {self.sparsity():.2f}% of blocks skipped</div>{self.to_svg()}"

    def _heads(self, limit: int) -> list[tuple[str, Tensor]]:
        """A title and the classes (uint8 [rows, cols]) of each head, at most ``limit``."""
        found = []
        batch, heads = self.shape[:2]
        for b, h in itertools.islice(itertools.product(range(batch), range(heads)), limit):
            partial, full = (_head(table, b, h) for table in (self._partial, self._full))
            found.append((f"({b}, {h})", to_classes(partial, full, self._cols)[0, 0]))
        return found

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
