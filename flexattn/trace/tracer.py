"""Runs a mod on symbols and keeps what it did: the entry of the tracer, called on every call.

The mod itself is never a key: it runs again each time, and its tape (`Traced.structure`) is
what calls are recognised by.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor

from flexattn.errors import CaptureDeviceError, CaptureIndexError, ModReturnError, ModSignatureError
from flexattn.ir.nodes import Input, Node
from flexattn.trace import diagnose
from flexattn.trace.autograd_function import enter_patch, exit_patch
from flexattn.trace.build import Builder
from flexattn.trace.dispatch import TracingMode
from flexattn.trace.gather import KIND_OF_STORAGE, emit, settle, whole
from flexattn.trace.symbol import Row, Symbol
from flexattn.trace.tape import BOOL, FLOAT, INT, NUMBER_KINDS, RecordingTape, Tape

_push = torch._C._push_on_torch_function_stack
_pop = torch._C._pop_torch_function_stack
_enabled = torch._C._is_torch_function_enabled
_MODE = TracingMode()


class Traced:
    """What one run of a mod did.

    Attributes:
        fn: The mod.
        kind: ``score`` or ``mask``.
        compute: ``f32`` or ``f64``.
        structure: Hashable; equal for runs that differ in numbers and captured values alone.
            Holds every operation, the type of each number, dtype and rank of each capture.
        numbers: The Python numbers the mod met, in order; ``structure`` has their types.
        captures: The captured tensors, each once, in order of first use.
    """

    _baked: frozenset[int] | None = None
    _lifted: Mapping[int, Input] | None = None

    def __init__(self, tape: Tape, root: int) -> None:
        captures = tape.captures
        self.numbers = tuple(tape.numbers)
        self.captures = captures
        types = [(t.dtype, t.ndim) for t in captures] if captures else ()
        self.structure = (root, tuple(tape), *types)
        self._tape, self._root = tape, root

    @property
    def fn(self) -> Any:
        return self._tape.fn

    @property
    def kind(self) -> str:
        return self._tape.mod_kind

    @property
    def compute(self) -> str:
        return self._tape.compute

    @property
    def name(self) -> str:
        """What the user calls the mod."""
        return diagnose.mod_name(self.fn)

    @property
    def must_bake(self) -> frozenset[int]:
        """Positions of numbers that cannot become run-time values: exponents, indices, counts."""
        if self._baked is None:
            self.graph()
        assert self._baked is not None
        return self._baked

    def graph(self, lifted: Mapping[int, Input] | None = None) -> Node:
        """The mod as a graph: bool for a mask, the compute dtype for a score.

        Args:
            lifted: By position in ``numbers``, the input (of dtype i64 for an int, the compute
                dtype for a float) that stands for the number; the others become constants.
        """
        self._lifted = lifted or {}
        builder = self._builder(self._tape, self._lifted)
        root = builder.run(self._root)
        self._baked = frozenset(builder.baked)
        return self._as_result(builder, root)

    def _builder(
        self, tape: Tape, lifted: Mapping[int, Input], lines: Mapping[int, str] | None = None
    ) -> Builder:
        kinds = [KIND_OF_STORAGE[tensor.dtype] for tensor in tape.captures]
        numbers = tuple(tape.numbers)
        fail = functools.partial(tape.fail, at=diagnose.definition(tape.fn))
        return Builder(tuple(tape), numbers, kinds, fail, self.compute, lifted, lines)

    def _as_result(self, builder: Builder, root: Node) -> Node:
        return root if self.kind == "mask" else builder.convert(root, self.compute)

    @property
    def locations(self) -> dict[Node, str]:
        """``file:line: source`` of the nodes of the last ``graph``; the mod runs once more."""
        tape = RecordingTape(self.fn, self.kind, self.compute, self._tape.device)
        again = _run(tape)
        if again.structure != self.structure or again.numbers != self.numbers:
            return {}
        builder = self._builder(tape, self._lifted or {}, tape.lines)
        builder.run(again._root)
        return builder.locations

    def where(self, capture: int) -> str | None:
        """The user's line that first reads captured tensor ``capture``."""
        tape = RecordingTape(self.fn, self.kind, self.compute, self._tape.device)
        _run(tape)
        for position, item in enumerate(tape):
            if item in ("load", "gather") and tape[position + 1] == capture:
                return tape.lines.get(position)
        return diagnose.definition(self.fn)


def trace_mod(
    fn: Any,
    kind: Literal["score", "mask"],
    *,
    compute: str = "f32",
    device: torch.device | None = None,
) -> Traced:
    """Run ``fn`` once on symbols.

    Args:
        fn: ``score_mod(score, b, h, q_idx, kv_idx)`` or ``mask_mod(b, h, q_idx, kv_idx)``.
        compute: Float dtype of the mod.
        device: Where captured tensors have to be, but those without dimensions on the CPU;
            None leaves that to the caller.

    Raises:
        FlexAttentionError: The mod does what no kernel can; the message names its line.
        Exception: Whatever the mod itself raises.
    """
    traced = _run(Tape(fn, kind, compute, device))
    if device is not None:
        for number, tensor in enumerate(traced.captures):
            if tensor.device != device and not _travels(tensor):
                _wrong_device(traced, number, device)
    return traced


