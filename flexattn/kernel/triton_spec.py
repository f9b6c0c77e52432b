"""What Triton kernels there are: each one's template, entry point, arguments and choices.

Types of arguments, as `kernel/triton_source.py` turns them into a signature:

``in*``      address of elements in the dtype of query, key and value
``F*``       address of elements in the compute dtype (float32, or float64 for float64 inputs)
``F``        a number in the compute dtype
``i32 i64``  whole numbers; ``i32* i64* u8*`` addresses of them
``tables``   the block lists, see ``TABLES``, or what stands for them, see ``RANGE_TABLES``
``captures`` address, sizes and strides of each captured tensor, then the lifted numbers
``grads``    address of one buffer per entry of ``Hooks.capture_grads``

A stride counts elements. The innermost stride of ``out``, of gradients and of every table is 1.
"""

from __future__ import annotations

from dataclasses import dataclass

Arguments = tuple[tuple[str, str], ...]

PADDING = 256  # `lse2` and `delta` have a multiple of so many rows per head, as in tiles.py


def _typed(*lines: str) -> Arguments:
    """``"in*: q k", "i32: M"`` → ``(("q", "in*"), ("k", "in*"), ("M", "i32"))``."""
    rows = []
    for line in lines:
        kind, _, names = line.partition(":")
        rows += [(name, kind) for name in names.split()]
    return tuple(rows)


# Fields of the tuple `tables`. Row r of head h of batch b visits the blocks
# indices[b, h, r, : num[b, h, r]]; `full_*` lists blocks that are kept whole. In the kernel for
# dK and dV rows are blocks of keys and the lists name blocks of queries. Without lists (choice
# TABLES = 0) the addresses are of no meaning; with TABLES = 2 those of full_* are not.
TABLES: Arguments = _typed(
    "i32*: num",
    "i64: num_b num_h",
    "i32*: indices",
    "i64: indices_b indices_h indices_r",
    "i32*: full_num",
    "i64: full_num_b full_num_h",
    "i32*: full_indices",
    "i64: full_indices_b full_indices_h full_indices_r",
    "i32: q_block kv_block",
)

# The tuple `tables` of a program with ranges; choice TABLES is 4 then, and ORDERED is off.
# `may_fill` is 0 where a block of the mask is longer than the sequence, so that none is full.
RANGE_TABLES: Arguments = _typed("i32: may_fill q_block kv_block")

_QKV = _typed("i64: q_b q_h q_m q_d k_b k_h k_n k_d v_b v_h v_n v_d")


@dataclass(frozen=True)
class TritonSpec:
    """One kind of kernel.

    Attributes:
        name: Also the file in `codegen_templates/triton` and its entry point.
        direction: Which hooks the passes make for it: forward, backward, tiles, or "" for none.
        arguments: (name, type) in order.
        choices: Names of the `tl.constexpr` parameters, which follow the arguments.
    """

    name: str
    direction: str
    arguments: Arguments
    choices: tuple[str, ...]


_CHOICES = ("D", "DV", "BM", "BN", "TABLES", "EVEN", "DESCRIPTORS", "PRECISION")

FORWARD = TritonSpec(
    "forward",
    "forward",
    _typed("in*: q k v out", "F*: lse max")
    + _QKV
    + _typed("i64: o_b o_h o_m", "i32: B Hq G M N heads_at_once", "F: scale", "tables: tables")
    + _typed("i32*: order", "captures: captures", "i64*: fault_at"),
    (*_CHOICES, "POSITIVE_SCALE", "ORDERED"),
)
DECODE = TritonSpec(
    "decode",
    "forward",
    _typed("in*: q k v", "F*: part_out part_max part_sum")
    + _QKV
    + _typed("i32: B Hq G M N splits", "F: scale", "tables: tables")
    + _typed("captures: captures", "i64*: fault_at"),
    (*_CHOICES, "POSITIVE_SCALE", "PACK"),
)
COMBINE = TritonSpec(
    "combine",
    "",
    _typed("F*: part_out part_max part_sum", "in*: out", "F*: lse max")
    + _typed("i64: o_b o_h o_m", "i32: B Hq M splits"),
    ("DV", "BM", "SPLITS"),
)
DELTA = TritonSpec(
    "delta",
    "",
    _typed("in*: out grad_out", "F*: lse grad_lse lse2 delta")
    + _typed("i64: o_b o_h o_m do_b do_h do_m do_d", "i32: Hq M"),
    ("DV", "BM", "HAS_GRAD_LSE"),
)
_BACKWARD = _typed("i64: do_b do_h do_m do_d")
DQ = TritonSpec(
    "dq",
    "backward",
    _typed("in*: q k v grad_out", "F*: lse2 delta", "in*: grad_q")
    + _QKV
    + _BACKWARD
    + _typed("i64: dq_b dq_h dq_m", "i32: B Hq G M N heads_at_once", "F: scale", "tables: tables")
    + _typed("i32*: order", "captures: captures", "grads: grads"),
    (*_CHOICES, "ORDERED", "WANT_DQ", "SHARED", "SERIAL"),
)
DKDV = TritonSpec(
    "dkdv",
    "backward",
    _typed("in*: q k v grad_out", "F*: lse2 delta", "in*: grad_k grad_v")
    + _QKV
    + _BACKWARD
    + _typed("i64: dk_b dk_h dk_n dv_b dv_h dv_n", "i32: B Bkv Hq G M N", "F: scale")
    + _typed("tables: tables", "i32*: order", "captures: captures", "grads: grads"),
    (*_CHOICES, "ORDERED"),
)
CLASSES = TritonSpec(
    "classes",
    "tiles",
    _typed("u8*: classes", "i32*: listed", "i32: B H M N rows cols q_block kv_block count")
    + _typed("captures: captures", "i64*: fault_at"),
    ("BM", "BN", "LISTED"),
)

TRITON_SPECS: dict[str, TritonSpec] = {
    spec.name: spec for spec in (FORWARD, DECODE, COMBINE, DELTA, DQ, DKDV, CLASSES)
}
