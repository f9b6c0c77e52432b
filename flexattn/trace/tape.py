"""The flat record that a running mod leaves behind, and the rules that type its entries.

A tape is one list: an operation's name, then its operands, then the next operation. A value is
named by the position of its operation; positions 0 to 4 are the mod's arguments. An operand is
such a position, a negative marker for a Python number (its value goes to ``numbers``, in order),
or a tuple of literals that belong to the structure. Appending to it is all a traced operation
costs; `trace/build.py` turns it into a graph when a kernel has to be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy
import torch
from torch import Tensor

from flexattn.errors import FlexAttentionError, UnsupportedOpError
from flexattn.trace import diagnose

if TYPE_CHECKING:
    from flexattn.trace.symbol import Symbol

BOOL, INT, FLOAT = 0, 1, 2  # kinds of values, in order of promotion
INPUTS = ("score", "b", "h", "q_idx", "kv_idx")
NUMBER_CODES: dict[type, int] = {int: -1, float: -2, bool: -3, torch.SymInt: -4, torch.SymFloat: -5}
NUMBER_KINDS: dict[type, int] = {
    int: INT,
    float: FLOAT,
    bool: BOOL,
    torch.SymInt: INT,
    torch.SymFloat: FLOAT,
}
MAX_UNROLL = 1024  # elements of a row that a mod may spread out

ARITHMETIC = frozenset(
    ["add", "sub", "mul", "minimum", "maximum", "floordiv", "truncdiv", "mod", "fmod"]
)
COMPARISONS = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])
BITWISE = frozenset(["and", "or", "xor"])
SHIFTS = frozenset({"shl", "shr"})
_FLOAT_UNARY_NAMES = """
    exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sigmoid tanh erf erfc sin cos tan asin acos
    atan sinh cosh asinh acosh atanh
"""
FLOAT_UNARY = frozenset(_FLOAT_UNARY_NAMES.split())
FLOAT_BINARY = frozenset({"div", "atan2"})
ROUNDING = frozenset(["floor", "ceil", "round", "trunc"])
TESTS = frozenset({"isnan", "isinf"})
CASTS = ("to_bool", "to_int", "to_float")
OTHERS = frozenset({"neg", "abs", "sign", "not", "pow", "where", "detach", "override_grad"})
_BOOL_FORMS = {"add": "or", "mul": "and", "minimum": "and", "maximum": "or"}


class Tape(list[Any]):
    """One trace: the entries, and what they refer to.

    Attributes:
        numbers: Python numbers met, by order of use.
        captures: Captured tensors, by order of first use, each once.
        capture_ids: Number of each captured tensor by its id.
        fn: The mod.
        mod_kind: ``score`` or ``mask``.
        compute: ``f32`` or ``f64``.
        device: What ``.device`` of a symbol says.
        failure: The error raised first; torch turns a TypeError inside an operator of a tensor
            into "not implemented", so it may not arrive by itself.
    """

    __slots__ = (
        "capture_ids",
        "captures",
        "compute",
        "device",
        "failure",
        "fn",
        "mod_kind",
        "numbers",
    )

    numbers: list[Any]
    captures: list[Tensor]
    capture_ids: dict[int, int]
    fn: Any
    mod_kind: str
    compute: str
    device: torch.device | None
    failure: FlexAttentionError | None

    def __init__(self, fn: Any, mod_kind: str, compute: str, device: torch.device | None) -> None:
        list.__init__(self, INPUTS)
        self.numbers = []
        self.captures = []
        self.capture_ids = {}
        self.fn = fn
        self.mod_kind = mod_kind
        self.compute = compute
        self.device = device
        self.failure = None

    def number(self, value: Any) -> int:
        """Record a Python number; returns its marker."""
        self.numbers.append(value)
        return NUMBER_CODES[type(value)]

    def capture(self, tensor: Tensor) -> int:
        """The number of ``tensor`` among the captures."""
        number = self.capture_ids.get(id(tensor))
        if number is None:
            number = self.capture_ids[id(tensor)] = len(self.captures)
            self.captures.append(tensor)
        return number

    @property
    def mod(self) -> str:
        """``score_mod 'name'``, as messages say it."""
        return f"{self.mod_kind}_mod {diagnose.mod_name(self.fn)!r}"

    def fail(
        self,
        error: type[FlexAttentionError],
        what: str,
        *,
        why: str,
        fix: str,
        at: str | None = None,
    ) -> NoReturn:
        """Raise ``error`` saying "score_mod 'f' ``what``" at the user's line."""
        at = at or diagnose.location() or diagnose.definition(self.fn)
        raised = error(f"{self.mod} {what}", at=at, why=f"{why}.", fix=f"{fix}.")
        self.failure = self.failure or raised
        raise raised


