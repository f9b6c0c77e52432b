"""Tensors captured by a mod, taken out of its closures and put back: for pytrees and devices.

Looked into are functions' closures and defaults, ``functools.partial``, and the lists, tuples
and dicts found there. Tensors that a mod reaches through globals or attributes stay in place.
"""

from __future__ import annotations

import functools
import types
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


@dataclass(frozen=True)
class Slot:
    """Place of tensor number ``number``."""

    number: int


@dataclass(frozen=True)
class Held:
    """A value kept as it is; equal when it compares equal, or is the same object."""

    value: Any = field(compare=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Held):
            return NotImplemented
        try:
            return self.value is other.value or bool(self.value == other.value)
        except Exception:  # a foreign __eq__ may raise anything; unequal is always safe
            return False

    def __hash__(self) -> int:
        return hash(type(self.value))


@dataclass(frozen=True)
class Container:
    """A list, tuple, dict or other pytree of parts."""

    spec: TreeSpec
    parts: tuple[Any, ...]

    def __hash__(self) -> int:
        return hash(self.parts)

    @classmethod
    def of(cls, values: Any, parts: Iterable[Any]) -> Container:
        """``parts`` in the place of the members of ``values``."""
        return cls(tree_flatten(values, is_leaf=lambda part: part is not values)[1], tuple(parts))

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by the TreeSpec itself: PyTorch warns when one is copied, as torch.export does.
        places = tree_unflatten(range(len(self.parts)), self.spec)
        return Container.of, (places, self.parts)


@dataclass(frozen=True)
class Function:
    """A Python function; equal when code, closure and defaults are."""

    code: types.CodeType
    cells: Any
    defaults: Any
    original: types.FunctionType = field(compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the tensors: they are leaves, and while a graph is traced they hold no values.
        bare = put_back(self, defaultdict(lambda: None))
        return _function, (bare, self.cells, self.defaults)


def _function(bare: types.FunctionType, cells: Any, defaults: Any) -> Function:
    return Function(bare.__code__, cells, defaults, bare)


@dataclass(frozen=True)
class Partial:
    """A ``functools.partial``."""

    function: Any
    arguments: Any


def take_out(mod: Callable[..., Any]) -> tuple[list[Tensor], Any]:
    """The tensors of ``mod``, each once, and the rest of it, comparable with ``==``."""
    tensors: list[Tensor] = []
    numbers: dict[int, int] = {}

    def visit(value: Any, inside: tuple[int, ...]) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in numbers:
                numbers[id(value)] = len(tensors)
                tensors.append(value)
            return Slot(numbers[id(value)])
        if id(value) in inside:  # a function or a list that holds itself
            return Held(value)
        inside = (*inside, id(value))
        if isinstance(value, types.FunctionType):
            cells = tuple(_contents(cell) for cell in value.__closure__ or ())
            defaults = (value.__defaults__, value.__kwdefaults__)
            return Function(value.__code__, visit(cells, inside), visit(defaults, inside), value)
        if isinstance(value, functools.partial):
            arguments = (value.args, value.keywords)
            return Partial(visit(value.func, inside), visit(arguments, inside))
        if isinstance(value, list | tuple | dict):
            parts = tree_flatten(value, is_leaf=lambda part: part is not value)[0]
            return Container.of(value, (visit(part, inside) for part in parts))
        return Held(value)

    return tensors, visit(mod, ())


def put_back(rest: Any, tensors: list[Any] | dict[int, Any]) -> Any:
    """The mod that ``take_out`` came from, with ``tensors`` in place of its own."""
    match rest:
        case Slot(number):
            return tensors[number]
        case Held(value):
            return value
        case Container(spec, parts):
            return tree_unflatten([put_back(part, tensors) for part in parts], spec)
        case Partial(function, arguments):
            args, keywords = put_back(arguments, tensors)
            return functools.partial(put_back(function, tensors), *args, **keywords)
        case Function() if _has_slot(rest):
            return _rebuild(rest, tensors)
    return rest.original


def _rebuild(rest: Function, tensors: list[Any] | dict[int, Any]) -> types.FunctionType:
    old = rest.original
    values = put_back(rest.cells, tensors)
    cells = tuple(
        old_cell if value is _UNSET else types.CellType(value)
        for old_cell, value in zip(old.__closure__ or (), values)
    )
    defaults, kwdefaults = put_back(rest.defaults, tensors)
    new = types.FunctionType(rest.code, old.__globals__, old.__name__, defaults, cells)
    new.__kwdefaults__ = kwdefaults
    new.__qualname__, new.__module__, new.__doc__ = old.__qualname__, old.__module__, old.__doc__
    new.__dict__.update(old.__dict__)
    return new


def _has_slot(rest: Any) -> bool:
    match rest:
        case Slot():
            return True
        case Container(_, parts):
            return any(map(_has_slot, parts))
        case Function():
            return _has_slot(rest.cells) or _has_slot(rest.defaults)
        case Partial(function, arguments):
            return _has_slot(function) or _has_slot(arguments)
    return False


class _UNSET:
    """Stands for the contents of an empty cell: the name is assigned later, or never."""


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _UNSET
