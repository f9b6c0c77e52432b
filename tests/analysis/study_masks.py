"""The masks on which block proofs are measured: one row per mask of the feasibility study.

Each builder takes the number of tokens and a seed and gives (mask_mod, Q_LEN, KV_LEN). Numbers
are scaled down with the length, so that every mask keeps its shape on a few hundred tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Mod = Callable[..., Any]
Case = tuple[Mod, int, int]
MASKS: dict[str, Callable[[int, torch.Generator], Case]] = {}


def mask(name: str) -> Callable[..., Any]:
    def register(make: Callable[[int, torch.Generator], Mod | Case]) -> Any:
        def build(n: int, g: torch.Generator) -> Case:
            made = make(n, g)
            return made if isinstance(made, tuple) else (made, n, n)

        MASKS[name] = build
        return make

    return register


def build(name: str, n: int, seed: int = 0) -> Case:
    return MASKS[name](n, torch.Generator().manual_seed(seed))


def documents(n: int, g: torch.Generator, mean: int | None = None) -> Tensor:
    """Sorted ids of documents of random lengths."""
    return (torch.rand(n, generator=g) < 1 / (mean or max(8, n // 20))).cumsum(0)


def floor(n: int, parts: int) -> int:
    return max(2, n // parts)


def simple(name: str, make: Callable[[int], Mod]) -> None:
    mask(name)(lambda n, g: make(n))


simple("01 noop", lambda n: lambda b, h, q, k: q >= 0)
simple("02 causal", lambda n: lambda b, h, q, k: q >= k)
simple("05 window", lambda n: lambda b, h, q, k: (q >= k) & (q - k < floor(n, 8)))
simple("06 window both ways", lambda n: lambda b, h, q, k: abs(q - k) <= floor(n, 128))
simple(
    "07 asymmetric or",
    lambda n: (
        lambda b, h, q, k: ((q >= k) & (q - k < floor(n, 16))) | ((q < k) & (k - q < floor(n, 40)))
    ),
)
simple("08 dilated", lambda n: lambda b, h, q, k: (abs(q - k) <= floor(n, 8)) & ((q - k) % 4 == 0))
simple(
    "08b widely dilated",
    lambda n: lambda b, h, q, k: (abs(q - k) <= n // 2) & ((q - k) % floor(n, 16) == 0),
)
simple("10 sink + window", lambda n: lambda b, h, q, k: (q >= k) & ((k < 4) | (q - k < n // 8)))
simple(
    "14 strided",
    lambda n: (
        lambda b, h, q, k: (q >= k) & ((q - k < floor(n, 64)) | ((q - k) % floor(n, 64) == 0))
    ),
)
simple(
    "15 fixed",
    lambda n: (
        lambda b, h, q, k: (
            (q >= k)
            & ((q // floor(n, 32) == k // floor(n, 32)) | (k % floor(n, 32) >= floor(n, 32) - 3))
        )
    ),
)
simple(
    "16 logsparse",
    lambda n: lambda b, h, q, k: (q == k) | ((q > k) & (((q - k) & (q - k - 1)) == 0)),
)
simple(
    "17 longnet",
    lambda n: (
        lambda b, h, q, k: (q // floor(n, 4) == k // floor(n, 4)) & (q % 4 == 1) & (k % 4 == 1)
    ),
)
simple(
    "18 longlora",
    lambda n: (
        lambda b, h, q, k: (
            ((q + floor(n, 16)) // floor(n, 8) == (k + floor(n, 16)) // floor(n, 8)) & (q >= k)
        )
    ),
)
simple(
    "19 chunked",
    lambda n: lambda b, h, q, k: ((q - 37) // floor(n, 4) == (k - 37) // floor(n, 4)) & (q >= k),
)


@mask("03 causal offset")
def _(n: int, g: torch.Generator) -> Case:
    return (lambda b, h, q, k: q + n // 2 >= k), n // 2, n


@mask("12 longformer")
def _(n: int, g: torch.Generator) -> Mod:
    chosen = torch.rand(n, generator=g) < 4 / n
    return lambda b, h, q, k: (abs(q - k) <= n // 32) | chosen[q] | chosen[k]


@mask("13 bigbird")
def _(n: int, g: torch.Generator) -> Mod:
    size = floor(n, 128)
    last = (n - 1) // size
    rand = torch.randint(0, last + 1, (last + 1, 3), generator=g)

    def mod(b, h, q, k):  # type: ignore[no-untyped-def]
        x, y = q // size, k // size
        near = (y == 0) | (y == last) | (x == 0) | (x == last) | (abs(x - y) <= 1)
        return near | (rand[x, 0] == y) | (rand[x, 1] == y) | (rand[x, 2] == y)

    return mod


@mask("20 batchify")
def _(n: int, g: torch.Generator) -> Mod:
    size = floor(n, 8) - 3
    return lambda b, h, q, k: (q // size == k // size) & (q % size >= k % size)


simple("21 block causal", lambda n: lambda b, h, q, k: q // 96 >= k // 96)
simple(
    "22 chunk limited",
    lambda n: lambda b, h, q, k: (q // 50 - k // 50 >= 0) & (q // 50 - k // 50 <= 3),
)


@mask("24 vertical slash")
def _(n: int, g: torch.Generator) -> Mod:
    v, s = torch.rand(n, generator=g) < 9 / n, torch.rand(n, generator=g) < 9 / n
    return lambda b, h, q, k: (q >= k) & (v[k] | s[q - k])


simple("27 checkerboard", lambda n: lambda b, h, q, k: abs(q - k) % 2 == 1)
simple("29 ragged", lambda n: lambda b, h, q, k: k < n * 5 // 8 - 3)


@mask("28 key padding")
def _(n: int, g: torch.Generator) -> Mod:
    valid = (torch.arange(n) < n - n // 20) & (torch.arange(n) > n // 30)
    return lambda b, h, q, k: valid[k] & (q >= k)


@mask("30 document")
def _(n: int, g: torch.Generator) -> Mod:
    doc = documents(n, g)
    return lambda b, h, q, k: doc[q] == doc[k]


@mask("30c document causal")
def _(n: int, g: torch.Generator) -> Mod:
    doc = documents(n, g)
    return lambda b, h, q, k: (doc[q] == doc[k]) & (q >= k)


@mask("30u documents permuted")
def _(n: int, g: torch.Generator) -> Mod:
    doc = documents(n, g)[torch.randperm(n, generator=g)]
    return lambda b, h, q, k: doc[q] == doc[k]


@mask("30s documents shuffled")
def _(n: int, g: torch.Generator) -> Mod:
    chunks = torch.arange(n) // 32
    order = torch.randperm(int(chunks.max()) + 1, generator=g)
    doc = order[chunks] // 4
    return lambda b, h, q, k: doc[q] == doc[k]


@mask("31 packed interval")
def _(n: int, g: torch.Generator) -> Mod:
    doc = documents(n, g)
    start = torch.searchsorted(doc, torch.arange(int(doc.max()) + 1))
    return lambda b, h, q, k: (k >= start[doc[q]]) & (q >= k)


@mask("32 position remap")
def _(n: int, g: torch.Generator) -> Mod:
    doc = documents(n, g)
    pos = torch.arange(n) - torch.searchsorted(doc, doc)
    return lambda b, h, q, k: (doc[q] == doc[k]) & (pos[q] >= pos[k]) & (pos[q] - pos[k] < n // 30)


simple("33 prefix", lambda n: lambda b, h, q, k: (k < n // 30) | (q >= k))


@mask("35 shared prefix")
def _(n: int, g: torch.Generator) -> Mod:
    doc = documents(n, g)
    parent = torch.arange(int(doc.max()) + 1) // 4 * 4
    parent = parent.clamp(min=int(doc.min()))
    return lambda b, h, q, k: (
        ((doc[q] == doc[k]) & (q >= k)) | ((parent[doc[q]] == doc[k]) & (doc[q] != doc[k]))
    )


@mask("36 document tree")
def _(n: int, g: torch.Generator) -> Mod:
    doc = documents(n, g)
    count = int(doc.max()) + 1
    anc = torch.eye(count, dtype=torch.bool)
    for child in range(1, count):
        anc[child] |= anc[int(torch.randint(0, child, (1,), generator=g))]
    return lambda b, h, q, k: anc[doc[q], doc[k]] & ((doc[q] != doc[k]) | (q >= k))


@mask("37 RAG blocks")
def _(n: int, g: torch.Generator) -> Mod:
    block, asks = documents(n, g), torch.arange(n) >= n - n // 16
    return lambda b, h, q, k: (q >= k) & ((block[q] == block[k]) | asks[q])


simple(
    "38 gist",
    lambda n: lambda b, h, q, k: (q >= k) & ~((q >= n // 2 + 10) & (k < n // 2)),
)


@mask("39 hidden span")
def _(n: int, g: torch.Generator) -> Mod:
    turn = documents(n, g)
    hidden = (torch.arange(n) % max(9, n // 20)) < max(3, n // 50)
    return lambda b, h, q, k: (q >= k) & (~hidden[k] | (turn[q] == turn[k]))


@mask("44 tree verify")
def _(n: int, g: torch.Generator) -> Case:
    size = min(1000, n // 4)
    prefix = n - size
    anc = torch.eye(size, dtype=torch.bool)
    for child in range(1, size):
        anc[child] |= anc[int(torch.randint(max(0, child - 40), child, (1,), generator=g))]

    def mod(b, h, q, k):  # type: ignore[no-untyped-def]
        return (k < prefix) | anc[q, (k - prefix).clamp(0, size - 1)]

    return mod, size, n


@mask("48 block diffusion")
def _(n: int, g: torch.Generator) -> Mod:
    half, size = n // 2, 32

    def mod(b, h, q, k):  # type: ignore[no-untyped-def]
        clean_q, clean_k = q >= half, k >= half
        x = torch.where(clean_q, q - half, q) // size
        y = torch.where(clean_k, k - half, k) // size
        own = (x == y) & ~clean_q & ~clean_k
        offset = (x > y) & clean_k & ~clean_q
        return own | offset | ((x >= y) & clean_k & clean_q)

    return mod


@mask("51 random rank")
def _(n: int, g: torch.Generator) -> Mod:
    rank = torch.randperm(n, generator=g)
    return lambda b, h, q, k: rank[q] >= rank[k]


@mask("54 levels")
def _(n: int, g: torch.Generator) -> Mod:
    level = documents(n, g)
    return lambda b, h, q, k: level[q] >= level[k]


@mask("55 frames")
def _(n: int, g: torch.Generator) -> Mod:
    t = floor(n, 20) + 1
    return lambda b, h, q, k: (q // t >= k // t) & ((q // t - k // t < 3) | (k // t == 0))


def images(n: int, g: torch.Generator) -> Tensor:
    """Ids of images among text, which has id -1."""
    doc = documents(n, g)
    return torch.where(doc % 3 == 1, doc, -1)


@mask("60 transfusion")
def _(n: int, g: torch.Generator) -> Mod:
    img = images(n, g)
    return lambda b, h, q, k: (q >= k) | ((img[q] == img[k]) & (img[q] >= 0))


@mask("61 gemma3 local")
def _(n: int, g: torch.Generator) -> Mod:
    img = images(n, g)
    return lambda b, h, q, k: (q - k < n // 16) & ((q >= k) | ((img[q] == img[k]) & (img[q] >= 0)))


@mask("144 MoBA")
def _(n: int, g: torch.Generator) -> Mod:
    size = floor(n, 16)
    chosen = torch.rand(n, n // size + 1, generator=g) < 0.1
    return lambda b, h, q, k: (q >= k) & ((q // size == k // size) | chosen[q, k // size])


@mask("149 block map")
def _(n: int, g: torch.Generator) -> Mod:
    kept = torch.rand(n // 64 + 1, n // 64 + 1, generator=g) < 0.05
    return lambda b, h, q, k: kept[q // 64, k // 64]


@mask("151 LSH")
def _(n: int, g: torch.Generator) -> Mod:
    bucket = torch.randint(0, 32, (n,), generator=g)
    return lambda b, h, q, k: bucket[q] == bucket[k]


@mask("153 paged causal")
def _(n: int, g: torch.Generator) -> Mod:
    page = torch.randperm(n // 16 + 1, generator=g)
    page = torch.where(page % 3 == 0, -1, page)

    def mod(b, h, q, k):  # type: ignore[no-untyped-def]
        return (page[k // 16] >= 0) & (q >= page[k // 16] * 16 + k % 16)

    return mod


@mask("157 zigzag")
def _(n: int, g: torch.Generator) -> Mod:
    size = n // 4 + 1
    place = torch.cat([torch.arange(size), torch.arange(size) + 3 * size, torch.arange(2 * size)])
    return lambda b, h, q, k: place[q] >= place[k]


simple("158 striped", lambda n: lambda b, h, q, k: q * 4 + 1 >= k * 4 + 2)


@mask("165 flashmask")
def _(n: int, g: torch.Generator) -> Mod:
    start = (
        torch.arange(n)
        + torch.randint(1, n // 4 + 2, (n // 16 + 1,), generator=g)[torch.arange(n) // 16]
    )
    end = start + n // 8
    return lambda b, h, q, k: (q >= k) & ~((q >= start[k]) & (q < end[k]))


@mask("173 rows or columns")
def _(n: int, g: torch.Generator) -> Mod:
    row, col = (torch.randint(0, 40, (n,), generator=g) for _ in range(2))
    text = torch.rand(n, generator=g) < 0.02
    return lambda b, h, q, k: (row[q] == row[k]) | (col[q] == col[k]) | text[k]
