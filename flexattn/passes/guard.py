"""Make every access safe on every position, and say where an unsafe one reaches the result.

Generated kernels evaluate both sides of every ``torch.where``, and scores that the mask drops,
so each site not proved fine is rewritten to read a safe element, divide by 1 or shift by 0. A
second graph, the fault, is true where that changed the result: the site was bad, and no
``where``, ``&`` or ``|`` around it threw the value away.

======== ============================ ========================== =========================
site     left alone when              made safe                  bad when
======== ============================ ========================== =========================
index    INSIDE                       i < 0 -> i + size,         outside [-size, size)
         (WRAPS: only the first half) then outside -> 0
divisor  INSIDE                       0 -> 1; and -1 -> 1 where  0
                                      the quotient overflows
shift    INSIDE                       outside -> 0               outside [0, 64)
======== ============================ ========================== =========================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

from flexattn.ir.nodes import BOOL, I64, Apply, Const, Input, Load, Node, rebuild, walk
from flexattn.ir.ranges import FULL
from flexattn.ir.sites import DIVISIONS, GUARDED, IMPLIES, INSIDE, WRAPS, Proof, Site

_LOWEST = FULL[I64][0]


@dataclass(frozen=True)
class Guarded:
    """``root`` with every access safe, and where it is not what the user wrote (None: nowhere)."""

    root: Node
    fault: Node | None


def guard(root: Node, sites: Iterable[Site], proved: frozenset[Proof]) -> Guarded:
    """Guard the ``sites`` (of `ir.sites.find_sites`) below ``root``."""
    proofs: dict[int, str] = {}
    for strength in reversed(IMPLIES):
        proofs |= {number: proof for number, proof in proved if proof == strength}
    at: dict[Node, list[Site]] = {}
    for site in sites:
        at.setdefault(site.node, []).append(site)
    safe: dict[Node, Node] = {}
    fault: dict[Node, Node | None] = {}
    for node in walk(root):
        args = [safe[arg] for arg in node.args]
        bads: list[Node | None] = []
        for site in at.get(node, ()):
            proof = proofs.get(site.number)
            if proof == INSIDE:
                continue
            args[site.dim], bad = _make_safe(site, args, proof)
            bads.append(None if proof in (WRAPS, GUARDED) else bad)
        safe[node] = rebuild(node, tuple(args))
        fault[node] = _or(_reaching(node, safe, fault), *bads)
    return Guarded(safe[root], fault[root])


def _make_safe(site: Site, args: list[Node], proof: str | None) -> tuple[Node, Node]:
    operand = args[site.dim]
    if isinstance(site.node, Load):
        size = Input(f"size{site.node.capture}_{site.dim}", I64)
        return _safe_index(operand, size, wraps=proof == WRAPS)
    assert isinstance(site.node, Apply)
    if site.node.op in DIVISIONS:
        return _safe_divisor(args[0], operand)
    inside = _all(_bool("ge", operand, Const(0, I64)), _bool("lt", operand, Const(64, I64)))
    return _where(inside, operand, Const(0, I64)), _not(inside)


def _safe_index(index: Node, size: Node, *, wraps: bool) -> tuple[Node, Node]:
    zero = Const(0, I64)
    negative = _bool("lt", index, zero)
    index = _where(negative, Apply("add", (index, size), I64), index)
    if wraps:
        return index, Const(False, BOOL)
    inside = _all(_bool("ge", index, zero), _bool("lt", index, size))
    return _where(inside, index, zero), _not(inside)


def _safe_divisor(dividend: Node, divisor: Node) -> tuple[Node, Node]:
    # The lowest integer divided by -1 stops an x86 processor. Divided by 1 it gives what the
    # wrapped quotient (and the remainder 0) would be.
    zero = _bool("eq", divisor, Const(0, I64))
    lowest = _bool("eq", dividend, Const(_LOWEST, I64))
    stops = _all(lowest, _bool("eq", divisor, Const(-1, I64)))
    return _where(Apply("or", (zero, stops), BOOL), Const(1, I64), divisor), zero


def _reaching(
    node: Node, safe: Mapping[Node, Node], fault: Mapping[Node, Node | None]
) -> Node | None:
    """Where a fault of an argument reaches the value of ``node``."""
    faults = [fault[arg] for arg in node.args]
    if not any(faults) or not isinstance(node, Apply):
        return _or(*faults)
    match node.op:
        case "where":
            chosen = safe[node.args[0]]
            return _or(faults[0], _and(chosen, faults[1]), _and(_not(chosen), faults[2]))
        case "and" if node.dtype == BOOL:
            # A sound False on either side makes the other side's value irrelevant.
            a, b = (safe[arg] for arg in node.args)
            return _or(_and(b, faults[0]), _and(a, faults[1]), _and(faults[0], faults[1]))
        case "or" if node.dtype == BOOL:
            a, b = (_not(safe[arg]) for arg in node.args)
            return _or(_and(b, faults[0]), _and(a, faults[1]), _and(faults[0], faults[1]))
    return _or(*faults)


# Small constructors; None stands for "never" ----------------------------------------------------


def _bool(op: str, a: Node, b: Node) -> Node:
    return Apply(op, (a, b), BOOL)


def _not(a: Node) -> Node:
    return Apply("not", (a,), BOOL)


def _all(a: Node, b: Node) -> Node:
    return Apply("and", (a, b), BOOL)


def _where(condition: Node, a: Node, b: Node) -> Node:
    return Apply("where", (condition, a, b), I64)


def _and(a: Node | None, b: Node | None) -> Node | None:
    return None if a is None or b is None else _all(a, b)


def _or(*faults: Node | None) -> Node | None:
    known = list(dict.fromkeys(fault for fault in faults if fault is not None))
    return reduce(lambda a, b: Apply("or", (a, b), BOOL), known) if known else None
