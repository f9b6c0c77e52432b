"""Closed forms of traced masks: solved once for a structure, bound to the values of each call.

All whole numbers of the mask are inputs of its form, whether a kernel has them built in or not, so
other windows, offsets and ids cost no new form.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flexattn.analysis.closed.bound import BoundForm, bind_form
from flexattn.analysis.closed.conditions import without_conditions
from flexattn.analysis.closed.pieces import ClosedForm
from flexattn.analysis.closed.rows import Rows, rows_of
from flexattn.analysis.closed.solve import solve
from flexattn.ir.nodes import I64, Input, Load, Node, walk
from flexattn.ir.program import CaptureType
from flexattn.op.programs import STORAGE, Bound
from flexattn.runtime import counters
from flexattn.trace import Traced

SOLVED_LIMIT = 1024  # forms kept; the oldest goes first

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Solved:
    """A mask with its forms.

    Attributes:
        root: The mask, whole numbers as inputs ``n{i}``.
        positions: The position of ``n{i}`` among the numbers that the trace met.
        captures: Types of its captures.
        read: Which of b and h it reads, and which captures.
        forms: By the index they are solved for; none where no rule finds one.
    """

    root: Node
    positions: tuple[int, ...]
    captures: tuple[CaptureType, ...]
    read: frozenset[str]
    loads: frozenset[int]
    forms: dict[str, tuple[ClosedForm, ...]]

    def of(self, solved: str) -> tuple[ClosedForm, ...]:
        """The form solved for ``kv_idx`` or ``q_idx``, then, if it has conditions, without them."""
        if solved not in self.forms:
            numbers = len(self.positions)
            form = solve(self.root, self.captures, numbers, solved)
            plain = form and without_conditions(form, self.captures, numbers)
            self.forms[solved] = tuple(dict.fromkeys(x for x in (form, plain) if x is not None))
        return self.forms[solved]


_lock = threading.Lock()
_positions: dict[Hashable, tuple[int, ...]] = {}
_solved: dict[Hashable, Solved] = {}


@counters.on_clear
def _forget() -> None:
    with _lock:
        _positions.clear()
        _solved.clear()


def solved_of(traced: Traced) -> Solved:
    """The forms of a traced mask, kept by its structure."""
    positions = _positions.get(traced.structure)
    if positions is None:
        baked = traced.must_bake
        positions = tuple(
            at for at, value in enumerate(traced.numbers) if type(value) is int and at not in baked
        )
    rest = (
        tuple(repr(value) for at, value in enumerate(traced.numbers) if at not in positions)
        if len(positions) < len(traced.numbers)
        else ()
    )
    key = traced.structure, rest
    found = _solved.get(key)
    if found is None:
        with _lock:
            if len(_solved) >= SOLVED_LIMIT:
                _solved.pop(next(iter(_solved)))
                _positions.clear()
            _positions[traced.structure] = positions
            found = _solved[key] = _solve(traced, positions)
    return found


def _solve(traced: Traced, positions: tuple[int, ...]) -> Solved:
    root = traced.graph({at: Input(f"n{i}", I64) for i, at in enumerate(positions)})
    types = tuple(CaptureType(STORAGE[t.dtype], t.ndim) for t in traced.captures)
    nodes = list(walk(root))
    read = frozenset(node.name for node in nodes if isinstance(node, Input))
    loads = frozenset(node.capture for node in nodes if isinstance(node, Load))
    return Solved(root, positions, types, read, loads, {})


def bind_solved(
    traced: Traced, shape: Shape, solved: str = "kv_idx", *, shown: bool = False
) -> BoundForm | None:
    """The form of a traced mask with the values of a call; None if it has none that fits them.

    Args:
        shape: (B, H, Q_LEN, KV_LEN).
        solved: ``kv_idx`` or ``q_idx``.
        shown: Whether people read it: conditions stay what they are.
    """
    found = solved_of(traced)
    forms = found.of(solved)
    if not forms or not all(type(size) is int for size in shape):
        return None
    if any(type(traced.numbers[at]) is not int for at in found.positions):
        return None  # symbolic, under a compiler
    if not all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in traced.captures):
        return None
    numbers = [traced.numbers[at] for at in found.positions]
    arrays = [
        _array(tensor) if i in found.loads else np.zeros(0)
        for i, tensor in enumerate(traced.captures)
    ]
    narrowed = tuple(
        size if name in found.read else min(size, 1) for name, size in zip("bh", shape)
    )
    tried = forms if shown else forms[::-1]
    bound = (bind_form(form, (*narrowed, *shape[2:]), numbers, arrays) for form in tried)
    return next((found for found in bound if found is not None), None)


def closed_rows(
    bound: Bound, shape: Shape, block: tuple[int, int]
) -> tuple[Rows, BoundForm] | None:
    """The runs of a mask by its closed form; None if it has none that gives them."""
    if bound.mask is None or 0 in shape:
        return None
    form = bind_solved(bound.mask, shape)
    if form is None:
        return None
    rows = rows_of(form, block)
    return None if rows is None else (rows, form)


def _array(tensor: Tensor) -> np.ndarray:
    """A captured tensor as an array; memory is shared where it lies on the CPU."""
    tensor = tensor.detach()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.cpu().numpy()
