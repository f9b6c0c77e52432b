"""create_block_mask and create_mask against PyTorch's and against brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention as peer

from flexattn.errors import (
    ArgumentError,
    BackendError,
    BlockMaskError,
    CaptureDeviceError,
    DivisionByZeroError,
    IndexOutOfRangeError,
    ModReturnError,
    ModSignatureError,
)
from flexattn.masks import and_masks, noop_mask, not_mask, or_masks
from flexattn.op.create import create_block_mask, create_mask
from flexattn.runtime.counters import cache_info

IDS = torch.arange(100) // 7
TABLE = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) < 0.5
LIMIT = torch.tensor(11)


def causal(b, h, q, kv):  # type: ignore[no-untyped-def]
    return q >= kv


def document(b, h, q, kv):  # type: ignore[no-untyped-def]
    return IDS[q] == IDS[kv]


MODS: dict[str, Any] = {
    "causal": causal,
    "document": document,
    "window": lambda b, h, q, kv: abs(q - kv) <= 4,
    "table": lambda b, h, q, kv: TABLE[b, h] | (q // 3 == kv // 3),
    "batch": lambda b, h, q, kv: kv < 9 + 5 * b,
    "head": lambda b, h, q, kv: (q - kv) % (h + 2) == 0,
    "scalar": lambda b, h, q, kv: kv < LIMIT,
    "row": lambda b, h, q, kv: q > 10,
    "nested": or_masks(and_masks(causal, document), not_mask(lambda b, h, q, kv: kv > 2)),
    "noop": noop_mask,
    "never": lambda b, h, q, kv: q < 0,
}
BACKENDS = ["eager", pytest.param("cpp", marks=pytest.mark.cpu)]
TABLES = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
Q_TABLES = ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")


def brute(mod: Any, shape: tuple[int, int, int, int]) -> Tensor:
    out = torch.zeros(shape, dtype=torch.bool)
    q, kv = torch.arange(shape[2])[:, None], torch.arange(shape[3])[None]
    for b in range(shape[0]):
        for h in range(shape[1]):
            out[b, h] = mod(torch.tensor(b), torch.tensor(h), q, kv)
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(MODS)),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 60), st.integers(1, 60)),
    block=st.sampled_from([1, 7, 16, (16, 8), (5, 128)]),
    separate=st.booleans(),
)
def test_tables_are_pytorchs(
    backend: str, name: str, shape: Any, block: Any, separate: bool
) -> None:
    theirs = peer.create_block_mask(
        MODS[name], *shape, device="cpu", BLOCK_SIZE=block, separate_full_blocks=separate
    )
    mine = create_block_mask(
        MODS[name],
        *shape,
        device="cpu",
        BLOCK_SIZE=block,
        separate_full_blocks=separate,
        backend=backend,
    )
    assert mine.shape == theirs.shape and mine.BLOCK_SIZE == theirs.BLOCK_SIZE
    assert mine.mask_mod is MODS[name]
    for table in TABLES + Q_TABLES:
        a, b = getattr(mine, table), getattr(theirs, table)
        assert (a is None and b is None) or torch.equal(a, b), table


@pytest.mark.parametrize("name", sorted(MODS))
def test_create_mask_is_dense(name: str) -> None:
    shape = (2, 3, 21, 34)
    mask = create_mask(MODS[name], *shape)
    assert mask.dtype == torch.bool and torch.equal(mask, brute(MODS[name], shape))
    assert create_mask(MODS[name], None, None, 5, 6).shape == (1, 1, 5, 6)


def test_create_mask_of_a_score_mod() -> None:
    def banded(score, b, h, q, kv):  # type: ignore[no-untyped-def]
        return torch.where(q - kv < 3 + h, score + 1, -float("inf"))

    mine, theirs = (
        make(banded, 2, 2, 20, 9, device="cpu") for make in (create_mask, peer.create_mask)
    )
    assert torch.equal(mine, theirs) and not mine.all()


def test_independence_costs_no_memory() -> None:
    mask = create_block_mask(causal, 64, 32, 256, 256, BLOCK_SIZE=16)
    assert mask.kv_indices.shape == (64, 32, 16, 16)
    assert mask.kv_indices.stride()[:2] == (0, 0) and mask.q_indices.stride()[:2] == (0, 0)
    by_batch = create_block_mask(MODS["batch"], 4, 32, 64, 64, BLOCK_SIZE=16)
    assert by_batch.kv_indices.stride()[0] > 0 and by_batch.kv_indices.stride()[1] == 0
    calls: list[int] = []

    def once(b, h, q, kv):  # type: ignore[no-untyped-def]
        calls.append(1)
        return q >= kv

    create_block_mask(once, 8, 8, 64, 64)
    assert len(calls) == 1


def test_empty_lengths_and_none() -> None:
    assert create_block_mask(causal, None, None, 300, 200).shape == (1, 1, 300, 200)
    for lengths in ((0, 0), (0, 300), (300, 0)):
        mask = create_block_mask(causal, 2, None, *lengths)
        assert mask.shape == (2, 1, *lengths) and mask.numel() == 0
        assert create_mask(causal, 2, None, *lengths).shape == (2, 1, *lengths)
    assert create_block_mask(causal, 0, 2, 8, 8).shape == (0, 2, 8, 8)


def test_pytorchs_other_arguments() -> None:
    mask = create_block_mask(
        causal,
        1,
        1,
        300,
        300,
        "cpu",
        128,
        True,
        True,
        compute_dq_write_order=True,
        dq_kv_order=False,
    )
    assert mask.dq_write_order is None
    assert torch.equal(mask.kv_indices, create_block_mask(causal, 1, 1, 300, 300).kv_indices)


def test_adjust_grows_by_the_mask_mod() -> None:
    grown = create_block_mask(document, 1, 1, 30, 30, BLOCK_SIZE=8)._adjust(50, 70)
    fresh = create_block_mask(document, 1, 1, 50, 70, BLOCK_SIZE=8)
    assert torch.equal(grown.to_dense(), fresh.to_dense())
    step = fresh[:, :, 3]
    rows = torch.arange(8)[:, None] + 24
    assert torch.equal(create_mask(step.mask_mod, 1, 1, 8, 70)[0, 0], IDS[rows] == IDS[:70])


@pytest.mark.parametrize(
    "index", [(0,), (slice(1, 3), -1), ([2, 0], 1, [3, 0, 1]), (1, 1, slice(2, 4))]
)
def test_mods_of_slices_can_be_traced(index: Any) -> None:
    whole = create_block_mask(MODS["table"], 3, 2, 43, 30, BLOCK_SIZE=8)
    part = whole[index]
    found = create_block_mask(part.mask_mod, *part.shape, BLOCK_SIZE=8)
    assert torch.equal(found.to_dense(), part.to_dense())


# Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_index_outside_a_capture(backend: str) -> None:
    short = torch.arange(10)

    def reads_far(b, h, q, kv):  # type: ignore[no-untyped-def]
        return short[kv] >= 0

    with pytest.raises(IndexOutOfRangeError, match=r"(?s)reads_far.*index 10.*kv_idx=10"):
        create_block_mask(reads_far, 1, 1, 12, 12, BLOCK_SIZE=4, backend=backend)
    guarded = and_masks(lambda b, h, q, kv: kv < 10, reads_far)
    mask = create_block_mask(guarded, 1, 1, 12, 12, BLOCK_SIZE=4, backend=backend)
    assert mask.to_dense()[0, 0, 0].tolist() == [1, 1, 1]
    chosen = create_block_mask(
        lambda b, h, q, kv: torch.where(kv < 10, short[kv] >= 0, False),
        1,
        1,
        12,
        12,
        backend=backend,
    )
    assert chosen.to_dense().sum() == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_division_by_zero(backend: str) -> None:
    divisors = torch.tensor([3, 0, 2])
    with pytest.raises(DivisionByZeroError):
        create_block_mask(lambda b, h, q, kv: q % divisors[kv] >= 0, 1, 1, 3, 3, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_division_by_zero_that_would_read_as_false(backend: str) -> None:
    with pytest.raises(DivisionByZeroError):
        create_block_mask(lambda b, h, q, kv: q % 0 == 1, 1, 1, 3, 3, backend=backend)


def test_a_score_mod_is_refused() -> None:
    with pytest.raises(ModSignatureError, match=r"(?s)'soft'.*score.*flex_attention"):

        def soft(score, b, h, q, kv):  # type: ignore[no-untyped-def]
            return score * 2

        create_block_mask(soft, 1, 1, 8, 8)


@pytest.mark.parametrize("mod", [None, 3, torch.ones(8, 8), lambda q, kv: q >= kv])
def test_what_is_no_mask_mod(mod: Any) -> None:
    with pytest.raises(ModSignatureError):
        create_block_mask(mod, 1, 1, 8, 8)


@pytest.mark.parametrize("mod", [lambda b, h, q, kv: q - kv, lambda b, h, q, kv: (q >= kv) + 1])
def test_a_number_is_no_mask(mod: Any) -> None:
    with pytest.raises(ModReturnError):
        create_block_mask(mod, 1, 1, 8, 8)


@pytest.mark.parametrize(
    "arguments",
    [
        {"B": -1},
        {"H": 1.5},
        {"B": True},
        {"Q_LEN": -1},
        {"KV_LEN": None},
        {"BLOCK_SIZE": 0},
        {"BLOCK_SIZE": (1, 2, 3)},
    ],
)
def test_bad_sizes(arguments: dict[str, Any]) -> None:
    with pytest.raises(BlockMaskError, match=r"(?s)why.*fix"):
        create_block_mask(
            **({"mask_mod": causal, "B": 1, "H": 1, "Q_LEN": 8, "KV_LEN": 8} | arguments)
        )


def test_devices() -> None:
    far = torch.arange(8, device="meta")
    with pytest.raises(CaptureDeviceError, match="meta"):
        create_block_mask(lambda b, h, q, kv: far[q] >= 0, 1, 1, 8, 8, device="cpu")
    assert create_block_mask(document, 1, 1, 8, 8).device.type == "cpu"
    with pytest.raises(BackendError):
        create_block_mask(causal, 1, 1, 8, 8, backend="fast")


# Cost -------------------------------------------------------------------------------------------


def test_small_masks_need_no_compiler() -> None:
    size = torch.randint(3, 9, (1,)).item() + 0.5  # a mask of this run alone, so no cached kernel
    before = cache_info()
    create_block_mask(lambda b, h, q, kv: q * size > kv, 1, 1, 512, 512, BLOCK_SIZE=64)
    assert cache_info().compiler_runs == before.compiler_runs
    assert cache_info().kernels_built == before.kernels_built


@pytest.mark.cpu
def test_large_masks_are_made_by_a_kernel() -> None:
    mask = create_block_mask(causal, 1, 1, 8192, 8192 - 50)
    rows = torch.arange(64)
    assert torch.equal(mask.full_kv_num_blocks[0, 0], rows.int())
    assert torch.equal(mask.kv_num_blocks[0, 0], torch.ones(64, dtype=torch.int32))
    assert torch.equal(mask.kv_indices[0, 0, :, 0], rows.int())
    assert torch.equal(mask.full_q_num_blocks[0, 0], (63 - rows).int())


def test_the_environment_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXATTN_BACKEND", "eager")
    assert create_block_mask(causal, 1, 1, 8, 8).shape == (1, 1, 8, 8)
    monkeypatch.setenv("FLEXATTN_BACKEND", "nonsense")
    with pytest.raises(BackendError, match="nonsense"):
        create_block_mask(causal, 1, 1, 8, 8)


def test_memory_is_bounded() -> None:
    """PyTorch takes 10 bytes a pair here: 640 MB."""
    create_block_mask(document, 1, 1, 64, 64, backend="eager")
    before = peak_of_process()
    wide = torch.arange(8192) // 100
    create_block_mask(lambda b, h, q, kv: wide[q] == wide[kv], 1, 1, 8192, 8192, backend="eager")
    assert peak_of_process() - before < 100_000_000


def peak_of_process() -> int:
    """Highest resident memory so far, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs Linux")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_where_no_values_exist_a_mask_has_its_shape() -> None:
    far = torch.arange(8, device="meta")
    mask = create_block_mask(lambda b, h, q, kv: far[q] >= far[kv], 1, 1, 8, 8, BLOCK_SIZE=4)
    assert mask.device.type == "meta" and mask.shape == (1, 1, 8, 8)


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for device in ("cuda", "cuda:1", torch.device("cuda")):
        with pytest.raises(ArgumentError, match="the mask is to lie on cuda"):
            create_block_mask(lambda b, h, q, k: q >= k, None, None, 8, 8, device=device)
