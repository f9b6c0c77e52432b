"""The mods region of a Triton kernel, from the hooks that the passes made (see mods.py).

The functions are plain `@triton.jit` ones on values of whatever shapes broadcast, so that Triton
and Gluon kernels may call them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flexattn.ir.hooks import Hooks
from flexattn.ir.nodes import F32, Node
from flexattn.lowering.triton_emit import CaptureLayout, TritonEmitter
from flexattn.lowering.triton_gradients import lower_gradients

_PAIR = "captures, u, qv, kvv"
_INDICES = "b, h, q_idx, kv_idx"


def lower_triton_hooks(hooks: Hooks, *, fast_tanh: bool = False) -> str:
    """Text for the mods region of a kernel that asks this of the mods.

    Args:
        fast_tanh: Use the instruction of NVIDIA's processors; no other target has it.
    """
    layout, spellings = CaptureLayout(hooks), _spellings(hooks, fast_tanh=fast_tanh)
    functions = lower_hoists(layout, spellings)
    rows = (
        ("mask_mod", hooks.mask, "", "(q_idx >= 0) & (kv_idx >= 0)"),
        ("score_mod", hooks.score, "score, score_log2, ", "score_log2"),
        ("fault", hooks.fault, "score, ", "(q_idx < 0) & (kv_idx < 0)"),
        ("score_mod_grad", hooks.score_grad, "score, output, grad, ", "grad"),
    )
    for name, root, inputs, identity in rows:
        emitter = TritonEmitter(layout, spellings)
        result = identity if root is None else emitter.value(root)
        head = f"{name}({_PAIR}, {inputs}{_INDICES})"
        functions.append(function(head, [*emitter.lines, f"return {result}"]))
    functions += _ranges(layout, spellings)
    gradients = lower_gradients(layout, spellings)
    flags = _flags(hooks, gradients.row, gradients.key)
    return "\n\n\n".join(["\n".join(flags), *functions, *gradients.functions]) + "\n"


def lower_hoists(layout: CaptureLayout, spellings: Mapping[str, str]) -> list[str]:
    """The three functions that compute what leaves the inner loop."""
    hooks = layout.hooks
    return [
        _hoist("hoist_uniform(captures, b, h)", hooks.uniform, layout, spellings),
        _hoist("hoist_q(captures, u, b, h, q_idx)", hooks.q, layout, spellings),
        _hoist("hoist_kv(captures, u, b, h, kv_idx)", hooks.kv, layout, spellings),
    ]


def function(head: str, body: Iterable[str]) -> str:
    """A function that Triton compiles."""
    return "\n".join(["@triton.jit", f"def {head}:", *(f"    {line}" for line in body)])


def _hoist(
    head: str, values: Sequence[Node], layout: CaptureLayout, spellings: Mapping[str, str]
) -> str:
    emitter = TritonEmitter(layout, spellings)
    names = "".join(f"{emitter.value(value)}, " for value in values)
    return function(head, [*emitter.lines, f"return ({names.rstrip()})"])


def _ranges(layout: CaptureLayout, spellings: Mapping[str, str]) -> list[str]:
    ranges = layout.hooks.ranges
    rows, cols = ((), ()) if ranges is None else (ranges.rows, ranges.cols)
    return [
        _hoist(head, [end for piece in pieces for end in piece], layout, spellings)
        for head, pieces in (
            ("kv_ranges(captures, b, h, q_idx)", rows),
            ("q_ranges(captures, b, h, kv_idx)", cols),
        )
    ]


def _flags(hooks: Hooks, row: bool, key: bool) -> list[str]:
    flags: dict[str, object] = {
        "HAS_SCORE_MOD": hooks.score is not None,
        "HAS_MASK_MOD": hooks.mask is not None,
        "HAS_FAULT": hooks.fault is not None,
        "DERIVATIVE": hooks.derivative,
        "HAS_ROW_GRADS": row,
        "HAS_KEY_GRADS": key,
        "KV_RANGES": 0 if hooks.ranges is None else len(hooks.ranges.rows),
        "Q_RANGES": 0 if hooks.ranges is None else len(hooks.ranges.cols),
    }
    return [
        f"{name}: tl.constexpr = tl.constexpr({value!r})".replace("'", '"')
        for name, value in flags.items()
    ]


def _spellings(hooks: Hooks, *, fast_tanh: bool) -> dict[str, str]:
    return {"tanh": "m_tanh_approx({0})"} if fast_tanh and hooks.compute == F32 else {}
