"""From a program to the graphs of one kernel: the list of passes, with a reason for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from flexattn.ir.hooks import CaptureGrad, Hooks
from flexattn.ir.nodes import BOOL, Apply, Const, Input, Load, Node, rewrite
from flexattn.ir.program import Program, Ranges
from flexattn.ir.ranges import ALWAYS
from flexattn.ir.sites import Proof, find_sites
from flexattn.passes.base2 import in_base_2
from flexattn.passes.differentiate import gradients, score_loads
from flexattn.passes.guard import guard
from flexattn.passes.narrow import NARROW, narrow
from flexattn.passes.reach import from_output, reads_score, spread
from flexattn.passes.reciprocal import multiply_by_inverses
from flexattn.passes.sharpen import sharpen
from flexattn.passes.simplify import simplify, without_marks
from flexattn.passes.split import Hoisted, split, variation

DIRECTIONS = ("forward", "backward", "tiles", "decode")


@dataclass(frozen=True)
class State:
    """What the passes hand on.

    Attributes:
        roots: The graphs by name: ``mask score fault score_grad``, ``value{i}`` and
            ``index{i}_{d}`` for the gradient of load ``i``.
        base2: Whether the score is wanted times log2(e).
        loads: The loads whose captures receive gradient.
        derivative: What the gradients read, see `ir.hooks.Hooks`.
        hoisted: Set by the last pass.
    """

    program: Program
    direction: str
    grads: frozenset[int]
    proved: frozenset[Proof]
    wide: bool
    roots: dict[str, Node]
    base2: bool = False
    derivative: str = "score"
    loads: tuple[Load, ...] = ()
    places: tuple[CaptureGrad, ...] = ()
    hoisted: Hoisted = field(default=Hoisted((), (), (), ()))

    def map(self, rule: Callable[[Node], Node]) -> State:
        return replace(self, roots={name: rule(root) for name, root in self.roots.items()})


def _guard(state: State) -> State:
    sites = find_sites(state.program)
    roots: dict[str, Node] = {}
    faults: list[Node] = []
    for name, root in state.roots.items():
        guarded = guard(root, sites, state.proved)
        roots[name] = guarded.root
        if guarded.fault is None or state.direction == "backward":
            continue
        faults.append(guarded.fault)
        if name == "mask":  # a tile with nothing kept is passed over, its fault with it
            roots[name] = Apply("or", (guarded.root, guarded.fault), BOOL)
    if faults:
        roots["fault"] = faults[0] if len(faults) == 1 else Apply("or", faults, BOOL)
    return replace(state, roots=roots)


def _simplify(state: State) -> State:
    return state.map(simplify)


def _sharpen(state: State) -> State:
    inputs = ALWAYS if state.wide else NARROW
    return state.map(lambda root: simplify(sharpen(root, inputs, state.program.captures)))


def _differentiate(state: State) -> State:
    score = state.roots.get("score")
    if state.direction != "backward" or score is None:
        return state
    compute = state.program.compute
    raw, loads = Input("score", compute), score_loads(score, state.grads)
    score_grad, *load_grads = gradients(score, (raw, *loads), Input("grad", compute))
    roots = {**state.roots, "score_grad": score_grad or Const(0.0, compute)}
    reached = [(load, grad) for load, grad in zip(loads, load_grads, strict=True) if grad]
    for number, (load, grad) in enumerate(reached):
        roots[f"value{number}"] = grad
        roots |= {f"index{number}_{dim}": index for dim, index in enumerate(load.indices)}
    return replace(state, roots=roots, loads=tuple(load for load, _ in reached))


def _erase_marks(state: State) -> State:
    return state.map(without_marks)


def _invert(state: State) -> State:
    return state.map(multiply_by_inverses)


def _narrow(state: State) -> State:
    if state.wide:
        return state
    roots = narrow(tuple(state.roots.values()), state.program.captures)
    return replace(state, roots=dict(zip(state.roots, roots, strict=True)))


def _drop_identities(state: State) -> State:
    roots = dict(state.roots)
    if roots.get("mask") is Const(True, BOOL):
        del roots["mask"]
    if roots.get("fault") is Const(False, BOOL):
        del roots["fault"]
    if roots.get("score") is Input("score", state.program.compute):
        del roots["score"]
        roots.pop("score_grad", None)
    return replace(state, roots=roots)


def _base_2(state: State) -> State:
    """For a softmax of powers of 2, whose kernels know the modified score from its weight."""
    score = state.roots.get("score")
    if not state.base2:
        return state
    if score is None:
        return replace(state, derivative="none")
    roots, derivative = dict(state.roots), "none"
    values = {f"value{number}" for number in range(len(state.loads))}
    gradients = {name: roots[name] for name in ("score_grad", *values) if name in roots}
    if reads_score(*gradients.values()):
        inverted = from_output(score, gradients, values)
        derivative = "score" if inverted is None else "output"
        roots |= inverted or {}
    roots["score"] = simplify(in_base_2(score))
    return replace(state, roots=roots, derivative=derivative)


def _place(state: State) -> State:
    """Say how each captured gradient is spread over the (q, kv) pairs of a head."""
    places = []
    for number, load in enumerate(state.loads):
        indices = tuple(state.roots[f"index{number}_{d}"] for d in range(len(load.indices)))
        varies = variation(*indices)
        depends = frozenset[str]().union(*(varies[index] for index in indices))
        plain = {index.name for index in indices if isinstance(index, Input)}
        kind = "".join(side for side in ("q", "kv") if side in depends) or "none"
        dense, fixed = {"q_idx", "kv_idx"} <= plain, frozenset(plain & {"b", "h"})
        value = state.roots[f"value{number}"]
        way = spread(indices)
        places.append(CaptureGrad(load.capture, indices, value, kind, dense, fixed, way, indices))
    return replace(state, places=tuple(places))


def _exchange(state: State) -> State:
    """For kernels whose lanes run over keys: what hooks do with q_idx they do with kv_idx."""
    if state.direction != "decode":
        return state
    other = {"q_idx": "kv_idx", "kv_idx": "q_idx"}

    def rule(node: Node) -> Node:
        if isinstance(node, Input) and node.name in other:
            return Input(other[node.name], node.dtype)
        return node

    return state.map(lambda root: rewrite(root, rule))


def _split(state: State) -> State:
    hoisted = split(state.roots.values())
    roots = dict(zip(state.roots, hoisted.roots, strict=True))
    return replace(state, roots=roots, hoisted=hoisted)


class Pass(NamedTuple):
    """One entry of the list."""

    name: str
    run: Callable[[State], State]
    reason: str


PASSES = (
    Pass("guard", _guard, "no value of a captured tensor may make the kernel read outside"),
    Pass("simplify", _simplify, "guards and user code leave work that needs no doing"),
    Pass("differentiate", _differentiate, "training needs the gradient of what is now computed"),
    Pass("erase marks", _erase_marks, "detach and override_grad have done their work"),
    Pass("invert", _invert, "a division takes as long as a dozen multiplications"),
    Pass("sharpen", _sharpen, "indices are never negative: half of each guard, and divisions"),
    Pass("narrow", _narrow, "vectors hold twice as many 32-bit indices"),
    Pass("drop identities", _drop_identities, "a hook that changes nothing is not called"),
    Pass("base 2", _base_2, "a GPU has an instruction for powers of 2, none for powers of e"),
    Pass("place", _place, "how a captured gradient is summed depends on its indices"),
    Pass("exchange", _exchange, "with few queries lanes run over keys instead"),
    Pass("split", _split, "what needs one index alone leaves the inner loop"),
)


def build_hooks(
    program: Program,
    *,
    direction: str,
    grads: frozenset[int] = frozenset(),
    proved: frozenset[Proof] = frozenset(),
    wide: bool = False,
    base2: bool = False,
) -> Hooks:
    """The graphs for one kernel of ``direction`` (forward, backward, tiles or decode).

    Args:
        program: The mods.
        direction: ``tiles`` wants the mask alone, ``decode`` (of the CPU) lanes that run over
            keys: q_idx and kv_idx are exchanged.
        grads: Numbers of the captures that want a gradient (backward).
        proved: What `analysis.bounds.prove` found about the sites of ``program``.
        wide: Keep 64-bit index arithmetic, for calls beyond `narrow.NARROW`.
        base2: Give the modified score times log2(e), and gradients that read no more of the
            score than they have to.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction {direction!r} is none of {', '.join(DIRECTIONS)}")
    roots = {} if program.mask is None else {"mask": program.mask}
    if program.score is not None and direction != "tiles":
        roots["score"] = program.score
    state = State(program, direction, grads, proved, wide, roots, base2)
    for entry in PASSES:
        state = entry.run(state)
    return _hooks(state)


def _hooks(state: State) -> Hooks:
    roots, hoisted = state.roots, state.hoisted
    grads = []
    for number, place in enumerate(state.places):
        indices = tuple(roots[f"index{number}_{d}"] for d in range(len(place.indices)))
        grads.append(replace(place, indices=indices, value=roots[f"value{number}"]))
    return Hooks(
        uniform=hoisted.uniform,
        q=hoisted.q,
        kv=hoisted.kv,
        mask=roots.get("mask"),
        score=roots.get("score"),
        fault=roots.get("fault"),
        score_grad=roots.get("score_grad"),
        capture_grads=tuple(grads),
        captures=state.program.captures,
        numbers=state.program.numbers,
        compute=state.program.compute,
        derivative=state.derivative,
        ranges=_ranges(state),
    )


def _ranges(state: State) -> Ranges | None:
    """Simplified: they are safe and evaluated once a tile, so nothing else is worth doing."""
    ranges = state.program.ranges
    if ranges is None or state.direction == "tiles":  # classifying visits every block
        return None
    rows, cols = (
        tuple((simplify(low), simplify(high)) for low, high in pieces)
        for pieces in (ranges.rows, ranges.cols)
    )
    return Ranges(rows, cols)
