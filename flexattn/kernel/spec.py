"""What kernels there are: each one's template, entry point and argument list."""

from __future__ import annotations

from dataclasses import dataclass


def _names(*lines: str) -> tuple[str, ...]:
    return tuple(name for line in lines for name in line.split())


# Fields that the structs of `codegen_templates/cpp/args.h` share, in its order.
BLOCK_TABLES = _names(
    "kv_num_blocks num_b num_h num_r",
    "kv_indices idx_b idx_h idx_r idx_c cols",
    "full_kv_num_blocks full_num_b full_num_h full_num_r",
    "full_kv_indices full_idx_b full_idx_h full_idx_r full_idx_c full_cols",
    "rows q_block kv_block",
)
MODS = _names(
    "captures capture_sizes capture_strides ints floats fault grads grad_group_strides threads"
)
DOUBLES = frozenset({"scale"})


@dataclass(frozen=True)
class KernelSpec:
    """One kind of kernel.

    Attributes:
        name: ``forward``, ``backward``, ``tiles`` or ``decode``; also the direction that the
            passes are given.
        template: File of `codegen_templates/cpp`.
        symbol: ``extern "C"`` function taking a pointer to the argument struct; it returns 0,
            1 when a mod faulted (see ``fault``), or 2 when memory ran out.
        arguments: Name of the argument struct.
        fields: The struct's fields before ``Mods``, in order: pointers and integers, and
            doubles for the names in ``DOUBLES``.
    """

    name: str
    template: str
    symbol: str
    arguments: str
    fields: tuple[str, ...]


_ATTENTION = _names(
    "q k v out lse max",
    "B Hq Hkv M N D Dv",
    "q_b q_h q_m q_d k_b k_h k_n k_d v_b v_h v_n v_d o_b o_h o_m",
    "scale",
)

FORWARD = KernelSpec(
    "forward",
    "forward.cpp",
    "flexattn_forward",
    "ForwardArgs",
    _ATTENTION + BLOCK_TABLES,
)

DECODE = KernelSpec(
    "decode",
    "decode.cpp",
    "flexattn_decode",
    "DecodeArgs",
    _ATTENTION + _names("parts packed") + BLOCK_TABLES,
)

BACKWARD = KernelSpec(
    "backward",
    "backward.cpp",
    "flexattn_backward",
    "BackwardArgs",
    _names(
        "q k v out lse dout dlse dq dk dv",
        "B Bkv Hq Hkv M N D Dv",
        "q_b q_h q_m q_d k_b k_h k_n k_d v_b v_h v_n v_d o_b o_h o_m",
        "do_b do_h do_m do_d dq_b dq_h dq_m dk_b dk_h dk_n dv_b dv_h dv_n",
        "scale",
        "chunks groups group_start group_items",
    )
    + BLOCK_TABLES,
)

TILES = KernelSpec(
    "tiles",
    "tiles.cpp",
    "flexattn_tiles",
    "TilesArgs",
    _names("classes b0 h0 row0 B H rows cols M N q_block kv_block listed count"),
)

SPECS: dict[str, KernelSpec] = {spec.name: spec for spec in (FORWARD, BACKWARD, TILES, DECODE)}
