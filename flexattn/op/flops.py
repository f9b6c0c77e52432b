"""Formulas for torch's FLOP counter, registered when a program imports it.

The counter imports Triton, which takes half a second and reads ``TRITON_INTERPRET`` once and for
all, so `import flexattn` must not import the counter.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COUNTER = "torch.utils.flop_counter"


def when_counted(formulas: Mapping[Any, Callable[..., int]]) -> None:
    """Register ``formulas``, operator → FLOPs of a call, as soon as the counter is there."""
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER], formulas)
    else:
        sys.meta_path.insert(0, _Awaiting(formulas))


def _register(counter: ModuleType, formulas: Mapping[Any, Callable[..., int]]) -> None:
    for operator, formula in formulas.items():
        counter.register_flop_formula(operator, get_raw=True)(formula)


class _Awaiting(MetaPathFinder):
    """Leaves every import as it is, and adds to that of the counter."""

    def __init__(self, formulas: Mapping[Any, Callable[..., int]]) -> None:
        self._formulas = formulas

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != COUNTER:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = spec and spec.loader
        if loader is not None:
            execute = loader.exec_module

            def with_formulas(module: ModuleType) -> None:
                execute(module)
                _register(module, self._formulas)

            loader.exec_module = with_formulas
        return spec
