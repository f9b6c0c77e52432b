"""The contestants of the GPU suite: ours, torch's compiled flex_attention, SDPA, flash-attn."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flexattn.bench.gpu_variants import Mods, Shape
from flexattn.op.attention import flex_attention
from flexattn.op.create import create_block_mask

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class NotApplicableError(Exception):
    """The library has no such variant, or is not there: a column left empty, not a failure."""


@dataclass(frozen=True)
class Setting:
    """What the contestants of one row share.

    Attributes:
        backend: Ours; "triton", or what a rehearsal names.
        compiled: Whether torch's flex_attention is compiled (it is not in rehearsals).
    """

    shape: Shape
    mods: Mods
    device: torch.device
    backend: str
    compiled: bool

    @property
    def grouped(self) -> bool:
        return self.shape.Hq != self.shape.Hkv

    @property
    def mask_shape(self) -> tuple[None, None, int, int]:
        return (None, None, self.shape.M, self.shape.N)


def ours(setting: Setting) -> Attend:
    mods, mask = setting.mods, None
    if mods.mask_mod is not None:
        mask = create_block_mask(mods.mask_mod, *setting.mask_shape, device=setting.device)
    options = {"enable_gqa": setting.grouped, "backend": setting.backend}
    return lambda q, k, v: flex_attention(q, k, v, mods.score_mod, mask, **options)


def torch_flex(setting: Setting) -> Attend:
    peer = importlib.import_module("torch.nn.attention.flex_attention")
    mods, mask = setting.mods, None
    if mods.mask_mod is not None:
        mask = peer.create_block_mask(mods.mask_mod, *setting.mask_shape, device=setting.device)
    attend = peer.flex_attention
    if setting.compiled:
        prepare_torch_flex()
        attend = torch.compile(attend, dynamic=False)
    options = {"score_mod": mods.score_mod, "block_mask": mask, "enable_gqa": setting.grouped}
    return lambda q, k, v: attend(q, k, v, **options)


def prepare_torch_flex() -> None:
    """A clean compiler; and buffers that outlive a backward, which is timed by itself."""
    torch.compiler.reset()
    config = importlib.import_module("torch._functorch.config")
    config.donated_buffer = False


def _sdpa(setting: Setting, backend: SDPBackend) -> Attend:
    options = _plain_options(setting, {"causal"})
    causal = options.get("causal", False)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(
                q, k, v, is_causal=causal, enable_gqa=setting.grouped
            )

    return attend


def sdpa_flash(setting: Setting) -> Attend:
    return _sdpa(setting, SDPBackend.FLASH_ATTENTION)


def sdpa_cudnn(setting: Setting) -> Attend:
    return _sdpa(setting, SDPBackend.CUDNN_ATTENTION)


def flash_attn(setting: Setting) -> Attend:
    try:
        library = importlib.import_module("flash_attn")
    except ImportError as error:
        raise NotApplicableError("flash_attn is not installed") from error
    options = _plain_options(
        setting, {"causal", "window_size", "softcap", "alibi_slopes", "bottom_right"}
    )
    options.pop("bottom_right", None)  # its causal masks always are

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        turned = (t.transpose(1, 2) for t in (q, k, v))
        return library.flash_attn_func(*turned, **options).transpose(1, 2)

    return attend


def _plain_options(setting: Setting, known: set[str]) -> dict[str, Any]:
    options = setting.mods.peers
    if options is None or not options.keys() <= known:
        raise NotApplicableError("it has no such variant")
    return dict(options)


CONTESTANTS: dict[str, Callable[[Setting], Attend]] = {
    "ours": ours,
    "torch_flex": torch_flex,
    "sdpa_flash": sdpa_flash,
    "sdpa_cudnn": sdpa_cudnn,
    "flash_attn": flash_attn,
}


def compile_alone() -> None:
    """Compile in this process, not in a pool that each of several processes would start."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
