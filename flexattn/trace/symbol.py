"""The values a mod sees while it is traced: scalars, and small rows of them.

A symbol knows its tape, its position there and its kind. What it can do is attached by the
modules that record: `trace/operators.py` (``+ - * …``), `trace/functions.py` and
`trace/rows.py` (named methods). What it can never do is refused here, with a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from flexattn.errors import (
    CrossPositionError,
    FlexAttentionError,
    InPlaceError,
    TracedBranchError,
    TracedValueError,
    UnsupportedOpError,
)
from flexattn.trace import diagnose
from flexattn.trace.tape import BOOL, FLOAT, INPUTS, INT, Tape, describe, dtype_of_kind

# Tensor methods that read several positions, by what they do to them.
_CROSS_POSITION_NAMES = """
    cumsum cumprod cummax cummin logcumsumexp sort argsort msort topk kthvalue median mode
    unique argwhere matmul mm bmm mv ger outer einsum tensordot addmm baddbmm softmax
    log_softmax logsumexp flip roll fliplr flipud diff histc bincount searchsorted bucketize
    scatter scatter_add index_add take_along_dim masked_select norm normalize layer_norm conv1d
    linear scaled_dot_product_attention triu tril repeat repeat_interleave cat concat argmax
    argmin aminmax quantile cross cdist
"""
CROSS_POSITION = frozenset(_CROSS_POSITION_NAMES.split())
_IN_PLACE_NAMES = """
    __setitem__ __iadd__ __isub__ __imul__ __itruediv__ __idiv__ __ifloordiv__ __imod__ __ipow__
    __iand__ __ior__ __ixor__ __ilshift__ __irshift__
