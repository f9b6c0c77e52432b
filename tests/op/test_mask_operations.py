"""Attention with masks made of masks: kernels read lists and functions as the masks say."""

from __future__ import annotations

import pytest
import torch
from dense_attention import dense_attention

from flexattn import BlockMask, create_block_mask, flex_attention
from flexattn.masks.tables import from_classes


def listed() -> BlockMask:
    """A list at odds with its mod, on ragged lengths."""
    classes = torch.tensor([[0, 1, 2, 1], [2, 0, 1, 0], [1, 2, 0, 1]], dtype=torch.uint8)
    return BlockMask._make(
        *from_classes(classes[None, None], True),
        seq_lengths=(44, 60),
        BLOCK_SIZE=(16, 16),
        mask_mod=lambda b, h, q, kv: (q * 3 + kv) % 5 > 1,
        _q_wanted=True,
    )


def documents() -> BlockMask:
    ids = torch.arange(60) // 9
    mod = lambda b, h, q, kv: (ids[q] == ids[kv]) | (kv < 3 * b)  # noqa: E731
    return create_block_mask(mod, 2, 1, 44, 60, BLOCK_SIZE=16)


def kept(mask: BlockMask) -> torch.Tensor:
    """Pair by pair, from the block list and the mod."""
    grid = torch.meshgrid(*map(torch.arange, mask.shape), indexing="ij")
    rows, columns = grid[2] // 16, grid[3] // 16
    listed = mask.to_dense()[grid[0], grid[1], rows, columns] == 1
    partial = BlockMask.from_kv_blocks(
        mask.kv_num_blocks, mask.kv_indices, BLOCK_SIZE=16, seq_lengths=mask.seq_lengths
    ).to_dense()[grid[0], grid[1], rows, columns]
    return listed & ((partial == 0) | mask.mask_mod(*grid))


WAYS = {
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "not": lambda a, b: ~a,
    "term": lambda a, b: ~(a & ~b) & (b | a),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_attention(way: str, backend: str) -> None:
    a, b = listed(), documents()
    mask = WAYS[way](a, b)
    check(mask, WAYS[way](kept(a), kept(b)), backend)


@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_attention_to_joined_batches_and_parts(backend: str) -> None:
    a, b = listed(), documents()
    wanted = torch.cat([kept(a), kept(b)])
    joined = BlockMask.cat([a, b])
    check(joined, wanted, backend)
    check(joined[:, :, :, [3, 1]], part(wanted), backend)


def part(whole: torch.Tensor) -> torch.Tensor:
    """Columns of blocks 3 (short of four keys, which nothing attends to) and 1."""
    short = torch.nn.functional.pad(whole[..., 48:], (0, 4))
    return torch.cat([short, whole[..., 16:32]], -1)


def check(mask: BlockMask, wanted: torch.Tensor, backend: str) -> None:
    batch = wanted.shape[0] if wanted.shape[0] > 1 else 2
    q, k, v = (
        torch.randn(batch, 2, length, 8, dtype=torch.float64, requires_grad=True)
        for length in (wanted.shape[2], wanted.shape[3], wanted.shape[3])
    )
    out = flex_attention(q, k, v, block_mask=mask, backend=backend)
    expected = dense_attention(q, k, v, keep=wanted)[0]
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, (q, k, v), grad)
    for mine, theirs in zip(found, torch.autograd.grad(expected, (q, k, v), grad)):
        torch.testing.assert_close(mine, theirs)
