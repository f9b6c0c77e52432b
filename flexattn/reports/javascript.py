"""Two mods as JavaScript, with the values that its functions take: for pages that draw them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexattn.lowering.to_javascript import lower_javascript, runtime
from flexattn.reports.problem import Mod, make_problem, trace

__all__ = ["JavaScript", "javascript", "runtime"]


@dataclass(frozen=True)
class JavaScript:
    """One program and the values of one call.

    Attributes:
        text: A function of the runtime that gives ``{score, mask}``, see `lowering/to_javascript`.
        ints: Lifted whole numbers.
        floats: Other lifted numbers.
        captures: Captured tensors as ``{"shape": …, "data": …}``, flat, whole numbers alone; for
            floats there is ``"f32"`` in place of ``"data"``: the bytes of an array of little-endian
            float32 as base64, so that every bit arrives, in few letters.
    """

    text: str
    ints: list[int]
    floats: list[float]
    captures: list[dict[str, Any]]


def javascript(
    score_mod: Mod | None = None, mask_mod: Mod | None = None, *, B: int = 1, H: int = 8,
    Q_LEN: int = 1024, KV_LEN: int | None = None,
) -> JavaScript:  # fmt: skip
    """What two mods are in JavaScript at one problem, in float32.

    Raises:
        FlexAttentionError: As `flex_attention` would for these mods.
    """
    problem = make_problem(B, H, Q_LEN, KV_LEN, 64, None, None, torch.float32)
    bound = trace(score_mod, mask_mod, problem).bound
    captures = [_data(tensor) for tensor in bound.captures]
    text = lower_javascript(bound.variant.program)
    return JavaScript(text, list(bound.ints), list(bound.floats), captures)


def _data(tensor: Tensor) -> dict[str, Any]:
    shape, flat = list(tensor.shape), tensor.detach().flatten()
    if not tensor.is_floating_point():
        return {"shape": shape, "data": flat.long().tolist()}
    values = flat.float().numpy().astype("<f4").tobytes()
    return {"shape": shape, "f32": base64.b64encode(values).decode()}