"""
_IN_PLACE = frozenset(_IN_PLACE_NAMES.split())
_SAID = {"__setitem__": "tensor[index] = value", "__iadd__": "+=", "__imul__": "*="}
_HINTS = {
    **dict.fromkeys(("gather", "index_select", "take"), "index the tensor, as in table[h, i]"),
    **dict.fromkeys(("rand", "randn"), "draw a tensor outside the mod and capture it"),
    "nonzero": "compute the positions outside the mod into a captured tensor",
    "copysign": "use torch.where(y < 0, -abs(x), abs(x))",
    "signbit": "use x < 0",
}
_VALUES = {
    "item": ".item()",
    "tolist": ".tolist()",
    "numpy": ".numpy()",
    "__array__": "numpy",
    "is_nonzero": ".is_nonzero()",
    "data_ptr": ".data_ptr()",
    "storage": ".storage()",
}


class Symbol:
    """A scalar that stands for its value at every (b, h, q_idx, kv_idx) at once."""

    __slots__ = ("_id", "_kind", "_tape")

    def __init__(self, tape: Tape, position: int, kind: int) -> None:
        self._tape = tape
        self._id = position
        self._kind = kind

    # What it says of itself

    @property
    def shape(self) -> torch.Size:
        return torch.Size(())

    @property
    def dtype(self) -> torch.dtype:
        return dtype_of_kind(self._tape, self._kind)

    @property
    def device(self) -> torch.device:
        return self._tape.device or torch.device("cpu")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def requires_grad(self) -> bool:
        return False

    @property
    def layout(self) -> torch.layout:
        return torch.strided

    def dim(self) -> int:
        return len(self.shape)

    ndimension = dim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return self.shape.numel()

    nelement = numel

    def is_floating_point(self) -> bool:
        return self._kind == FLOAT

    def is_complex(self) -> bool:
        return False

    def __repr__(self) -> str:
        name = INPUTS[self._id] if 0 <= self._id < len(INPUTS) else f"traced:{self._id}"
        shape = f", shape={tuple(self.shape)}" if self.shape else ""
        return f"<{name}: {self.dtype}{shape}>"

    # What it refuses

    def _fail(
        self, error: type[FlexAttentionError], what: str, *, why: str = "", fix: str
    ) -> NoReturn:
        self._tape.fail(error, what, why=why or describe(self), fix=fix)

    def __bool__(self) -> bool:
        construct, fix = diagnose.branch(self._tape.mod)
        self._fail(
            TracedBranchError,
            f"branches on a traced value with {construct}.",
            why=f"{describe(self)}, so it has no single truth value",
            fix=fix,
        )

    def _no_value(self, how: str, fix: str = "") -> NoReturn:
        self._fail(
            TracedValueError,
            f"asks for the Python value of a traced value with {how}.",
            why=f"{describe(self)}, so there is no one number to return",
            fix=fix or "compute with torch functions on the symbol itself, without leaving torch",
        )

    def __int__(self) -> int:
        self._no_value("int()", "use .long(), which truncates towards zero")

    def __float__(self) -> float:
        self._no_value("float() or a math function", "use .float(), or torch.exp for math.exp …")

    def __complex__(self) -> complex:
        self._no_value("complex()")

    def __index__(self) -> int:
        self._no_value(
            "an index into a Python sequence, or range()",
            "put the values into a torch tensor outside the mod and index that",
        )

    def __len__(self) -> int:
        self._no_value("len()", "a scalar has no length; captured tensors have .shape")

    def __iter__(self) -> Iterator[Symbol]:
        self._no_value("iteration", "a scalar cannot be unpacked; index captured tensors instead")

    def __contains__(self, item: object) -> bool:
        branches_with_in(self._tape, describe(self))

    def __hash__(self) -> int:
        # By identity it would be in no set and no dict: an answer, and a wrong one.
        if diagnose.branch(self._tape.mod)[0] == "`in`":
            branches_with_in(self._tape, describe(self))
        self._no_value(
            "a set, a dict or a cache",
            "put the values into a torch tensor outside the mod and index that",
        )

    def __format__(self, spec: str) -> str:
        if spec:
            self._no_value(f"the format {spec!r}", "print it without a format, as in {x}")
        return repr(self)

    def __setitem__(self, index: object, value: object) -> None:
        self._fail(
            InPlaceError,
            "assigns to an element of a traced value.",
            why="a mod is a formula; nothing it computes can be changed in place",
            fix="use torch.where(condition, new, old)",
        )

    def __getattr__(self, name: str) -> Any:
        if not hasattr(torch.Tensor, name) or name.startswith("__"):
            if name in _VALUES:
                self._no_value(_VALUES[name])
            raise AttributeError(f"a traced value has no attribute {name!r}")
        if name in _VALUES:
            self._no_value(_VALUES[name])
        refuse(self._tape, f".{name}", name)

    def __reduce__(self) -> Any:
        self._no_value("pickling or deepcopy")

    # torch functions that are handed a symbol ask here when no mode is active.

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return cls._dispatch(func, args, kwargs)

    @staticmethod
    def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        raise NotImplementedError("attached by trace/dispatch.py")


class Row(Symbol):
    """A small array of scalars of known shape, such as a row gathered from a captured tensor."""

    __slots__ = ("_shape",)

    def __init__(self, tape: Tape, position: int, kind: int, shape: tuple[int, ...]) -> None:
        super().__init__(tape, position, kind)
        self._shape = shape

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self._shape)

    def __len__(self) -> int:
        return self._shape[0]

    def __iter__(self) -> Iterator[Symbol]:
        return (self[i] for i in range(self._shape[0]))  # type: ignore[index]


def symbol(tape: Tape, position: int, kind: int, shape: tuple[int, ...] = ()) -> Symbol:
    """A scalar or a row, by ``shape``."""
    return Row(tape, position, kind, shape) if shape else Symbol(tape, position, kind)


def find_tape(args: Any, kwargs: dict[str, Any] | None = None) -> Tape | None:
    """The tape of the first symbol among the arguments of a call."""
    for arg in args:
        if isinstance(arg, Symbol):
            return arg._tape
        if isinstance(arg, (tuple, list, slice)):
            parts = (arg.start, arg.stop, arg.step) if isinstance(arg, slice) else arg
            tape = find_tape(parts)
            if tape is not None:
                return tape
    return find_tape(kwargs.values()) if kwargs else None


def branches_with_in(tape: Tape, why: str) -> NoReturn:
    """Raise the error for ``x in container`` with a traced value on either side."""
    tape.fail(
        TracedBranchError,
        "branches on a traced value with `in`.",
        why=f"{why}, so it is not simply in or out",
        fix="use (x == a) | (x == b), or (captured_tensor == x).any(-1)",
    )


def refuse(tape: Tape, said: str, name: str) -> NoReturn:
    """Raise the error for torch function ``name`` that no handler knows.

    Args:
        said: How the mod called it, for the message.
    """
    if name == "__contains__":
        branches_with_in(tape, "a traced value stands for its values at all positions at once")
    said = _SAID.get(name, said)
    if name.rstrip("_") in CROSS_POSITION or name in CROSS_POSITION:
        tape.fail(
            CrossPositionError,
            f"calls {said}, which reads other positions.",
            why="a mod sees one (query, key) pair at a time; the others are computed elsewhere, "
            "or not at all",
            fix="compute it outside the mod into a tensor, capture that and index it",
        )
    if name in _HINTS:
        tape.fail(
            UnsupportedOpError,
            f"calls {said}, which cannot be compiled.",
            why="the function is no operation on one element",
            fix=_HINTS[name],
        )
    if (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE:
        tape.fail(
            InPlaceError,
            f"calls {said}, which changes a tensor in place.",
            why="a mod is a formula; nothing it reads can be changed in place",
            fix="write it out of place and use the result, as in x = x.clamp(min=0)",
        )
    tape.fail(
        UnsupportedOpError,
        f"calls {said}, which cannot be compiled.",
        why="the function has no row in the operation table of flexattn",
        fix="write it with arithmetic, comparisons, torch.where and pointwise torch functions; "
        "or compute it outside the mod into a captured tensor",
    )


__all__ = ["BOOL", "FLOAT", "INT", "Row", "Symbol", "find_tape", "refuse", "symbol"]
