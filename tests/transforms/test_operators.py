"""The torch operators: what PyTorch checks of an operator, shapes without data, FLOPs, saving."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from torch.utils.flop_counter import FlopCounterMode

from flexattn import AuxRequest, create_block_mask, flex_attention
from flexattn.op.operators import backward_op, blocks_op, forward_op, is_watched


class Recorder(TorchDispatchMode):
    """Keeps the calls of our operators."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "flexattn":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def calls(case):
    """Arguments of the operators in one forward and backward, tables and captures included."""
    with Recorder() as recorder:
        torch.autograd.grad(case.fused(*case.inputs).sum(), case.inputs)
    return dict(recorder.calls)


def test_a_mode_sees_the_operators_and_the_same_numbers(case):
    expected = case.fused(*case.inputs)
    with Recorder() as recorder:
        out = case.fused(*case.inputs)
        grads = torch.autograd.grad(out.sum(), case.inputs)
    assert torch.equal(out, expected)
    assert [func for func, _ in recorder.calls] == [blocks_op, forward_op, backward_op]
    dense = torch.autograd.grad(case.dense(*case.inputs).sum(), case.inputs)
    torch.testing.assert_close(grads, dense, rtol=1e-4, atol=1e-5)


def test_plain_calls_are_not_watched(case):
    assert not is_watched(case.inputs)
    assert is_watched([torch.empty(1, device="meta")])
    with Recorder():
        assert is_watched(case.inputs)


@pytest.mark.parametrize("op", [forward_op, backward_op, blocks_op], ids=str)
def test_opcheck(calls, op):
    arguments = calls[op]
    if op is backward_op:  # it has no derivative, which opcheck would ask for
        arguments = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, arguments)
    torch.library.opcheck(op, arguments)


def test_opcheck_without_tables_or_captures(case):
    with Recorder() as recorder:
        flex_attention(*case.inputs[:3], return_aux=AuxRequest(lse=True, max_scores=True))
    ((op, arguments),) = recorder.calls
    torch.library.opcheck(op, arguments)


def test_program_and_options_are_text(calls):
    program, options = calls[forward_op][5], calls[forward_op][9]
    assert "tanh" in program
    assert json.loads(options)["block"] == [8, 8]


def test_fake_tensors_have_the_real_shapes_and_strides(case):
    def run(tensor):
        # Heads after positions in memory, as a projection leaves them.
        query, key = (tensor(2, 10, 4, 8).transpose(1, 2) for _ in range(2))
        value = tensor(2, 4, 10, 6)
        mask = create_block_mask(lambda b, h, q, kv: q >= kv, None, None, 10, 10, device="cpu")
        request = AuxRequest(lse=True, max_scores=True)
        out, aux = flex_attention(query, key, value, None, mask, return_aux=request)
        return out, aux.lse, aux.max_scores

    real = run(torch.randn)
    with torch._subclasses.FakeTensorMode():
        fake = run(torch.randn)
    for a, b in zip(real, fake, strict=True):
        assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_meta_tensors(dtype):
    query, key, value = (
        torch.empty(2, 4, length, 8, device="meta", dtype=dtype) for length in (5, 9, 9)
    )
    out, lse = flex_attention(query, key, value, lambda s, b, h, q, k: s * 2, return_lse=True)
    assert (out.shape, out.dtype, out.device.type) == (query.shape, dtype, "meta")
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_flops_count_listed_blocks(case):
    length, block = 64, 16
    query, key, value = (torch.randn(1, 2, length, 8) for _ in range(3))
    mask = create_block_mask(
        lambda b, h, q, kv: q // 16 == kv // 16, None, None, length, length, "cpu", block
    )
    with FlopCounterMode(display=False) as counter:
        flex_attention(query, key, value)
    assert counter.get_total_flops() == 2 * 2 * length * length * (8 + 8)
    with FlopCounterMode(display=False) as counter:
        flex_attention(query, key, value, block_mask=mask)
    assert counter.get_total_flops() == 2 * 2 * length * block * (8 + 8)


# Saving memory and autocast -------------------------------------------------------------------


def gradients(case, run):
    for tensor in case.inputs:
        tensor.grad = None
    run(*case.inputs).sin().sum().backward()
    return [tensor.grad for tensor in case.inputs]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(case, use_reentrant):
    expected = gradients(case, case.fused)
    saving = functools.partial(checkpoint, case.fused, use_reentrant=use_reentrant)
    torch.testing.assert_close(gradients(case, saving), expected, rtol=0, atol=0)


@pytest.mark.parametrize("save", [True, False])
def test_selective_checkpointing_sees_the_operator(case, save):
    def policy(ctx, op, *args, **kwargs):
        if op is forward_op and save:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    expected = gradients(case, case.fused)
    saving = functools.partial(
        checkpoint,
        case.fused,
        use_reentrant=False,
        context_fn=functools.partial(create_selective_checkpoint_contexts, policy),
    )
    with Recorder() as recorder:
        actual = gradients(case, saving)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    forwards = [func for func, _ in recorder.calls if func is forward_op]
    assert len(forwards) == (1 if save else 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_casts_what_pytorch_casts(case, dtype):
    query, key, value, bias = (tensor.detach().to(dtype) for tensor in case.inputs)
    inputs = [tensor.requires_grad_() for tensor in (query, key, value, bias)]
    with torch.autocast("cpu", torch.bfloat16):
        out = case.fused(*inputs)
    low = torch.bfloat16 if dtype == torch.float32 else torch.float64
    assert out.dtype == low
    expected = case.fused(*(tensor.to(low) for tensor in inputs[:3]), bias)
    assert torch.equal(out, expected)
    grads = torch.autograd.grad(out.sum(), inputs)
    wanted = torch.autograd.grad(expected.sum(), inputs)
    assert [grad.dtype for grad in grads] == [dtype] * 4
    torch.testing.assert_close(grads, wanted, rtol=0, atol=0)