def _run(tape: Tape) -> Traced:
    if not _enabled():  # inside another subclass's own torch function
        with torch._C._EnableTorchFunction():
            return _run(tape)
    enter_patch()
    _push(_MODE)
    try:
        result = run_mod(tape)
    except TypeError as error:
        if tape.failure is not None:
            raise tape.failure from None
        _check_signature(tape, error)
        raise
    finally:
        _pop()
        exit_patch()
    if tape.failure is not None:
        raise tape.failure
    if type(result) is Symbol and result._tape is tape:
        kind = result._kind
        if kind == BOOL if tape.mod_kind == "mask" else kind != BOOL:
            return Traced(tape, result._id)
    return Traced(tape, _result(tape, result))


def run_mod(tape: Tape) -> Any:
    """Call the mod; `trace/diagnose.py` takes the frames inside this one for the user's."""
    fn = tape.fn
    fn = getattr(fn, "_torchdynamo_orig_callable", fn)  # what torch.compile was given
    b, h = Symbol(tape, 1, INT), Symbol(tape, 2, INT)
    q_idx, kv_idx = Symbol(tape, 3, INT), Symbol(tape, 4, INT)
    if tape.mod_kind == "mask":
        return fn(b, h, q_idx, kv_idx)
    return fn(Symbol(tape, 0, FLOAT), b, h, q_idx, kv_idx)


def _result(tape: Tape, result: Any) -> int:
    """The position of what the mod returned, checked."""
    at = diagnose.definition(tape.fn)
    wanted = "one bool" if tape.mod_kind == "mask" else "one number"
    if isinstance(result, Tensor):
        result = whole(tape, result)
    if isinstance(result, Row):
        tape.fail(
            CaptureIndexError,
            f"returns a row of shape {tuple(result.shape)}, not {wanted}.",
            why="a dimension of a captured tensor is left without an index",
            fix="index every dimension, or reduce the row with .any(-1), .sum(-1) …",
            at=at,
        )
    value = settle(tape, result)
    if value is None:
        fix = "return one value" if result is not None else "add the missing return statement"
        tape.fail(
            ModReturnError,
            f"returns {_said(result)}, not {wanted}.",
            why=f"a {tape.mod_kind}_mod gives {wanted} for each pair of query and key",
            fix=fix,
            at=at,
        )
    kind = value._kind if isinstance(value, Symbol) else NUMBER_KINDS[type(value)]
    if (kind == BOOL) != (tape.mod_kind == "mask"):
        fix = (
            "compare it, as in x != 0"
            if tape.mod_kind == "mask"
            else (
                "return torch.where(keep, score, -float('inf')), or pass the function as a mask_mod"
            )
        )
        what = ("a bool", "an integer", "a float")[kind]
        why = f"a {tape.mod_kind}_mod gives {wanted} for each pair of query and key"
        tape.fail(ModReturnError, f"returns {what}, not {wanted}.", why=why, fix=fix, at=at)
    if isinstance(value, Symbol):
        return value._id
    return emit(tape, "const", kind, (), value, ())._id


def _said(result: Any) -> str:
    return "None" if result is None else f"a {type(result).__name__}"


def _check_signature(tape: Tape, error: TypeError) -> None:
    """Turn "takes 3 arguments but 4 were given" into an error of ours, other errors not."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code is not run_mod.__code__:
        trace = trace.tb_next
    if trace is None or trace.tb_next is not None:
        return
    arguments = (
        "(b, h, q_idx, kv_idx)" if tape.mod_kind == "mask" else "(score, b, h, q_idx, kv_idx)"
    )
    own = diagnose.mod_name(tape.fn)
    plain = isinstance(tape.fn, FunctionType) and own.isidentifier()
    name = own if plain else f"{tape.mod_kind}_mod"
    tape.fail(
        ModSignatureError,
        f"cannot be called with {arguments}: {error}.",
        why=f"a {tape.mod_kind}_mod is called with these arguments",
        fix=f"define it as def {name}{arguments}",
        at=diagnose.definition(tape.fn),
    )


def _travels(tensor: Tensor) -> bool:
    """Whether ``tensor`` serves every device, as in PyTorch: one number, on the CPU."""
    return tensor.ndim == 0 and tensor.device.type == "cpu"


def _wrong_device(traced: Traced, number: int, device: torch.device) -> None:
    tensor = traced.captures[number]
    traced._tape.fail(
        CaptureDeviceError,
        f"reads a captured tensor of shape {tuple(tensor.shape)} on {tensor.device}.",
        why=f"query, key and value are on {device}",
        fix=f"move it with .to({str(device)!r}) before the call",
        at=traced.where(number),
    )


__all__ = ["Traced", "trace_mod"]
