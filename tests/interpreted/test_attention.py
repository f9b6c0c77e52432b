"""flex_attention on the Triton backend, interpreted: shapes, dtypes, layouts, kinds of masks."""

from __future__ import annotations

import pytest
import torch
from attention_calls import check, dense, distance, qkv
from torch import Tensor

from flexattn import BlockMask, cache_info, create_block_mask, flex_attention
from flexattn.op.triton_decode import Decode

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at inf - inf


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def band(b, h, q_idx, kv_idx):
    return (q_idx - kv_idx).abs() <= 9 + 5 * h + b


def nothing_late(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx < 30)


def capped(score, b, h, q_idx, kv_idx):
    return 4 * torch.tanh(score / 4)


def biased(score, b, h, q_idx, kv_idx):
    return score - 0.1 * (h + 1) * (q_idx - kv_idx).abs()


SHAPES = {
    "square": (2, 1, 1, 48, 48, 16, 16),
    "odd": (1, 2, 2, 37, 53, 16, 16),
    "gqa, Dv": (1, 4, 2, 33, 20, 16, 24),
    "odd dims": (1, 2, 1, 20, 35, 40, 20),
    "one key": (1, 1, 1, 5, 1, 16, 16),
    "narrow": (1, 2, 2, 18, 17, 3, 5),
}


