"""Calls whose kernels run on a mask's closed form: bit by bit what they give with its lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dense_attention import dense_attention

from flexattn import (
    BlockMask,
    cache_info,
    create_block_mask,
    create_mask,
    errors,
    flex_attention,
    not_mask,
)
from flexattn.masks import pairs
from flexattn.op import mask_reuse


def docs(length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(length, generator=generator) < 0.02).cumsum(0)


IDS = docs(900)
TEXT = torch.stack([docs(900, seed) for seed in range(2)])
VALID = torch.arange(900) < torch.tensor([700, 520]).reshape(2, 1)
LENGTHS = torch.tensor([700, 333])

MASKS: dict[str, Callable[..., Any]] = {
    "causal": lambda b, h, q, k: q >= k,
    "window": lambda b, h, q, k: (q >= k) & (q - k < 100),
    "both ways": lambda b, h, q, k: abs(q - k) <= 33,
    "prefix": lambda b, h, q, k: (k < 70) | (q >= k),
    "sink": lambda b, h, q, k: (q >= k) & ((k < 4) | (q - k < 128)),
    "chunks": lambda b, h, q, k: (q // 100 == k // 100) & (q >= k),
    "per head": lambda b, h, q, k: (q >= k) & (q - k < 50 * (h + 1)),
    "document": lambda b, h, q, k: (IDS[q] == IDS[k]) & (q >= k),
    "documents": lambda b, h, q, k: TEXT[b, q] == TEXT[b, k],
    "padding": lambda b, h, q, k: VALID[b, k] & (q >= k),
    "sink and documents": lambda b, h, q, k: (
        (IDS[q] == IDS[k]) & (q >= k) & ((k < 4) | (q - k < 128))
    ),
    "prefix of documents": lambda b, h, q, k: ((k < 70) | (q >= k)) & (IDS[q] == IDS[k]),
    "first heads": lambda b, h, q, k: (q >= k) & ((h < 2) | (q - k < 100)),
    "lengths": lambda b, h, q, k: (q >= k) & (k < LENGTHS[b]),
    "queries too": lambda b, h, q, k: (q >= k) & VALID[b, q],
    "strict": lambda b, h, q, k: q > k,
}


def inputs(q_len: int, kv_len: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(q_len)
    shapes = ((2, 4, q_len, 16), (2, 2, kv_len, 16), (2, 2, kv_len, 24))
    return [torch.randn(*s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def results(mask: BlockMask, tensors: list[torch.Tensor], block_list: str) -> list[torch.Tensor]:
    out, lse = flex_attention(
        *tensors,
        block_mask=mask,
        enable_gqa=True,
        return_lse=True,
        kernel_options={"block_list": block_list},
    )
    loss = (out * torch.linspace(-1, 1, out.shape[-1])).sum() + lse[lse > -1e9].sum()
    return [out, lse, *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(
    ("lengths", "block"),
    [((777, 777), (128, 128)), ((300, 650), (64, 32)), ((640, 384), (128, 64))],
)
def test_the_same_bits(name: str, lengths: tuple[int, int], block: tuple[int, int]) -> None:
    mask = create_block_mask(MASKS[name], 2, 4, *lengths, BLOCK_SIZE=block)
    assert mask._form is not None and mask._form.kernel_ranges is not None
    tensors = inputs(*lengths)
    by_list = results(mask, tensors, "table")
    by_form = results(mask, tensors, "closed_form")
    for one, other in zip(by_list, by_form, strict=True):
        assert torch.equal(one, other)
    want, *_ = dense_attention(*(t.detach().double() for t in tensors), mask_mod=MASKS[name])
    torch.testing.assert_close(by_form[0].double(), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MASKS)
def test_pairs_are_counted_without_looking_at_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = create_block_mask(MASKS[name], 2, 4, 500, 731, BLOCK_SIZE=64)
    dense = create_mask(MASKS[name], 2, 4, 500, 731, device="cpu")
    monkeypatch.setattr(pairs, "count_kept", None)
    assert mask.sparsity(exact=True) == pytest.approx(100 * (1 - dense.double().mean().item()))


def test_other_lengths_and_windows_build_nothing() -> None:
    def run(length: int, window: int) -> None:
        mask = create_block_mask(
            lambda b, h, q, k: (q >= k) & (q - k < window), None, None, length, length
        )
        results(mask, inputs(length, length), "closed_form")

    run(400, 100)
    run(500, 117)
    before = cache_info()
    for length, window in ((600, 130), (333, 64), (801, 99)):
        run(length, window)
    after = cache_info()
    assert (before.kernels_built, before.disk_hits) == (after.kernels_built, after.disk_hits)


def test_long_lists_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = create_block_mask(MASKS["window"], None, None, 777, 777)
    tensors = inputs(777, 777)
    want = flex_attention(*tensors, block_mask=mask, enable_gqa=True)
    fresh = create_block_mask(MASKS["window"], None, None, 777, 777)
    monkeypatch.setattr(mask_reuse, "LONG_LISTS", 1)
    assert torch.equal(flex_attention(*tensors, block_mask=fresh, enable_gqa=True), want)
    assert fresh._kernel is None
    monkeypatch.setattr(mask_reuse, "_kept", type(mask_reuse._kept)())
    got = flex_attention(*tensors, mask_mod=MASKS["window"], enable_gqa=True)
    assert torch.equal(got, want)


def test_a_million_tokens_on_a_closed_form() -> None:
    """Rows of 8,192 blocks, a mask of half a megabyte, and no list."""
    n = 1 << 20
    mask = create_block_mask(lambda b, h, q, k: (q >= k) & (q - k < 64), None, None, n, n)
    q, k, v = (torch.randn(1, 1, n, 8) for _ in range(3))
    out = flex_attention(q, k, v, block_mask=mask, kernel_options={"block_list": "closed_form"})
    tail = slice(n - 300, n)
    want, *_ = dense_attention(
        *(t[:, :, tail].double() for t in (q, k, v)),
        mask_mod=lambda b, h, q, k: (q >= k) & (q - k < 64),
    )
    torch.testing.assert_close(
        out[:, :, n - 100 :].double(), want[:, :, -100:], atol=1e-5, rtol=1e-5
    )


def test_lists_of_the_moment_the_mask_was_made_stay() -> None:
    """Ids written to later change what the mask_mod keeps, not which blocks are visited."""
    ids = docs(512)
    mask = create_block_mask(lambda b, h, q, k: ids[q] == ids[k], None, None, 512, 512)
    tensors = inputs(512, 512)
    results(mask, tensors, "closed_form")
    ids[:] = 0
    with pytest.raises(errors.KernelOptionError, match="written to since"):
        results(mask, tensors, "closed_form")
    assert mask.sparsity(exact=True) == mask.sparsity()  # of the blocks listed, all pairs
    results(mask, tensors, "table")


@pytest.mark.parametrize(
    "make",
    [
        lambda: create_block_mask(MASKS["causal"], None, None, 512, 512)[:, :, 1:],
        lambda: create_block_mask(not_mask(lambda b, h, q, k: (q * k) % 7 == 0), 1, 1, 512, 512),
        lambda: create_block_mask(MASKS["per head"], None, None, 512, 512),
    ],
    ids=["a part", "no form", "made for one head"],
)
def test_what_has_no_form_for_kernels_says_so(make: Callable[[], BlockMask]) -> None:
    mask = make()
    with pytest.raises(errors.KernelOptionError, match="has to be read as lists"):
        results(mask, inputs(*mask.seq_lengths), "closed_form")


def test_lists_that_were_written_to_count() -> None:
    mask = create_block_mask(MASKS["causal"], None, None, 512, 512)
    mask.kv_num_blocks[..., -1] = 0
    with pytest.raises(errors.KernelOptionError, match="lists were written to"):
        results(mask, inputs(512, 512), "closed_form")


@pytest.mark.parametrize("options", [None, {"block_list": "closed_form"}], ids=["by size", "form"])
def test_an_exported_program_gives_the_same(options: dict[str, str] | None) -> None:
    mask = create_block_mask(MASKS["document"], None, None, 777, 777)

    class Attention(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return flex_attention(q, k, v, block_mask=mask, kernel_options=options)

    tensors = [torch.randn(2, 2, 777, 16) for _ in range(3)]
    exported = torch.export.export(Attention(), tuple(tensors), strict=False)
    assert torch.equal(exported.module()(*tensors), Attention()(*tensors))


def test_a_compiled_region_refuses_a_closed_form() -> None:
    mask = create_block_mask(MASKS["causal"], None, None, 512, 512)
    with pytest.raises(Exception, match="is 'closed_form' in a compiled region"):
        torch.compile(lambda q: results(mask, [q, q, q], "closed_form"), fullgraph=True)(
            torch.randn(1, 2, 512, 16)
        )


def test_ids_whose_writes_nothing_counts_are_read_as_lists() -> None:
    with torch.inference_mode():
        ids = docs(512)
    mask = create_block_mask(lambda b, h, q, k: ids[q] == ids[k], None, None, 512, 512)
    with pytest.raises(errors.KernelOptionError, match="has to be read as lists"):
        results(mask, inputs(512, 512), "closed_form")
