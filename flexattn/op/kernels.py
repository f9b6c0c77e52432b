"""Chooses the kernel of one call: what is proved for its lengths, and which kernel that allows."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from flexattn.analysis.bounds import prove
from flexattn.ir.sites import Proof
from flexattn.kernel.isa import ISAS, Isa, host
from flexattn.kernel.source import kernel_source
from flexattn.op.programs import STORAGE, Bound, Variant
from flexattn.passes.narrow import fits_narrow
from flexattn.runtime.launch import Kernel, load

FACTS_LIMIT = 4096  # proofs kept per program

_lock = threading.Lock()


@dataclass(frozen=True)
class Facts:
    """What holds for the lengths, capture sizes and numbers of one call.

    Attributes:
        proved: Sites that need no guard, or less of one.
        wide: Whether index arithmetic needs 64 bits throughout.
    """

    proved: frozenset[Proof]
    wide: bool


def facts_of(bound: Bound, lengths: tuple[int, int, int, int]) -> Facts:
    """The facts for ``lengths`` = (B, Hq, M, N), proved once."""
    variant = bound.variant
    sizes = tuple(tuple(tensor.shape) for tensor in bound.captures)
    key = (lengths, sizes, *bound.ints)
    facts = variant.facts.get(key)
    if facts is None:
        if len(variant.facts) >= FACTS_LIMIT:
            variant.facts.clear()
        facts = variant.facts[key] = _find_facts(bound, lengths, sizes)
    return facts


def kernel_for(
    variant: Variant,
    direction: str,
    dtype: str,
    facts: Facts,
    grads: frozenset[int] = frozenset(),
    *,
    rounded_weights: bool = True,
) -> Kernel:
    """A kernel that is right for ``facts``; one that is loaded already where possible.

    Proofs vary with the lengths, and must not multiply kernels: a kernel that relies on fewer
    proofs than this call has serves it too, and a new one relies only on what all calls had.

    Args:
        rounded_weights: Whether products of bf16 pairs are allowed, for which the weights are
            rounded to bf16 too.
    """
    isa = None if rounded_weights else _without_pairs()
    if direction == "decode":  # which rounds no weights
        isa = host(pairs=True)
    slot: Hashable = (direction, dtype, facts.wide, grads, isa)
    found = variant.kernels.get(slot)
    if found is not None and found[0] <= facts.proved:
        return found[1]
    with _lock:
        found = variant.kernels.get(slot)
        if found is not None and found[0] <= facts.proved:
            return found[1]
        proved = facts.proved if found is None else facts.proved & found[0]
    source = kernel_source(
        variant.program,
        direction,
        dtype=dtype,
        isa=isa,
        grads=grads,
        proved=proved,
        wide=facts.wide,
    )
    kernel = load(source)
    variant.kernels[slot] = (proved, kernel)
    return kernel


def _without_pairs() -> Isa | None:
    """The instruction set to use instead of this machine's; None where that has no bf16 pairs."""
    return ISAS["avx512"] if host().level > ISAS["avx512"].level else None


def _find_facts(
    bound: Bound, lengths: tuple[int, int, int, int], sizes: Sequence[tuple[int, ...]]
) -> Facts:
    program = bound.variant.program
    ints, floats = iter(bound.ints), iter(bound.floats)
    numbers = [next(ints) if kind == "i64" else next(floats) for kind in program.numbers]
    proved: frozenset[Proof] = frozenset()
    if bound.variant.needs_proof:
        proved = prove(program, lengths, sizes, numbers)
    return Facts(proved, not fits_narrow(lengths, sizes, bound.ints))


def dtype_name(tensor: Tensor) -> str:
    """Name of a tensor's storage dtype."""
    return STORAGE[tensor.dtype]
