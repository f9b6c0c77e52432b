"""What goes wrong on the Triton backend is said as on the others."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from attention_calls import check, poisoned, qkv

from flexattn import create_block_mask, flex_attention, verify
from flexattn.errors import (
    DivisionByZeroError,
    FlexAttentionError,
    IndexOutOfRangeError,
    KernelOptionError,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at inf - inf
SHORT = torch.randn(9)


def reads_outside(score, b, h, q_idx, kv_idx):
    return score + SHORT[kv_idx]


def guarded(score, b, h, q_idx, kv_idx):
    return torch.where(kv_idx < 9, score + SHORT[kv_idx], score)


def divides(score, b, h, q_idx, kv_idx):
    return score + (q_idx + 1) // (q_idx - kv_idx)


def fault(backend: str, *arguments: Any, **options: Any) -> FlexAttentionError:
    with pytest.raises(FlexAttentionError) as caught:
        flex_attention(*arguments, backend=backend, **options)
    return caught.value


@pytest.mark.parametrize("rows", [1, 20], ids=["decode", "forward"])
def test_faults_are_named_as_by_the_other_backends(rows: int) -> None:
    inputs = qkv((1, 2, 1, rows, 150, 16, 16))
    for mod, kind in ((reads_outside, IndexOutOfRangeError), (divides, DivisionByZeroError)):
        found, wanted = (fault(name, *inputs, mod, enable_gqa=True) for name in ("triton", "eager"))
        assert type(found) is kind and str(found) == str(wanted)


def test_faults_in_blocks_kept_whole() -> None:
    mask = create_block_mask(lambda b, h, q, k: k >= 16, 1, 1, 32, 64, BLOCK_SIZE=16)
    inputs = qkv((1, 1, 1, 32, 64, 16, 16))
    found, wanted = (fault(name, *inputs, reads_outside, mask) for name in ("triton", "eager"))
    assert str(found) == str(wanted) and "kv_idx=16" in str(found)


def test_what_is_guarded_or_masked_is_no_fault() -> None:
    mask = create_block_mask(lambda b, h, q, k: k < 9, 1, 1, 20, 25, BLOCK_SIZE=16)
    inputs = qkv((1, 1, 1, 20, 25, 16, 16))
    for arguments in ((guarded,), (reads_outside, mask)):
        with poisoned():
            found = flex_attention(*inputs, *arguments, backend="triton")
        wanted = flex_attention(*inputs, *arguments, backend="eager")
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"BLOCK_M": 8},
        {"num_stages": 0},
        {"num_warps": 3},
        {"BACKEND": "TRITON_DECODE"},
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    mask = create_block_mask(lambda b, h, q, k: q >= k, 1, 1, 40, 40, BLOCK_SIZE=16)
    with pytest.raises(KernelOptionError) as caught:
        flex_attention(
            *qkv((1, 1, 1, 40, 40, 16, 16)), None, mask, backend="triton", kernel_options=options
        )
    assert caught.value.why and caught.value.fix


def test_tiles_the_user_asks_for() -> None:
    options = {"BLOCK_M": 64, "BLOCK_N": 16, "bwd_BLOCK_M1": 16, "bwd_BLOCK_N2": 64}
    check(qkv((1, 2, 2, 40, 45, 16, 16)), kernel_options=options)


def test_verify_covers_this_backend() -> None:
    found = verify(guarded, B=1, H=1, Q_LEN=20, KV_LEN=25, D=16)
    assert found.ok, str(found)
    assert {"triton", "cpp", "eager"} == {check.backend for check in found.checks}


def test_the_environment_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXATTN_BACKEND", "triton")
    q, k, v = (t.detach() for t in qkv((1, 1, 1, 8, 9, 16, 16)))
    with poisoned():
        out = flex_attention(q, k, v)
    monkeypatch.delenv("FLEXATTN_BACKEND")
    torch.testing.assert_close(out, flex_attention(q, k, v, backend="eager"))


def test_without_triton() -> None:
    """A process in which Triton cannot be imported."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, flexattn\n"
        "q = torch.randn(1, 1, 8, 16)\n"
        "flexattn.flex_attention(q, q, q, backend='eager')\n"
        "try: flexattn.flex_attention(q, q, q, backend='triton')\n"
        "except flexattn.errors.TritonNotFoundError as error: print(error.fix)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install" in done.stdout