class RecordingTape(Tape):
    """A tape that also notes the user's line of every entry."""

    __slots__ = ("lines",)
    lines: dict[int, str]

    def __init__(self, fn: Any, mod_kind: str, compute: str, device: torch.device | None) -> None:
        super().__init__(fn, mod_kind, compute, device)
        self.lines = {}

    def __iadd__(self, entry: Any) -> RecordingTape:  # type: ignore[misc]
        self.lines[len(self)] = diagnose.location() or ""
        self.extend(entry)
        return self


def as_number(value: Any) -> Any:
    """``value`` as a Python number if it is one, else None."""
    if type(value) in NUMBER_CODES:
        return value
    if isinstance(value, (numpy.generic, numpy.ndarray)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, torch.SymBool):
        return bool(value)
    for kind in (bool, int, float):  # also subclasses, such as IntEnum
        if isinstance(value, kind):
            return kind(value)
    return None


def result_kind(tape: Tape, op: str, kinds: Sequence[int]) -> tuple[str, int]:
    """The operation to record for ``op`` on operands of ``kinds``, and the kind it gives."""
    top = max(kinds)
    if op in ARITHMETIC:
        if top == BOOL:
            if op == "sub":
                _no_bool(tape, "subtracts bools", "use ^ for exclusive or, or convert with .int()")
            if op in _BOOL_FORMS:
                return _BOOL_FORMS[op], BOOL
        return op, max(top, INT)
    if op in COMPARISONS or op in TESTS:
        return op, BOOL
    if op in FLOAT_UNARY or op in FLOAT_BINARY:
        return op, FLOAT
    if op in BITWISE or op in SHIFTS or op == "not":
        if top == FLOAT:
            tape.fail(
                UnsupportedOpError,
                f"applies a bitwise operation ({op}) to a float.",
                why="& | ^ ~ << >> are defined on bools and integers, as in torch",
                fix="compare the float first, as in (x > 0) & (y > 0), or convert with .long()",
            )
        return op, (max(top, INT) if op in SHIFTS else top)
    if op == "neg" and top == BOOL:
        _no_bool(tape, "negates a bool with -", "use ~ for logical not, or convert with .int()")
    if op == "pow" or op in ROUNDING or op in ("neg", "abs", "sign"):
        return op, max(top, INT)
    return op, top


def _no_bool(tape: Tape, what: str, fix: str) -> NoReturn:
    why = "torch defines this on numbers alone"
    tape.fail(UnsupportedOpError, f"{what}.", why=why, fix=fix)


def broadcast(tape: Tape, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that rows of ``shapes`` have together."""
    if not any(shapes):
        return ()
    try:
        return numpy.broadcast_shapes(*shapes)
    except ValueError:
        tape.fail(
            UnsupportedOpError,
            f"combines rows of shapes {' and '.join(str(s) for s in shapes)}.",
            why="the shapes do not broadcast together",
            fix="align them with unsqueeze, or index every dimension of the captured tensors",
        )


def kind_of_dtype(tape: Tape, dtype: torch.dtype) -> int:
    """The kind that values of ``dtype`` have inside a mod."""
    if dtype == torch.bool:
        return BOOL
    if dtype.is_floating_point:
        return FLOAT
    if dtype.is_complex:
        tape.fail(
            UnsupportedOpError,
            f"uses {dtype}.",
            why="a mod computes with bools, integers and floats",
            fix="use real and imaginary parts as separate captured tensors",
        )
    return INT


def dtype_of_kind(tape: Tape, kind: int) -> torch.dtype:
    """What ``.dtype`` says for a value of ``kind``."""
    if kind == FLOAT:
        return torch.float64 if tape.compute == "f64" else torch.float32
    return torch.int64 if kind == INT else torch.bool


def describe(symbol: Symbol) -> str:
    """Why ``symbol`` has no value of its own, as a sentence."""
    return diagnose.why_no_value(symbol._tape, symbol._id)
