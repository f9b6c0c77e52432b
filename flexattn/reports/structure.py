"""What is known of a mask's blocks: its closed form as a formula, and what decided its tiles."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flexattn.analysis.closed.bound import BoundForm
from flexattn.analysis.formulas.count import count_formula, flops_formula
from flexattn.analysis.formulas.masks import form_latex, form_notes, form_text
from flexattn.analysis.formulas.printers import as_text
from flexattn.analysis.tiles.census import Census
from flexattn.op import symbolic
from flexattn.op.closed import bind_solved, solved_of
from flexattn.op.structure import structure
from flexattn.trace import Traced

STAGES = {
    "form": "closed form",
    "proof": "proof",
    "witness": "witness pairs",
    "segments": "pieces of tiles",
    "evaluation": "evaluation",
}


@dataclass(frozen=True)
class Structure:
    """The blocks of one mask, explained.

    Attributes:
        rows: Keys of each query, as text; None without a closed form.
        columns: Queries of each key, as text.
        latex: ``rows`` as LaTeX.
        notes: What the form relies on, a sentence each.
        count: How many pairs are kept, as a formula; None where none is found.
        flops: Floating-point operations of one head's forward with head dim D, as a formula.
        kernels: Whether kernels can run on the form, with no block list.
        tiles: Tiles decided, by stage (`STAGES`) and side: how many tiles, one way, at once.
        rules: Tiles that were decided while a rule decided a condition on them.
    """

    rows: str | None = None
    columns: str | None = None
    latex: str | None = None
    notes: tuple[str, ...] = ()
    count: str | None = None
    flops: str | None = None
    kernels: bool = False
    tiles: Counter[tuple[int, str]] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    def form_text(self) -> str:
        """The section on the closed form."""
        if self.rows is None:
            return "none found: blocks are proved tile by tile."
        lines = [f"keys of a query    {self.rows}"]
        if self.columns is not None:
            lines.append(f"queries of a key   {self.columns}")
        lines.append(f"LaTeX              {self.latex}")
        lines += [f"where              {note}" for note in self.notes]
        if self.count is not None:
            lines += [f"pairs kept         {self.count}", f"FLOPs, forward     {self.flops}"]
        use = "can run on it, without block lists" if self.kernels else "read block lists"
        return "\n".join([*lines, f"kernels            {use}"])

    def tiles_text(self) -> str:
        """The section on what decided the tiles."""
        total = sum(self.tiles.values())
        lines = [f"{total:,} tiles"]
        for (side, stage), count in sorted((+self.tiles).items(), reverse=True):
            at_once = "" if side == 1 else f", {side} x {side} at once"
            share = 100 * count / max(1, total)
            lines.append(f"{count:>12,}  {share:5.1f}%  by {STAGES[stage]}{at_once}")
        for rule, count in (+self.rules).most_common():
            lines.append(f"{count:>12,}  rule: {rule}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything under plain names, for JSON."""
        tiles = [
            {"stage": stage, "side": side, "tiles": count}
            for (side, stage), count in (+self.tiles).items()
        ]
        fields = ("rows", "columns", "latex", "notes", "count", "flops", "kernels")
        return {name: getattr(self, name) for name in fields} | {
            "tiles": tiles,
            "rules": dict(+self.rules),
        }


def structure_of(
    mask_mod: Callable[..., Any], shape: tuple[int, int, int, int], block: tuple[int, int]
) -> Structure:
    """How the blocks of a mask are found, for ``shape`` = (B, H, Q_LEN, KV_LEN)."""
    census = Census()
    bound = symbolic.bind_mask(mask_mod)
    traced = bound.mask
    assert traced is not None
    runs, form = structure(bound, shape, block, torch.device("cpu"), None, census)
    del runs
    rows = bind_solved(traced, shape, "kv_idx", shown=True)
    if rows is None:
        return Structure(tiles=census.tiles, rules=census.rules)
    names = capture_names(mask_mod, traced)
    columns = bind_solved(traced, shape, "q_idx", shown=True)
    numbers = _numbers(traced, rows)
    count = count_formula(rows.form, numbers, lengths=shape[2:])
    return Structure(
        rows=form_text(rows.form, numbers, names),
        columns=None if columns is None else form_text(columns.form, numbers, names),
        latex=form_latex(rows.form, numbers, names),
        notes=tuple(form_notes(rows.form, numbers, names)),
        count=None if count is None else count.text(),
        flops=None if count is None else as_text(flops_formula(count), arranged=False),
        kernels=form is not None and form.kernel_ranges is not None,
        tiles=census.tiles,
        rules=census.rules,
    )


def _numbers(traced: Traced, bound: BoundForm) -> dict[str, int | float]:
    """The values that the user wrote; bases of start tables stay names."""
    own = len(solved_of(traced).positions)
    return {f"n{i}": bound.numbers[f"n{i}"] for i in range(own)}


def capture_names(mask_mod: Callable[..., Any], traced: Traced) -> list[str]:
    """What the mod's closure calls its captured tensors; ``c_0`` and so on where it does not."""
    try:
        known = inspect.getclosurevars(inspect.unwrap(mask_mod))
    except (TypeError, ValueError):
        return [f"c_{i}" for i in range(len(traced.captures))]
    named = {**known.globals, **known.nonlocals}
    names = {id(value): name for name, value in named.items() if isinstance(value, Tensor)}
    return [names.get(id(tensor), f"c_{i}") for i, tensor in enumerate(traced.captures)]
