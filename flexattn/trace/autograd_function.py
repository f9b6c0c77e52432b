"""``torch.autograd.Function.apply`` inside a mod: its forward is traced, its backward kept.

While any thread traces, ``Function.apply`` is replaced by a version that looks for symbols
among its arguments and passes every other call on. A backward is linear in the gradient that
arrives, so it is traced once per output for a gradient of one; ``override_grad`` carries the
result (`trace/build.py` checks the linearity).
"""

from __future__ import annotations

import inspect
import threading
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from flexattn.errors import InPlaceError, UnsupportedOpError
from flexattn.trace.gather import emit, settle
from flexattn.trace.operators import cast, kind_of
from flexattn.trace.symbol import Row, Symbol, find_tape
from flexattn.trace.tape import FLOAT, Tape


class _Patch:
    """The replacement of ``Function.apply``, in place while any trace runs."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0  # traces running, in all threads
        self.original: Any = Function.__dict__["apply"]

    def enter(self) -> None:
        with self.lock:
            self.count += 1
            if self.count == 1:
                self.original = Function.__dict__["apply"]
                type.__setattr__(Function, "apply", _APPLY)

    def exit(self) -> None:
        with self.lock:
            self.count -= 1
            if self.count == 0:
                type.__setattr__(Function, "apply", self.original)


_patch = _Patch()
enter_patch, exit_patch = _patch.enter, _patch.exit


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    tape = find_tape(args, kwargs)
    if tape is None:
        return _patch.original.__get__(None, cls)(*args, **kwargs)
    return _trace_function(tape, cls, args, kwargs)


_APPLY = classmethod(_apply)


class Context:
    """The ``ctx`` of a forward and backward on symbols."""

    def __init__(self, tape: Tape, name: str, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self.saved_tensors: tuple[Any, ...] = ()
        self.materialize_grads = True
        self.non_differentiable: tuple[Any, ...] = ()
        self._tape, self._name = tape, name

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def save_for_forward(self, *tensors: Any) -> None:
        """Forward-mode derivatives are not taken, so nothing is kept."""

    def mark_non_differentiable(self, *outputs: Any) -> None:
        self.non_differentiable = outputs

    def set_materialize_grads(self, value: bool) -> None:
        self.materialize_grads = value

    def mark_dirty(self, *tensors: Any) -> None:
        self._tape.fail(
            InPlaceError,
            f"applies {self._name}, whose forward changes its input in place.",
            why="a mod's arguments are shared with the kernel around it",
            fix="return a new value from forward",
        )


def _trace_function(tape: Tape, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = cls.__name__
    with torch.no_grad():
        if cls.setup_context is not Function.setup_context:
            bound = inspect.signature(cls.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            args = tuple(_argument(tape, arg) for arg in bound.args)
            context = Context(tape, name, tuple(map(_needs_grad, args)))
            outputs = cls.forward(*args)
            cls.setup_context(context, args, outputs)
        else:
            args = tuple(_argument(tape, arg) for arg in args)
            context = Context(tape, name, tuple(map(_needs_grad, args)))
            outputs = cls.forward(context, *args, **kwargs)
        if not isinstance(outputs, tuple):
            return _with_gradient(tape, cls, context, args, (outputs,), 0)
        return tuple(
            _with_gradient(tape, cls, context, args, outputs, at) for at in range(len(outputs))
        )


def _argument(tape: Tape, arg: Any) -> Any:
    # A learned scalar must be a symbol for its gradient to be followed.
    if isinstance(arg, Tensor) and arg.requires_grad and arg.dim() == 0:
        return settle(tape, arg)
    return arg


def _needs_grad(arg: Any) -> bool:
    if isinstance(arg, Symbol):
        return arg._kind == FLOAT
    return isinstance(arg, Tensor) and arg.requires_grad


def _with_gradient(
    tape: Tape, cls: Any, context: Context, args: tuple[Any, ...], outputs: tuple[Any, ...], at: int
) -> Any:
    output = settle(tape, outputs[at])
    if output is None or kind_of(output) != FLOAT:
        return outputs[at]
    if any(outputs[at] is other for other in context.non_differentiable):
        return emit(tape, "detach", FLOAT, (), output)
    if isinstance(output, Row):
        _refuse(tape, cls, "returns a row", "apply it to one element at a time")
    if cls.backward is Function.backward and cls.vjp is Function.vjp:
        _refuse(tape, cls, "has no backward", "define backward, or call the formula itself")
    backward = cls.vjp if cls.backward is Function.backward else cls.backward
    unit = emit(tape, "unit_grad", FLOAT, ())
    zero = emit(tape, "const", FLOAT, (), 0.0, ()) if context.materialize_grads else None
    grads = backward(context, *(unit if i == at else zero for i in range(len(outputs))))
    grads = grads if isinstance(grads, tuple) else (grads,)
    operands: list[Any] = []
    for arg, grad in zip(args, grads):
        if grad is None or not _needs_grad(arg):
            continue
        if not isinstance(arg, Symbol) or isinstance(arg, Row):
            _refuse(
                tape, cls, "gives a gradient to a whole tensor", "pass the element, as in table[h]"
            )
        partial = settle(tape, grad)
        if partial is None or isinstance(partial, Row):
            _refuse(tape, cls, f"gives a gradient of type {type(grad).__name__}", "give a scalar")
        operands += [arg, cast(tape, partial, FLOAT)]
    return emit(tape, "override_grad", FLOAT, (), (cls.__name__,), output, *operands)


def _refuse(tape: Tape, cls: Any, what: str, fix: str) -> None:
    tape.fail(
        UnsupportedOpError,
        f"applies {cls.__name__}, which {what}.",
        why="inside a mod a torch.autograd.Function maps scalars to scalars, both ways",
        fix=fix,
    )
