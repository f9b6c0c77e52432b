"""``mask_mod=`` without a block mask: right, and made once while nothing it depends on changes."""

from __future__ import annotations

import pytest
import torch
from dense_attention import dense_attention

from flexattn import clear_cache, flex_attention
from flexattn.op import mask_reuse


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per block mask that was really made."""
    clear_cache()
    calls: list[int] = []
    create = mask_reuse.create_block_mask

    def counted(*arguments, **options):
        calls.append(1)
        return create(*arguments, **options)

    monkeypatch.setattr(mask_reuse, "create_block_mask", counted)
    return calls


def _qkv(rows: int = 30, keys: int = 40) -> list[torch.Tensor]:
    return [torch.randn(2, 2, n, 4) for n in (rows, keys, keys)]


def _attend(mask_mod, *tensors) -> torch.Tensor:
    found = flex_attention(*tensors, mask_mod=mask_mod, backend="eager")
    torch.testing.assert_close(found, dense_attention(*tensors, None, mask_mod)[0])
    return found


def test_equal_masks_are_made_once(made: list[int]) -> None:
    for _ in range(3):
        _attend(lambda b, h, q, k: q >= k, *_qkv())
    assert len(made) == 1


def test_numbers_lengths_and_batch_matter(made: list[int]) -> None:
    for size in (5, 6, 7, 5, 6):
        _attend(lambda b, h, q, k, n=size: q - k < n, *_qkv())
    assert len(made) == 3
    _attend(lambda b, h, q, k: q - k < 6, *_qkv(31, 40))
    assert len(made) == 4
    _attend(lambda b, h, q, k: q + b >= k + h, *_qkv())
    assert len(made) == 5


def test_captured_bytes_matter(made: list[int]) -> None:
    doc, tensors = torch.arange(40) // 9, _qkv()

    def mask(b, h, q, k):
        return doc[q] == doc[k]

    _attend(mask, *tensors)
    version = doc._version
    doc.data[:20] = 1  # neither the identity nor the version changes
    assert doc._version == version
    _attend(mask, *tensors)
    assert len(made) == 2
    copy = doc.clone()
    _attend(lambda b, h, q, k: copy[q] == copy[k], *tensors)
    assert len(made) == 2


def test_shape_of_captures_matters(made: list[int]) -> None:
    for shape in ((2, 40), (4, 40)):
        keep = torch.arange(160).view(4, 40)[: shape[0]] % 3 != 0
        _attend(lambda b, h, q, k, keep=keep: keep[b, k], *_qkv())
    assert len(made) == 2


def test_nan_bytes_are_equal_to_themselves(made: list[int]) -> None:
    table = torch.full((40,), float("nan"))
    for _ in range(2):
        _attend(lambda b, h, q, k: table[k] != table[k], *_qkv())
    assert len(made) == 1


def test_kept_masks_are_bounded(made: list[int]) -> None:
    q = torch.randn(1, 1, 4, 4)
    for size in range(mask_reuse.KEPT_MASKS + 9):
        flex_attention(q, q, q, mask_mod=lambda b, h, q, k, n=size: q < n, backend="eager")
    assert len(mask_reuse._kept) <= mask_reuse.KEPT_MASKS


def test_streams_and_graphs_make_their_own(
    made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stream waits for another; a mask made in a CUDA graph has no values until a replay."""

    def attend(size: int) -> None:
        _attend(lambda b, h, q, k: q - k < size, *_qkv())

    attend(5)
    monkeypatch.setattr(mask_reuse, "stream_on", lambda device: 7)
    attend(5)
    attend(5)
    assert len(made) == 2
    monkeypatch.setattr(mask_reuse, "is_capturing", lambda query: True)
    attend(5)
    assert len(made) == 2 and len(mask_reuse._in_graphs) == 1
    attend(6)
    monkeypatch.setattr(mask_reuse, "is_capturing", lambda query: False)
    attend(6)
    assert len(made) == 4
    mask_reuse._in_graphs.clear()
