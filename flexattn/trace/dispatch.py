"""Receives every torch function that meets a symbol and hands it to the tracer's own version."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flexattn.trace.functions import HANDLERS
from flexattn.trace.gather import index_tensor
from flexattn.trace.symbol import Symbol, refuse
from flexattn.trace.tape import Tape

_getitem = Tensor.__getitem__


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``func(*args, **kwargs)``, recorded where a symbol takes part."""
    tape = find_tape(args, kwargs)
    if tape is None:
        return func(*args, **kwargs)
    if func == _getitem:
        return index_tensor(tape, args[0], args[1])
    handler = HANDLERS.get(func)
    if handler is None:
        name = getattr(func, "__name__", str(func))
        refuse(tape, name if name.startswith("__") else f"torch.{name}", name)
    return handler(tape, *args, **kwargs)


def find_tape(args: Any, kwargs: dict[str, Any] | None = None) -> Tape | None:
    """The tape of the first symbol among the arguments."""
    for arg in args:
        if isinstance(arg, Symbol):
            return arg._tape
        if isinstance(arg, (tuple, list)):
            tape = find_tape(arg)
            if tape is not None:
                return tape
    return find_tape(kwargs.values()) if kwargs else None


class TracingMode(TorchFunctionMode):
    """Active while a mod runs, so that ``captured_tensor[symbol]`` arrives here too."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return dispatch(func, args, kwargs or {})


Symbol._dispatch = staticmethod(dispatch)  # type: ignore[method-assign]
_ = torch