@pytest.mark.parametrize("score", [None, capped, biased], ids=["plain", "tanh", "bias"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_without_a_mask(shape: tuple[int, ...], score) -> None:  # type: ignore[no-untyped-def]
    check(qkv(shape), score)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    mask = create_block_mask(causal, 1, 1, 40, 45, BLOCK_SIZE=16)
    check(qkv((1, 2, 1, 40, 45, 24, 16), dtype), capped, mask)


MASKS = {
    "causal": (causal, 1, 1, 32),
    "small blocks": (causal, 1, 1, 16),
    "odd blocks": (causal, 1, 1, (20, 12)),
    "per head": (band, 2, 2, (16, 32)),
    "empty rows": (nothing_late, 1, 1, 16),
    "one block": (causal, 1, 1, 1 << 30),
    "nothing": (lambda b, h, q, kv: q < 0, 1, 1, 16),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks(kind: str) -> None:
    mod, batch, heads, block = MASKS[kind]
    mask = create_block_mask(mod, batch, heads, 41, 50, BLOCK_SIZE=block)
    check(qkv((batch, 2, 1, 41, 50, 16, 16)), biased, mask)


def test_blocks_of_one_query() -> None:
    mask = create_block_mask(band, 1, 1, 7, 20, BLOCK_SIZE=(1, 3))
    check(qkv((1, 1, 1, 7, 20, 16, 16)), biased, mask)


def test_without_a_list_of_full_blocks() -> None:
    mask = create_block_mask(causal, 1, 1, 41, 50, BLOCK_SIZE=16, separate_full_blocks=False)
    check(qkv((1, 2, 2, 41, 50, 16, 16)), None, mask)


@pytest.mark.parametrize("block", [(16, 32), (16, 12)], ids=["even", "uneven"])
def test_lists_of_the_user(block: tuple[int, int]) -> None:
    """Unsorted, narrow, with strides, and a full block that reaches beyond the last key."""
    m, n = 40, 3 * block[1] + 5
    rows = 3
    partial = torch.tensor([[2, 9], [0, 1], [3, 0]], dtype=torch.int32)
    full = torch.tensor([[3, 0, 7], [3, 2, 9], [9, 9, 9]], dtype=torch.int32).t().contiguous().t()
    counts = torch.tensor([1, 1, 2], dtype=torch.int32), torch.tensor([2, 2, 0]).int()
    mask = BlockMask.from_kv_blocks(
        counts[0], partial, counts[1], full, BLOCK_SIZE=block, mask_mod=band, seq_lengths=(m, n)
    )
    kept = torch.zeros(rows, 4, 2, dtype=torch.bool)
    for row in range(rows):
        kept[row, partial[row, : counts[0][row]].long(), 0] = True
        kept[row, full[row, : counts[1][row]].long(), 1] = True
    listed = kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:m, :n]

    def meaning(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return (listed[q, kv, 0] & band(b, h, q, kv)) | listed[q, kv, 1]

    check(qkv((1, 2, 2, m, n, 16, 16)), biased, mask, mask=meaning)


def test_a_batch_of_keys_for_all() -> None:
    mask = create_block_mask(band, 2, 2, 30, 35, BLOCK_SIZE=16)
    check(qkv((2, 2, 1, 30, 35, 16, 16), kv_batch=1), biased, mask)


@pytest.mark.parametrize("scale", [-0.7, 0.0, 2.5])
def test_scales(scale: float) -> None:
    check(qkv((1, 2, 2, 20, 25, 16, 16)), None, scale=scale)
    check(qkv((1, 2, 2, 20, 25, 16, 16)), capped, scale=scale)


@pytest.mark.parametrize("layout", ["transposed", "innermost", "unaligned", "negated"])
def test_layouts(layout: str) -> None:
    def view(tensor: Tensor) -> Tensor:
        match layout:
            case "transposed":
                return tensor.transpose(1, 2).contiguous().transpose(1, 2)
            case "innermost":
                return tensor.mT.contiguous().mT
            case "unaligned":
                return torch.nn.functional.pad(tensor, (1, 0))[..., 1:]
        return torch.complex(tensor, tensor).conj().imag

    inputs = [view(t.detach()).requires_grad_() for t in qkv((2, 2, 1, 20, 25, 16, 16))]
    check(inputs, biased, create_block_mask(causal, 1, 1, 20, 25, BLOCK_SIZE=16))


def test_without_descriptors() -> None:
    mask = create_block_mask(causal, 1, 1, 41, 50, BLOCK_SIZE=16)
    check(qkv((1, 2, 1, 41, 50, 24, 40)), biased, mask, kernel_options={"USE_TMA": False})


@pytest.mark.parametrize("shape", [(0, 2, 2, 4, 4, 8, 8), (1, 2, 2, 0, 4, 8, 8)], ids=str)
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    check(qkv(shape))


def test_no_keys() -> None:
    q, k, v = (t.detach() for t in qkv((1, 2, 2, 4, 0, 8, 8)))
    out, lse = flex_attention(q, k, v, return_lse=True, backend="triton")
    assert not out.any() and bool((lse == -torch.inf).all())


# Few queries ----------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """(parts, packed) of each launch for few queries."""
    launches: list[tuple[int, bool]] = []
    launch = Decode.launch

    def recording(self: Decode, *args):  # type: ignore[no-untyped-def]
        launches.append((self.part_shape[0], self.kernel.source.choices.pack))
        launch(self, *args)

    monkeypatch.setattr(Decode, "launch", recording)
    return launches


@pytest.mark.parametrize(
    ("shape", "packed"),
    [
        ((2, 2, 1, 1, 131, 16, 16), True),
        ((1, 4, 1, 3, 100, 16, 24), True),
        ((1, 2, 2, 8, 90, 32, 16), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True])
def test_few_queries(
    decoded: list[tuple[int, bool]], shape: tuple[int, ...], packed: bool, masked: bool
) -> None:
    late = shape[4] - shape[3]

    def recent(b, h, q_idx, kv_idx):
        return (kv_idx <= q_idx + late - 5) & (kv_idx > 40)

    mask = create_block_mask(recent, 1, 1, shape[3], shape[4], BLOCK_SIZE=(128, 32))
    check(qkv(shape), biased, mask if masked else None)
    assert len(decoded) == 1 and decoded[0][0] > 1 and decoded[0][1] == packed


def test_lists_per_head_are_not_packed(decoded: list[tuple[int, bool]]) -> None:
    mask = create_block_mask(band, 1, 4, 2, 100, BLOCK_SIZE=(128, 16))
    check(qkv((1, 4, 2, 2, 100, 16, 16)), None, mask)
    assert [packed for _, packed in decoded] == [False]


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_parts_the_user_asks_for(decoded: list[tuple[int, bool]], parts: int) -> None:
    options = {"BACKEND": "TRITON_DECODE", "SPLIT_KV": parts}
    mask = create_block_mask(nothing_late, 1, 1, 35, 70, BLOCK_SIZE=(64, 16))
    check(qkv((1, 2, 1, 35, 70, 16, 16)), capped, mask, kernel_options=options)
    assert decoded == [(parts, True)]


def test_few_queries_by_the_forward_kernel(decoded: list[tuple[int, bool]]) -> None:
    check(qkv((1, 2, 1, 2, 90, 16, 16)), kernel_options={"FORCE_USE_FLEX_ATTENTION": True})
    assert not decoded


# Kernels --------------------------------------------------------------------------------------


def test_shapes_share_kernels() -> None:
    """B, H, M and N are arguments: one set of kernels serves them all."""

    def own(score, b, h, q_idx, kv_idx):
        return score * 1.25 - h

    built = []
    for batch, heads, rows, keys in ((1, 1, 40, 40), (2, 1, 65, 33), (1, 2, 70, 9)):
        inputs = qkv((batch, heads, heads, rows, keys, 16, 16))
        mask = create_block_mask(causal, 1, 1, rows, keys, BLOCK_SIZE=16)
        out = flex_attention(*inputs, own, mask, backend="triton")
        out.sum().backward()
        exact = dense([t.detach() for t in inputs], torch.float64, own, causal)[0]
        assert distance(out, exact) < 2e-6
        built.append(cache_info().kernels_built + cache_info().disk_hits)
    assert built[0] == built[-1]


def test_what_is_written_to_lists_counts() -> None:
    """Lists by column and the order of tiles follow the tables, not the objects that hold them."""
    mask = create_block_mask(causal, 1, 1, 48, 48, BLOCK_SIZE=16)
    inputs = qkv((1, 1, 1, 48, 48, 16, 16))
    check(inputs, None, mask)
    mask.kv_num_blocks.zero_()  # the diagonal goes, and what lies below it stays
    listed = torch.arange(48) // 16
    check(inputs, None, mask, mask=lambda b, h, q, kv: listed[q] > listed[kv])
