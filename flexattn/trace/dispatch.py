"""Receives every torch function that meets a symbol and hands it to the tracer's own version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flexattn.errors import InPlaceError, UnsupportedOpError
from flexattn.trace.activations import FORMULAS
from flexattn.trace.functions import FUNCTIONS, Handler, choose, detach
from flexattn.trace.gather import index_tensor
from flexattn.trace.operators import OPERATORS, binary, matmul, replace
from flexattn.trace.rows import ROWS
from flexattn.trace.symbol import Symbol, find_tape, refuse

METHODS: dict[str, Handler] = {**FUNCTIONS, **FORMULAS, **ROWS}
_getitem = Tensor.__getitem__
_SPACES = (torch, Tensor, F, torch.special, torch._C._nn, torch.linalg)


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    """``func(*args, **kwargs)``, recorded where a symbol takes part."""
    for arg in args:
        if type(arg) is Symbol:
            tape = arg._tape
            break
    else:
        found = find_tape(args, kwargs)
        if found is None:
            return func(*args, **(kwargs or {}))
        tape = found
    if func is _getitem:
        return index_tensor(tape, args[0], args[1])
    handler = HANDLERS.get(func)
    if handler is None:
        handler = _handler_of_operator(func)
    if handler is None:
        name = getattr(func, "__name__", str(func))
        known = getattr(torch, name, None) is func or hasattr(F, name)
        refuse(
            tape, f"torch.{name}" if known else str(getattr(func, "_qualified_op_name", name)), name
        )
    if not kwargs:
        kwargs = {}
    if kwargs.pop("out", None) is not None:
        tape.fail(
            InPlaceError,
            f"calls torch.{func.__name__} with out=.",
            why="a mod is a formula; it has no memory to write to",
            fix="use what the function returns",
        )
    try:
        if kwargs.pop("inplace", False):
            return replace(
                args[0], handler(tape, *args, **kwargs), f"{func.__name__}(inplace=True)"
            )
        return handler(tape, *args, **kwargs)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise
        name = getattr(func, "__name__", str(func))
        tape.fail(
            UnsupportedOpError,
            f"calls torch.{name} with arguments that are not supported here: {error}.",
            why="the tracer knows the arguments that make sense for one element",
            fix="leave out what concerns dimensions, memory or dtypes of whole tensors",
        )


class TracingMode(TorchFunctionMode):
    """Active while a mod runs, so that ``captured_tensor[symbol]`` arrives here too."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return dispatch(func, args, kwargs)


def _handler_of_operator(func: Any) -> Handler | None:
    """The handler of ``torch.ops.aten.add``, ``torch.ops.aten.add.Tensor`` and their like."""
    if isinstance(func, torch._ops.OpOverload):
        func = func.overloadpacket
    name = getattr(func, "_qualified_op_name", "")
    return METHODS.get(name.removeprefix("aten::")) if name.startswith("aten::") else None


# What is registered under which function ------------------------------------------------------


def _functions() -> Iterator[tuple[Any, Handler]]:
    for name, handler in METHODS.items():
        for space in (F,) if name == "embedding" else _SPACES:
            if callable(getattr(space, name, None)):
                yield getattr(space, name), handler
    yield Tensor.where, _method_where
    yield torch.matmul, matmul
    yield Tensor.matmul, matmul
    for name, op in OPERATORS.items():
        yield getattr(Tensor, f"__{name}__", None), _binary(op)
        yield getattr(Tensor, f"__r{name}__", None), _reflected(op)
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        yield getattr(Tensor, f"__{name}__"), _binary(name)


def _method_where(tape: Any, input: Any, condition: Any, other: Any) -> Symbol:
    return choose(tape, condition, input, other)


def _binary(op: str) -> Handler:
    return lambda tape, a, b: binary(tape, op, a, b)


def _reflected(op: str) -> Handler:
    return lambda tape, a, b: binary(tape, op, b, a)


HANDLERS: dict[Any, Handler] = {func: handler for func, handler in _functions() if func is not None}


# The same as methods of symbols ---------------------------------------------------------------


def _method(handler: Handler) -> Callable[..., Any]:
    def method(self: Symbol, *args: Any, **kwargs: Any) -> Any:
        return handler(self._tape, self, *args, **kwargs)

    return method


def _in_place(name: str, handler: Handler) -> Callable[..., Any]:
    def method(self: Symbol, *args: Any, **kwargs: Any) -> Any:
        return replace(self, handler(self._tape, self, *args, **kwargs), f".{name}()")

    return method


def _attach() -> None:
    methods: dict[str, Handler] = {**METHODS, "where": _method_where, "matmul": matmul}
    for name, handler in methods.items():
        if hasattr(Tensor, name) and name not in vars(Symbol):
            setattr(Symbol, name, _method(handler))
        if hasattr(Tensor, f"{name}_"):
            setattr(Symbol, f"{name}_", _in_place(f"{name}_", handler))
    Symbol.data = property(lambda self: detach(self._tape, self))  # type: ignore[attr-defined]
    Symbol._dispatch = staticmethod(dispatch)  # type: ignore[method-assign]


_attach()
