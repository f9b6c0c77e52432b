"""Images and video among the study's masks: neighbourhoods, windows, tiles of 2 and 3 axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from study_masks import Mod, floor, mask


def natten(width: int, height: int, kernel: int, place: Callable[..., Any]) -> Mod:
    def mod(b, h, q, k):  # type: ignore[no-untyped-def]
        (y, x), (v, u) = place(q), place(k)
        top = (y - kernel // 2).clamp(0, max(0, height - kernel))
        left = (x - kernel // 2).clamp(0, max(0, width - kernel))
        return (v >= top) & (v < top + kernel) & (u >= left) & (u < left + kernel)

    return mod


def rows_of(width: int) -> Callable[..., Any]:
    return lambda i: (i // width, i % width)


for _width in (64, 100, 1000):

    def _natten(n: int, g: torch.Generator, width: int = _width) -> Mod:
        width = min(width, n // 8)
        return natten(width, n // width + 1, 7, rows_of(width))

    mask(f"70 natten w{_width}")(_natten)


@mask("69 SASA w90")
def _(n: int, g: torch.Generator) -> Mod:
    w = min(90, n // 4)
    return lambda b, h, q, k: (abs(q // w - k // w) <= 3) & (abs(q % w - k % w) <= 3)


@mask("71 tiled natten")
def _(n: int, g: torch.Generator) -> Mod:
    wide = 16

    def place(i):  # type: ignore[no-untyped-def]
        tile, inner = i // 64, i % 64
        return tile // wide * 8 + inner // 8, tile % wide * 8 + inner % 8

    return natten(128, max(8, n // 128), 7, place)


@mask("72 morton natten")
def _(n: int, g: torch.Generator) -> Mod:
    def squeeze(i):  # type: ignore[no-untyped-def]
        i = i & 0x55555555
        for shift, bits in ((1, 0x33333333), (2, 0x0F0F0F0F), (4, 0x00FF00FF), (8, 0x0000FFFF)):
            i = (i | (i >> shift)) & bits
        return i

    side = int(n**0.5) + 1
    return natten(side, side, 7, lambda i: (squeeze(i >> 1), squeeze(i)))


@mask("74 GNA dilated")
def _(n: int, g: torch.Generator) -> Mod:
    width = 64

    def mod(b, h, q, k):  # type: ignore[no-untyped-def]
        near = (abs(q // width // 4 - k // width // 4) <= 1) & (q // width % 4 == k // width % 4)
        return near & (abs(q % width // 4 - k % width // 4) <= 2) & (q % 4 == k % 4)

    return mod


@mask("76 swin shifted")
def _(n: int, g: torch.Generator) -> Mod:
    width, win = 64, 8
    height = n // width + 1

    def window(i):  # type: ignore[no-untyped-def]
        r, c = (i // width + 4) % height, (i % width + 4) % width
        return r // win * 1000 + c // win

    def region(i):  # type: ignore[no-untyped-def]
        r, c = i // width, i % width
        return torch.where(r < height - 4, 0, 1) * 2 + torch.where(c < width - 4, 0, 1)

    return lambda b, h, q, k: (window(q) == window(k)) & (region(q) == region(k))


@mask("79 maxvit grid")
def _(n: int, g: torch.Generator) -> Mod:
    return lambda b, h, q, k: (q // 64 % 8 == k // 64 % 8) & (q % 64 % 8 == k % 64 % 8)


@mask("80 criss-cross")
def _(n: int, g: torch.Generator) -> Mod:
    w = min(200, n // 4)
    return lambda b, h, q, k: (q // w == k // w) | (q % w == k % w)


@mask("86 temporal")
def _(n: int, g: torch.Generator) -> Mod:
    size = floor(n, 20) * 1560 // 1638
    return lambda b, h, q, k: q % size == k % size


@mask("86s spatial")
def _(n: int, g: torch.Generator) -> Mod:
    size = floor(n, 20) * 1560 // 1638
    return lambda b, h, q, k: q // size == k // size


@mask("87 sliding tiles")
def _(n: int, g: torch.Generator) -> Mod:
    def tile(i):  # type: ignore[no-untyped-def]
        t = i // 128
        return t // 16, t % 16 // 4, t % 4

    def mod(b, h, q, k):  # type: ignore[no-untyped-def]
        keep = q >= 0
        for x, y in zip(tile(q), tile(k)):
            keep = keep & (abs(x - y) <= 1)
        return keep

    return mod


@mask("88 SVG temporal")
def _(n: int, g: torch.Generator) -> Mod:
    frame, prompt = floor(n, 13), n // 40

    def mod(b, h, q, k):  # type: ignore[no-untyped-def]
        near = abs((q - prompt) % frame - (k - prompt) % frame) < frame // 10
        return (q < prompt) | (k < prompt) | near

    return mod


@mask("89 radial")
def _(n: int, g: torch.Generator) -> Mod:
    t = floor(n, 16)

    def mod(b, h, q, k):  # type: ignore[no-untyped-def]
        far, inside = abs(q // t - k // t), abs(q % t - k % t)
        keep = far == 0
        for step in range(4):
            keep = keep | ((far >= 1 << step) & (far < 2 << step) & (inside < t >> (step + 1)))
        return keep | ((far >= 16) & (far % 4 == 0) & (inside < 2))

    return mod
