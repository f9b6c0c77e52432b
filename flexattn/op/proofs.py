"""What analysis is asked about a traced mask: its graph made safe, and the values of the call."""

from __future__ import annotations

from functools import lru_cache

from flexattn.analysis.tiles.classify import Question, as_array
from flexattn.ir.nodes import BOOL, I64, Const
from flexattn.ir.program import Program
from flexattn.ir.sites import Proof, find_sites
from flexattn.op.kernels import facts_of
from flexattn.op.programs import Bound
from flexattn.passes.guard import Guarded, guard


def question(bound: Bound, shape: tuple[int, int, int, int], block: tuple[int, int]) -> Question:
    """The mask of ``bound`` for ``shape`` = (B, H, Q_LEN, KV_LEN) in tiles of ``block``."""
    program = bound.variant.program
    guarded = guarded_mask(program, facts_of(bound, shape).proved)
    ints, floats = iter(bound.ints), iter(bound.floats)
    numbers = {
        f"n{i}": next(ints) if kind == I64 else next(floats)
        for i, kind in enumerate(program.numbers)
    }
    captures = [as_array(tensor, program.compute) for tensor in bound.captures]
    return Question(guarded.root, guarded.fault, captures, numbers, shape, block)


@lru_cache(maxsize=256)
def guarded_mask(program: Program, proved: frozenset[Proof] = frozenset()) -> Guarded:
    """The mask with safe accesses, and where an unsafe one would decide it."""
    root = program.mask if program.mask is not None else Const(True, BOOL)
    return guard(root, find_sites(program), proved)
