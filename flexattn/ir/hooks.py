"""What a kernel template asks of the mods, as graphs: the hand-over from passes to lowering."""

from __future__ import annotations

from dataclasses import dataclass

from flexattn.ir.nodes import DType, Node
from flexattn.ir.program import CaptureType, Ranges


@dataclass(frozen=True)
class CaptureGrad:
    """One place where a captured tensor receives gradient.

    Attributes:
        capture: Number of the captured tensor.
        indices: Safe index per dimension; may name hoisted values.
        value: The gradient that this (q, kv) pair adds there, from ``score`` and ``grad``.
        depends: What ``indices`` vary with inside one head: ``none``, ``q``, ``kv`` or ``qkv``.
        dense: Whether q_idx and kv_idx both stand alone as an index, so that no two pairs of
            one head meet in one element.
        plain: Which of ``b`` and ``h`` stand alone as an index.
        way: How a GPU sums it, by what ``targets`` depend on beside (b, h): ``head`` nothing,
            ``query`` q_idx, ``key`` kv_idx, ``distance`` both, but through their difference
            alone; ``pair`` both stand alone as an index and all other indices are the same for
            the whole head; ``scatter`` anything else.
        targets: The indices before anything is hoisted, in ``b h q_idx kv_idx``, numbers and
            sizes.
    """

    capture: int
    indices: tuple[Node, ...]
    value: Node
    depends: str
    dense: bool
    plain: frozenset[str]
    way: str = "scatter"
    targets: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Hooks:
    """The graphs spliced into one kernel.

    Attributes:
        uniform: Values of (b, h) alone, named ``u:0 u:1 …`` in the other graphs.
        q: Values of (b, h, q_idx), named ``q:0 …``; may use ``u:*``.
        kv: Values of (b, h, kv_idx), named ``kv:0 …``; may use ``u:*``.
        mask: Whether the pair is kept, or None when all are. Where ``fault`` comes from the
            mask itself it is true, so that nothing passes over the fault.
        score: The modified score, or None when unchanged. Where the passes were asked for base
            2 it is log2(e) times that, from inputs ``score`` and ``score_log2``, which is
            log2(e) times ``score``.
        fault: Whether the pair reads outside a capture or divides by zero in a way that can
            reach the result, before the mask is asked: it counts where the mask keeps the
            pair, or in a block listed as full. None when proved impossible.
        score_grad: Gradient at the raw scaled score, from inputs ``grad`` and what
            ``derivative`` says.
        capture_grads: Gradients of captured tensors.
        captures: Storage type of each capture.
        numbers: dtype of each lifted number.
        compute: dtype of scores.
        derivative: What ``score_grad`` and the values of ``capture_grads`` read beside
            ``grad``: ``none``, ``score``, or ``output`` (the modified score, of meaning where
            its weight is not 0).
        ranges: Which blocks to visit, in terms of ``b h``, one index, numbers, sizes and
            captures, nothing hoisted; None where block lists tell.
    """

    uniform: tuple[Node, ...]
    q: tuple[Node, ...]
    kv: tuple[Node, ...]
    mask: Node | None
    score: Node | None
    fault: Node | None
    score_grad: Node | None
    capture_grads: tuple[CaptureGrad, ...]
    captures: tuple[CaptureType, ...]
    numbers: tuple[DType, ...]
    compute: DType
    derivative: str = "score"
    ranges: Ranges | None = None
