"""kernel_options: PyTorch's keys are accepted, anything else is refused."""

from __future__ import annotations

from typing import Any

import pytest
from torch.nn.attention.flex_attention import FlexKernelOptions as TorchOptions

from flexattn.errors import KernelOptionError
from flexattn.op.options import (
    BLOCK_LISTS,
    OPTIONS,
    block_list,
    check_kernel_options,
    read_kernel_options,
)

pytestmark = pytest.mark.null

GOOD = {int: 16, bool: True, str: "AUTO"}


def test_every_key_of_pytorch_is_known() -> None:
    assert set(TorchOptions.__annotations__) <= set(OPTIONS)


@pytest.mark.parametrize("key", sorted(TorchOptions.__annotations__))
def test_every_key_of_pytorch_takes_a_value(key: str) -> None:
    kind = str(TorchOptions.__annotations__[key])
    value = "TRITON" if key == "BACKEND" else True if "bool" in kind else 16
    check_kernel_options({key: value})
    if key != "BACKEND":
        check_kernel_options({f"fwd_{key}": value, f"bwd_{key}": value})


@pytest.mark.parametrize(
    "options",
    [
        {"BLOCK_M": 48},
        {"BLOCK_M": 0},
        {"BLOCK_M": True},
        {"num_warps": 0},
        {"num_stages": -1},
        {"PRESCALE_QK": 1},
        {"BACKEND": "CUDNN"},
        {"BACKEND": 3},
        {"fwd_BACKEND": "AUTO"},
        {"block_list": "list"},
        {"block_list": None},
        {"block_list": True},
        {"bwd_block_list": "table"},
        {"FLOAT32_PRECISION": "tf64"},
        {"OUTPUT_LOGSUMEXP": True},
        {"SM_SCALE": 1.0},
        {"block_m": 64},
        {"fwd_": 1},
        {3: 4},
        {"BACKEND": "AUTO", "FORCE_USE_FLEX_ATTENTION": True},
        ["BLOCK_M"],
    ],
    ids=str,
)
def test_bad_options(options: Any) -> None:
    with pytest.raises(KernelOptionError) as caught:
        check_kernel_options(options)
    assert caught.value.why and caught.value.fix


def test_block_list_is_checked_and_no_concern_of_backends() -> None:
    for value in BLOCK_LISTS:
        options = {"block_list": value, "num_warps": 4}
        assert read_kernel_options(options) == (("num_warps", 4),)
        assert block_list(options) == value
    assert block_list(None) is block_list({}) is block_list({"num_warps": 4}) is None
