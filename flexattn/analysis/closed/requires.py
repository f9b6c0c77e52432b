"""What every closed form relies on: indices inside tables, divisors above 0, small entries."""

from __future__ import annotations

from collections.abc import Sequence

from flexattn.analysis.closed.pieces import Inside, Positive, Requirement, Small
from flexattn.ir.nodes import INTS, Apply, Const, Input, Load, Node, walk
from flexattn.ir.program import CaptureType
from flexattn.ir.sites import DIVISIONS


def common_requirements(root: Node, captures: Sequence[CaptureType]) -> list[Requirement] | None:
    """The requirements under which ``root`` has a value everywhere; None where none suffice."""
    found: dict[Requirement, None] = {}
    for node in walk(root):
        match node:
            case Load(capture, indices):
                for dim, index in enumerate(indices):
                    if {"q_idx", "kv_idx"} <= _names(index):
                        return None  # its range follows from no single index
                    found.setdefault(Inside(capture, dim, index))
                if captures[capture].dtype == "i64":
                    found.setdefault(Small(capture))
            case Apply(op, (_, by)) if op in DIVISIONS and by.dtype in INTS:
                if isinstance(by, Const) and by.value > 0:
                    continue
                if any(isinstance(n, Load) for n in walk(by)) or _names(by) & _INDICES:
                    return None
                found.setdefault(Positive(by))
            case Apply("shl" | "shr", (_, count)) if not (
                isinstance(count, Const) and 0 <= count.value < 64
            ):
                return None
    return list(found)


_INDICES = frozenset({"b", "h", "q_idx", "kv_idx"})


def _names(node: Node) -> set[str]:
    return {n.name for n in walk(node) if isinstance(n, Input)}
