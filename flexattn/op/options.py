"""Reads ``kernel_options``: PyTorch's keys and two of ours, and what each accepts.

The Triton backend obeys those of ``READ``; on the other backends, and by the other keys, values
are checked and nothing changes. ``block_list`` is read before a backend is asked. Results depend
on ``fast_tanh`` alone, beyond rounding. Keys that are not in ``WHOLE`` may carry a prefix ``fwd_``
or ``bwd_``, which wins over the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from flexattn.errors import KernelOptionError
from flexattn.op.request import KernelOptions

BACKENDS = ("AUTO", "TRITON", "TRITON_DECODE", "FLASH")
PRECISIONS = ("ieee", "tf32", "tf32x3")
BLOCK_LISTS = ("table", "closed_form")
WHOLE = frozenset(("BACKEND", "block_list"))
"""Keys that say something of forward and backward together."""


class FlexKernelOptions(TypedDict, total=False):
    """The keys of ``kernel_options``, all optional; see ``OPTIONS`` for the accepted values."""

    num_warps: int
    num_stages: int
    BLOCK_M: int
    BLOCK_N: int
    BLOCK_M1: int
    BLOCK_N1: int
    BLOCK_M2: int
    BLOCK_N2: int
    PRESCALE_QK: bool
    ROWS_GUARANTEED_SAFE: bool
    BLOCKS_ARE_CONTIGUOUS: bool
    WRITE_DQ: bool
    FORCE_USE_FLEX_ATTENTION: bool
    USE_TMA: bool
    kpack: int
    matrix_instr_nonkdim: int
    waves_per_eu: int
    num_consumer_groups: int
    SPLIT_KV: int
    PARTITION_SIZE: int
    FLOAT32_PRECISION: str
    BACKEND: str
    fast_tanh: bool
    block_list: str


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _is_int(value) and value > 0


def _not_negative(value: Any) -> bool:
    return _is_int(value) and value >= 0


def _power_of_two(value: Any) -> bool:
    return _is_int(value) and value > 0 and value & (value - 1) == 0


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _precision(value: Any) -> bool:
    # Inductor's own code passes the name with quotes inside.
    return isinstance(value, str) and value.strip("'\"") in PRECISIONS


def _backend(value: Any) -> bool:
    return isinstance(value, str) and value in BACKENDS


def _block_list(value: Any) -> bool:
    return isinstance(value, str) and value in BLOCK_LISTS


_BLOCK = (_power_of_two, "a power of two")
_COUNT = (_positive, "an integer above 0")
_FLAG = (_boolean, "True or False")

OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_warps": _COUNT,
    "num_stages": (_not_negative, "an integer, 0 or more"),
    "BLOCK_M": _BLOCK,
    "BLOCK_N": _BLOCK,
    "BLOCK_M1": _BLOCK,
    "BLOCK_N1": _BLOCK,
    "BLOCK_M2": _BLOCK,
    "BLOCK_N2": _BLOCK,
    "PRESCALE_QK": _FLAG,
    "ROWS_GUARANTEED_SAFE": _FLAG,
    "BLOCKS_ARE_CONTIGUOUS": _FLAG,
    "WRITE_DQ": _FLAG,
    "FORCE_USE_FLEX_ATTENTION": _FLAG,
    "USE_TMA": _FLAG,
    "kpack": _COUNT,
    "matrix_instr_nonkdim": (_not_negative, "an integer, 0 or more"),
    "waves_per_eu": (_not_negative, "an integer, 0 or more"),
    "num_consumer_groups": (_not_negative, "an integer, 0 or more"),
    "SPLIT_KV": _COUNT,
    "PARTITION_SIZE": _COUNT,
    "FLOAT32_PRECISION": (_precision, "one of " + ", ".join(PRECISIONS)),
    "BACKEND": (_backend, "one of " + ", ".join(BACKENDS)),
    "fast_tanh": _FLAG,
    "block_list": (_block_list, "one of " + ", ".join(BLOCK_LISTS)),
}

TILES = frozenset(("BLOCK_M", "BLOCK_N", "BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2"))
READ = TILES | {
    *("num_warps", "num_stages", "USE_TMA", "SPLIT_KV", "fast_tanh"),
    *("BACKEND", "FORCE_USE_FLEX_ATTENTION"),
}
"""Names of the options that the Triton backend obeys."""

_BY_OTHER_ARGUMENTS = {
    "OUTPUT_LOGSUMEXP": "ask with return_aux=AuxRequest(lse=True).",
    "OUTPUT_MAX": "ask with return_aux=AuxRequest(max_scores=True).",
    "SM_SCALE": "pass scale=.",
}


def read_kernel_options(options: Mapping[str, Any] | None) -> KernelOptions:
    """The options that a backend reads, checked like all others."""
    check_kernel_options(options)
    found = ((key, value) for key, value in (options or {}).items() if _plain(key) in READ)
    return tuple(sorted(found))


def block_list(options: Mapping[str, Any] | None) -> str | None:
    """``table``, ``closed_form`` or None (the call chooses), of options that were checked."""
    return None if not options else options.get("block_list")


def option(options: KernelOptions, direction: str, name: str) -> Any:
    """The value of ``name`` for ``fwd`` or ``bwd``, or None."""
    values = dict(options)
    return values.get(f"{direction}_{name}", values.get(name))


def _plain(key: str) -> str:
    return key[4:] if key[:4] in ("fwd_", "bwd_") else key


def check_kernel_options(options: Mapping[str, Any] | None) -> None:
    """Raise ``KernelOptionError`` for a key that does not exist or a value it cannot take."""
    if not options:
        return
    if not isinstance(options, Mapping):
        raise KernelOptionError(
            f"kernel_options is of type {type(options).__name__}.",
            why="it has to be a dictionary from option names to values.",
            fix='write for example kernel_options={"BLOCK_M": 64}.',
        )
    for key, value in options.items():
        _check_option(key, value)
    if "BACKEND" in options and options.get("FORCE_USE_FLEX_ATTENTION"):
        raise KernelOptionError(
            "kernel_options holds both BACKEND and FORCE_USE_FLEX_ATTENTION.",
            why="both select a kernel.",
            fix="drop FORCE_USE_FLEX_ATTENTION.",
        )


def _check_option(key: Any, value: Any) -> None:
    name = key
    if isinstance(key, str) and _plain(key) not in WHOLE:
        name = _plain(key)
    if name in _BY_OTHER_ARGUMENTS:
        raise KernelOptionError(
            f"kernel_options key {key!r} cannot be set.",
            why="it follows from other arguments of the call.",
            fix=_BY_OTHER_ARGUMENTS[name],
        )
    row = OPTIONS.get(name)
    if row is None:
        raise KernelOptionError(
            f"kernel_options has no key {key!r}.",
            why="the keys are " + ", ".join(OPTIONS) + "; each but "
            f"{' and '.join(sorted(WHOLE))} may be prefixed with fwd_ or bwd_.",
            fix="remove the key or correct its spelling.",
        )
    accepts, words = row
    if not accepts(value):
        raise KernelOptionError(
            f"kernel_options[{key!r}] is {value!r}.",
            why=f"the value has to be {words}.",
            fix=f"pass {words}.",
        )
