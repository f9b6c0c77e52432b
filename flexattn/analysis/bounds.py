"""Prove that gathers stay inside their captures, divisors are not 0 and shifts are legal.

What is proved needs no guard in the kernel. The proofs hold for the lengths, sizes and numbers
of one call; a caller keeps the answer for the next call of the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexattn.analysis.intervals import Scope
from flexattn.ir.nodes import BOOL, I64, Apply, Load, Node, walk
from flexattn.ir.program import Program
from flexattn.ir.ranges import FULL, Range
from flexattn.ir.sites import DIVISIONS, GUARDED, IMPLIES, INSIDE, WRAPS, Proof, Site, find_sites

_STEPS = 400  # visits of nodes under conditions before giving up: about half a millisecond
_LOWEST = FULL[I64][0]


def prove(
    program: Program,
    lengths: tuple[int, int, int, int],
    sizes: Sequence[Sequence[int]],
    numbers: Sequence[int | float] = (),
) -> frozenset[Proof]:
    """What can be proved of the sites of ``program`` in one call.

    Args:
        program: The mods.
        lengths: (B, Hq, M, N): the indices run below them.
        sizes: The shape of each capture.
        numbers: The value of each lifted number.

    Returns:
        Every proof that holds, the weaker ones too, so that what two calls have in common is
        the intersection.
    """
    sites = find_sites(program)
    if not sites:
        return frozenset()
    scope = Scope(call_ranges(lengths, sizes, numbers), program.captures)
    proofs: dict[int, str] = {}
    for site in sites:
        proof = _everywhere(site, scope, sizes)
        if proof is not None:
            proofs[site.number] = proof
    open_sites = [site for site in sites if site.number not in proofs]
    if open_sites:
        search = _Search(program, open_sites, scope, sizes)
        proofs |= dict.fromkeys(search.guarded(), GUARDED)
    return frozenset((n, weaker) for n, proof in proofs.items() for weaker in IMPLIES[proof])


def call_ranges(
    lengths: tuple[int, int, int, int],
    sizes: Sequence[Sequence[int]],
    numbers: Sequence[int | float] = (),
) -> dict[str, Range]:
    """The range of every integer input in one call."""
    names = ("b", "h", "q_idx", "kv_idx")
    inputs = {name: (0, max(length - 1, 0)) for name, length in zip(names, lengths, strict=True)}
    for capture, shape in enumerate(sizes):
        for dim, size in enumerate(shape):
            inputs[f"size{capture}_{dim}"] = (size, size)
    for number, value in enumerate(numbers):
        if isinstance(value, int):
            inputs[f"n{number}"] = (value, value)
    return inputs


def _everywhere(site: Site, scope: Scope, sizes: Sequence[Sequence[int]]) -> str | None:
    """The proof that ``site`` is fine at every position, if there is one."""
    found = scope.range(site.operand)
    if found is None or not _fine(site, found, sizes):
        return None
    if isinstance(site.node, Load):
        return INSIDE if found[0] >= 0 else WRAPS
    assert isinstance(site.node, Apply)
    if site.node.op in DIVISIONS and found[0] <= -1 <= found[1]:
        dividend = scope.range(site.node.args[0])
        return INSIDE if dividend is not None and dividend[0] > _LOWEST else None
    return INSIDE


def _fine(site: Site, found: Range, sizes: Sequence[Sequence[int]]) -> bool:
    """Whether no value of the site's operand in ``found`` is an error."""
    low, high = found
    match site.node:
        case Load(capture):
            size = sizes[capture][site.dim]
            return -size <= low and high < size
        case Apply(op) if op in DIVISIONS:
            return low > 0 or high < 0
    return low >= 0 and high < 64


class _Search:
    """Follows every way from a root to the open sites, collecting the conditions on it.

    The same rules as in `passes.guard`: a ``where`` chooses, and either side of ``&`` and ``|``
    guards the other. Only comparisons with no open site below them are believed.
    """

    def __init__(
        self,
        program: Program,
        sites: Sequence[Site],
        scope: Scope,
        sizes: Sequence[Sequence[int]],
    ) -> None:
        self.program, self.scope, self.sizes = program, scope, sizes
        self.numbers = {site.number for site in sites}
        self.at: dict[Node, list[Site]] = {}
        for site in sites:
            self.at.setdefault(site.node, []).append(site)
        self.open: set[Node] = set()
        sound = set()
        for node in walk(program.score, program.mask):
            if node in self.at or any(arg in self.open for arg in node.args):
                self.open.add(node)
            else:
                sound.add(node)
        self.sound = frozenset(sound)
        self.failing: set[int] = set()
        self.steps = 0

    def guarded(self) -> set[int]:
        """Numbers of the open sites that are fine wherever their value is used."""
        score, mask = self.program.score, self.program.mask
        if mask is not None:
            self._visit(mask, self.scope)
        if score is not None:
            kept = self.scope if mask is None else self._where(self.scope, mask, True)
            self._visit(score, kept)
        return self.numbers - self.failing

    def _visit(self, root: Node, scope: Scope) -> None:
        waiting, seen = [(root, scope)], set()
        while waiting and len(self.failing) < len(self.numbers):
            node, scope = waiting.pop()
            if node not in self.open or scope.empty or (node, id(scope)) in seen:
                continue
            seen.add((node, id(scope)))
            self.steps += 1
            if self.steps > _STEPS:
                self.failing = set(self.numbers)
            for site in self.at.get(node, ()):
                found = scope.range(site.operand)
                if found is None or not _fine(site, found, self.sizes):
                    self.failing.add(site.number)
            waiting += self._below(node, scope)

    def _below(self, node: Node, scope: Scope) -> list[tuple[Node, Scope]]:
        match node:
            case Apply("where", (c, a, b)):
                return [
                    (c, scope),
                    (a, self._where(scope, c, True)),
                    (b, self._where(scope, c, False)),
                ]
            case Apply("and" | "or" as op, (a, b), dtype) if dtype == BOOL:
                matters = op == "and"
                return [
                    (a, self._where(scope, b, matters)),
                    (b, self._where(scope, a, matters)),
                ]
        return [(arg, scope) for arg in node.args]

    def _where(self, scope: Scope, condition: Node, holds: bool) -> Scope:
        return scope.where(condition, holds, self.sound)
