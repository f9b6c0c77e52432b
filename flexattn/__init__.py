"""FlexAttention for the CPU: a Python score_mod and mask_mod become one fused C++ kernel."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flexattn import errors
from flexattn.masks.block_mask import BlockMask
from flexattn.masks.mods import and_masks, noop_mask, not_mask, or_masks
from flexattn.op.attention import flex_attention
from flexattn.op.create import create_block_mask, create_mask
from flexattn.op.options import FlexKernelOptions
from flexattn.op.outputs import AuxOutput, AuxRequest
from flexattn.runtime.counters import CacheInfo, cache_info, clear_cache

if TYPE_CHECKING:
    from flexattn.reports.compile_only import compile_only, lower
    from flexattn.reports.explain import explain
    from flexattn.reports.verify import verify

__version__ = "0.1.0"

__all__ = [
    "AuxOutput",
    "AuxRequest",
    "BlockMask",
    "CacheInfo",
    "FlexKernelOptions",
    "__version__",
    "and_masks",
    "cache_info",
    "clear_cache",
    "compile_only",
    "create_block_mask",
    "create_mask",
    "errors",
    "explain",
    "flex_attention",
    "lower",
    "noop_mask",
    "not_mask",
    "or_masks",
    "verify",
]

# Reports are for people at work on a mod; a training job need not import them.
_REPORTS = {
    "compile_only": "flexattn.reports.compile_only",
    "explain": "flexattn.reports.explain",
    "lower": "flexattn.reports.compile_only",
    "verify": "flexattn.reports.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _REPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_REPORTS[name]), name))
