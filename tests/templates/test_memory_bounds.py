"""Kernels touch nothing outside their tensors: inputs and outputs lie between forbidden pages."""

from __future__ import annotations

import ctypes
import math
import mmap

import pytest
import torch
from dense import random_inputs
from mods_text import CAUSAL
from template_kernels import BEST, COMBINATIONS, backward, build, compute, forward, tables
from torch import Tensor

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(x: Tensor, *, end: bool) -> Tensor:
    """A copy of ``x`` that ends (or begins) at the edge of a page that may not be touched."""
    size = x.numel() * x.element_size()
    pages = -(-size // PAGE)
    base = LIBC.mmap(None, (pages + 2) * PAGE, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    for forbidden in (base, base + (pages + 1) * PAGE):
        assert LIBC.mprotect(forbidden, PAGE, 0) == 0
    start = base + PAGE + (pages * PAGE - size if end else 0)
    memory = (ctypes.c_char * size).from_address(start)
    copy = torch.frombuffer(memory, dtype=x.dtype, count=math.prod(x.shape)).view(x.shape)
    return copy.copy_(x)


@pytest.mark.parametrize(("dtype", "isa"), COMBINATIONS)
@pytest.mark.parametrize("end", [False, True])
def test_forward_and_backward(dtype: torch.dtype, isa: int, end: bool) -> None:
    for shape in (
        (1, 1, 1, 1, 7, 19, 5, 3),
        (1, 1, 2, 1, 65, 131, 33, 34),
        (1, 1, 1, 1, 1, 1, 1, 1),
    ):
        q, k, v = (guarded(x, end=end) for x in random_inputs(shape, dtype))
        room = torch.zeros(*q.shape[:3], v.shape[-1], dtype=dtype)
        out, lse, _, _ = forward(
            build("forward", CAUSAL, dtype=dtype, isa=isa), q, k, v, out=guarded(room, end=end)
        )
        lse = guarded(lse, end=end)
        dout = guarded(torch.ones_like(out), end=end)
        library = build("backward", CAUSAL, dtype=dtype, isa=isa)
        got = backward(library, q, k, v, out, lse, dout)
        assert not any(bool(g.isnan().any()) for g in got)
        assert lse.dtype == compute(dtype)


def test_table_entries_beyond_the_lengths_are_ignored() -> None:
    q, k, v = (
        guarded(x, end=True) for x in random_inputs((1, 1, 1, 1, 9, 21, 8, 8), torch.float32)
    )
    number = torch.tensor([[[4]]], dtype=torch.int32)
    index = torch.tensor([[[[0, 1, 2, 99999]]]], dtype=torch.int32)
    library = build("forward", "", dtype=torch.float32, isa=BEST)
    some = forward(library, q, k, v, **tables((number, index), None, 16, 8))
    every = forward(library, q, k, v)
    torch.testing.assert_close(some[0], every[0])
