"""Many Python threads, forked children and DataLoader workers call at once."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from flexattn import create_block_mask, flex_attention

torch_sdpa = torch.nn.functional.scaled_dot_product_attention


def _attend(seed: int, table_grad: bool = False) -> bool:
    generator = torch.Generator().manual_seed(seed)
    rows = 20 + seed % 7
    q, k, v = (
        torch.randn(1, 2, rows, 8, generator=generator).requires_grad_(table_grad) for _ in range(3)
    )
    table = torch.randn(rows, generator=generator)
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, rows, rows, backend="eager")
    size = 3.0 + seed
    out = flex_attention(q, k, v, lambda s, b, h, q, k: s + size * table[k], mask)
    causal = torch.ones(rows, rows, dtype=torch.bool).tril()
    bias = (size * table).expand(rows, rows).masked_fill(~causal, -torch.inf)
    want = torch_sdpa(q, k, v, attn_mask=bias)
    same = torch.allclose(out, want, atol=1e-5)
    if table_grad:
        for got, expected in zip(
            torch.autograd.grad(out.square().sum(), (q, k, v)),
            torch.autograd.grad(want.square().sum(), (q, k, v)),
            strict=True,
        ):
            same &= torch.allclose(got, expected, atol=1e-4)
    return same


def test_threads() -> None:
    results: list[bool] = []

    def work(first: int) -> None:
        results.extend(_attend(seed, table_grad=seed % 2 == 0) for seed in range(first, first + 8))

    threads = [threading.Thread(target=work, args=(8 * i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 48 and all(results)


def _in_child(results: multiprocessing.SimpleQueue, q: torch.Tensor, want: list[torch.Tensor]):
    torch.zeros(1 << 20)  # torch's own OpenMP loops would hang in the child as ours would
    leaf = q.clone().requires_grad_()
    found = [flex_attention(leaf, leaf, leaf, lambda s, b, h, q, k: s + 0.25 * k)]
    found += torch.autograd.grad(found[0].sum(), leaf)
    results.put(
        [bool(((a - b).abs() < 1e-4).all()) for a, b in zip(found, want, strict=True)],
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_computes_rather_than_hangs() -> None:
    q = torch.randn(1, 4, 300, 16)
    leaf = q.clone().requires_grad_()
    want = [torch_sdpa(leaf, leaf, leaf, attn_mask=0.25 * torch.arange(300.0).expand(300, 300))]
    want += torch.autograd.grad(want[0].sum(), leaf)
    want[0] = want[0].detach()
    flex_attention(q, q, q)  # the parent's threads exist now
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = context.Process(target=_in_child, args=(results, q, want))
        child.start()
    child.join(60)
    alive = child.is_alive()
    if alive:
        child.kill()
    assert not alive and child.exitcode == 0
    assert results.get() == [True, True]


class _Attention(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, seed: int) -> bool:
        return _attend(seed)


def test_data_loader_workers() -> None:
    _attend(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = [bool(ok) for batch in DataLoader(_Attention(), num_workers=2) for ok in batch]
    assert found == [True] * 6
