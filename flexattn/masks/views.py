"""What can be seen of a BlockMask: figures and pictures."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from flexattn.analysis.cost import Cost
from flexattn.analysis.runs import Array
from flexattn.errors import BlockMaskError
from flexattn.masks import figures, grids, pairs, validate
from flexattn.masks.fields import MaskFields
from flexattn.masks.picture import coarsen, draw
from flexattn.masks.storage import TABLES
from flexattn.masks.svg import draw_svg


class MaskViews(MaskFields):
    """Figures and pictures of the fields."""

    # Figures ----------------------------------------------------------------------------------

    def sparsity(self, exact: bool = False) -> float:
        """Percentage of blocks that are not visited; 100 for a mask without elements.

        With ``exact``, of pairs that are not kept: told by the closed form if the mask has one
        for kernels, else partial blocks are evaluated, in pieces of bounded memory.
        """
        if not exact or not self.numel():
            return super().sparsity()
        known: float | None = None if self._form is None else self._form.sparsity()
        if known is not None:
            return known
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
        classes = grids.dense(grids.grid_of(self), "to_dense()", self.device)
        return (classes != 0).int().expand(*self._heads, -1, -1)

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """A picture of each head, at most ``limit`` of them.

        ``██`` is a full block, ``░░`` one that mask_mod cuts (or several that differ), and
        blank one that is not visited. Of a mask with more blocks than ``grid_size`` (rows,
        columns) several share a sign; -1 shows every block.
        """
        if grid_size == -1:
            grid_size = (max(self._rows, 1), max(self._cols, 1))
        heads = self._pictures(validate.block_size(grid_size, "grid_size"), limit)
        pictures = [f"{title}\n{draw(cells)}" for title, cells in heads]
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
        grid = validate.block_size(grid_size, "grid_size")
        label = f"BlockMask of shape {self.shape}"
        return draw_svg(self._pictures(grid, limit), cell, label)

    def _repr_html_(self) -> str:
        """What notebooks show."""
        if not self._readable:
            import html  # the table of entities is large

            return f"<pre>{html.escape(repr(self))}</pre>"
        text = f"BlockMask, shape {self.shape}, block {self.BLOCK_SIZE}"
        return f"<div>{text}, {self.sparsity():.2f}% of blocks skipped</div>{self.to_svg()}"

    def _pictures(self, grid: tuple[int, int], limit: int) -> list[tuple[str, Array]]:
        """A title and the cells (uint8 [lines, columns]) of each head, at most ``limit``."""
        if type(limit) is not int or limit < 0:
            raise BlockMaskError(
                f"limit is {limit!r}.", why="it counts heads.", fix="pass 0 or more."
            )
        batch, heads = self._heads
        places = list(itertools.islice(itertools.product(range(batch), range(heads)), limit))
        blocks = self._blocks
        slices = np.broadcast_to(blocks.slices, (batch, heads))
        numbers = [int(slices[place]) for place in places]
        cells = coarsen(blocks, grid, sorted(set(numbers))) if blocks.rows else {}
        nothing = np.zeros((0, 0), np.uint8)
        return [(f"({b}, {h})", cells.get(n, nothing)) for (b, h), n in zip(places, numbers)]

    def __str__(self) -> str:
        picture = self.to_string().rstrip("\n")
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%,\n{picture}\n)"

    def __repr__(self) -> str:
        shapes = self._shapes()
        lines = [f"{name}={shape}" for name, shape in zip(TABLES, shapes)]
        name = getattr(self.mask_mod, "__name__", None) or repr(self.mask_mod)
        lines += [f"BLOCK_SIZE={self.BLOCK_SIZE}", f"shape={self.shape}"]
        if self._readable:
            lines.append(f"sparsity={self.sparsity():.2f}%")
        lines.append(f"mask_mod={name}")
        return "BlockMask(\n    " + ",\n    ".join(lines) + ",\n)"

    def _shapes(self) -> list[tuple[int, ...] | None]:
        """Of the four tables by rows, made or not; None for what there is not."""
        given = self._given
        if isinstance(given, tuple):
            found = [None if t is None else tuple(t.shape) for t in given]
            return found + [None] * (4 - len(found))
        counts = (*self._heads, self._rows)
        pair: list[tuple[int, ...] | None] = [counts, (*counts, self._cols)]
        return pair + (pair if self._has_full else [None, None])
