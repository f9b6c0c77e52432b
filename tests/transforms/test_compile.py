"""torch.compile over attention and mask building: same values, same gradients, few graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import flex_attention as pytorch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from flexattn import AuxRequest, BlockMask, create_block_mask, errors, flex_attention
from flexattn.op import dynamo
from flexattn.op.operators import forward_op

BACKENDS = ["eager", "aot_eager"]


class Counter:
    """A Dynamo backend that counts the graphs it is given."""

    def __init__(self, backend: str) -> None:
        self.backend, self.graphs = backend, 0

    def __call__(self, graph, example_inputs):
        self.graphs += 1
        return torch._dynamo.lookup_backend(self.backend)(graph, example_inputs)

    def compile(self, function: Callable) -> Callable:
        return torch.compile(function, backend=self, fullgraph=True)


@pytest.fixture(params=BACKENDS)
def counter(request) -> Counter:
    return Counter(request.param)


def assert_same_training(case, compiled, plain, *arguments):
    """Values and all gradients of two functions of the case's inputs agree."""
    actual, expected = (f(*case.inputs, *arguments) for f in (compiled, plain))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(out.sin().sum(), case.inputs) for out in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_captured_parameters_train(case, counter):
    assert_same_training(case, counter.compile(case.fused), case.dense)
    assert counter.graphs == 1


def test_twenty_numbers_take_few_graphs(case, counter):
    compiled = counter.compile(case.fused)
    for i in range(20):
        assert_same_training(case, compiled, case.dense, 1.0 + i / 4, 1 + i)
    assert counter.graphs <= 3


def test_twenty_closures_take_few_graphs(case, counter):
    def attend(query, key, value, score_mod, block_mask):
        return flex_attention(query, key, value, score_mod, block_mask)

    compiled, length = counter.compile(attend), case.query.shape[2]
    for i in range(20):
        mask = create_block_mask(
            case.mask_mod(i + 1), 2, None, length, length, device="cpu", BLOCK_SIZE=8
        )
        bias = torch.randn_like(case.bias)
        out = compiled(*case.inputs[:3], case.score_mod(bias, 2.0 + i), mask)
        expected = case.dense(*case.inputs[:3], bias, 2.0 + i, i + 1)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    assert counter.graphs <= 3


def test_twenty_scales_take_few_graphs(case, counter):
    compiled = counter.compile(lambda q, k, v, scale: flex_attention(q, k, v, scale=scale))
    for i in range(20):
        out = compiled(*case.inputs[:3], 0.1 + i / 7)
        expected = flex_attention(*case.inputs[:3], scale=0.1 + i / 7)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    assert counter.graphs <= 3


def test_twenty_shapes_take_few_graphs(case, counter):
    compiled = counter.compile(case.fused)
    for i in range(20):
        query, key, value = (torch.randn(2 + i % 3, 4, 5 + i, 8) for _ in range(3))
        bias = torch.randn(4, 2 * (5 + i) - 1)
        out = compiled(query, key, value, bias)
        torch.testing.assert_close(out, case.dense(query, key, value, bias), rtol=1e-5, atol=1e-6)
    assert counter.graphs <= 3


def test_an_exponent_is_a_number_of_its_own_graph(case):
    counter = Counter("aot_eager")

    def power(q, k, v, p):
        return flex_attention(q, k, v, lambda s, b, h, i, j: s.abs() ** p)

    compiled = counter.compile(power)
    for p in (2.0, 1.5, 2.5):
        inputs = case.inputs[:3]
        torch.testing.assert_close(compiled(*inputs, p), power(*inputs, p), rtol=1e-5, atol=1e-6)


class Slopes:
    """Mods as an object and as a bound method."""

    def __init__(self, slopes: torch.Tensor) -> None:
        self.slopes = slopes

    def __call__(self, score, b, h, q_idx, kv_idx):
        return score + self.slopes[h] * (kv_idx - q_idx)

    def method(self, score, b, h, q_idx, kv_idx):
        return self(score, b, h, q_idx, kv_idx)


def shifted(score, b, h, q_idx, kv_idx, *, slopes, offset):
    return score + slopes[h] * (kv_idx - q_idx + offset)


@pytest.mark.parametrize("kind", ["object", "method", "partial", "lambda", "nested"])
def test_kinds_of_mods(case, kind):
    slopes = torch.randn(4)
    mods = {
        "object": Slopes(slopes),
        "method": Slopes(slopes).method,
        "partial": functools.partial(shifted, slopes=slopes, offset=0),
        "lambda": lambda s, b, h, i, j: s + slopes[h] * (j - i),
        "nested": lambda *args: Slopes(slopes)(*args),
    }
    compiled = Counter("aot_eager").compile(flex_attention)
    distance = torch.arange(case.query.shape[2])
    bias = slopes.view(-1, 1, 1) * (distance - distance[:, None])
    expected = torch.nn.functional.scaled_dot_product_attention(*case.inputs[:3], attn_mask=bias)
    out = compiled(*case.inputs[:3], mods[kind])
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_auxiliary_outputs(case, counter):
    compiled = counter.compile(flex_attention)
    request = AuxRequest(lse=True, max_scores=True)
    out, aux = compiled(*case.inputs[:3], return_aux=request)
    score = case.query @ case.key.mT / case.query.shape[-1] ** 0.5
    torch.testing.assert_close(aux.lse, score.logsumexp(-1))
    torch.testing.assert_close(aux.max_scores, score.amax(-1))
    out, lse = compiled(*case.inputs[:3], return_lse=True)
    torch.testing.assert_close(lse, score.logsumexp(-1))
    actual = torch.autograd.grad(lse.sum(), case.inputs[:2])
    torch.testing.assert_close(
        actual, torch.autograd.grad(score.logsumexp(-1).sum(), case.inputs[:2])
    )
    assert out.shape == case.query.shape


def test_compiled_flex_attention_with_other_arguments(case, counter):
    compiled = counter.compile(flex_attention)
    key, value = torch.randn(2, 2, 2, 24, 8)
    arguments = {"enable_gqa": True, "kernel_options": {"BLOCK_M": 64}, "scale": 0.3}
    mods = {"mask_mod": case.mask_mod(5)}
    out = compiled(case.query, key, value, **arguments, **mods)
    expected = flex_attention(case.query, key, value, **arguments, **mods)
    torch.testing.assert_close(out, expected)


def test_compiled_create_block_mask(case, counter):
    compiled = counter.compile(create_block_mask)
    documents = torch.arange(50) // 7
    for window in (3, 8, 20):
        mods = [
            case.mask_mod(window),
            lambda b, h, q, kv, window=window: (documents[q] == documents[kv]) & (kv < 5 * window),
        ]
        for mod in mods:
            mask = compiled(mod, 2, None, 50, 50, device="cpu", BLOCK_SIZE=8)
            expected = create_block_mask(mod, 2, None, 50, 50, device="cpu", BLOCK_SIZE=8)
            assert isinstance(mask, BlockMask)
            assert (mask.shape, mask.BLOCK_SIZE) == (expected.shape, expected.BLOCK_SIZE)
            assert torch.equal(mask.to_dense(), expected.to_dense())
            assert torch.equal(mask.full_kv_num_blocks, expected.full_kv_num_blocks)
            query = torch.randn(2, 4, 50, 8)
            actual = flex_attention(query, query, query, block_mask=mask)
            torch.testing.assert_close(
                actual, flex_attention(query, query, query, block_mask=expected)
            )


def test_block_masks_of_pytorch(case, counter):
    length = case.query.shape[2]
    mask = pytorch.create_block_mask(
        case.mask_mod(5), 2, None, length, length, device="cpu", BLOCK_SIZE=8
    )
    out = counter.compile(flex_attention)(*case.inputs[:3], block_mask=mask)
    expected = flex_attention(*case.inputs[:3], block_mask=mask)
    torch.testing.assert_close(out, expected)


def test_compiled_checkpointing(case, counter):
    def saving(*inputs):
        return checkpoint(case.fused, *inputs, use_reentrant=False)

    assert_same_training(case, counter.compile(saving), case.dense)


def _keep_attention(ctx, op, *args, **kwargs):
    if op is forward_op:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def test_compiled_selective_checkpointing(case):
    contexts = functools.partial(create_selective_checkpoint_contexts, _keep_attention)

    def saving(*inputs):
        return checkpoint(case.fused, *inputs, use_reentrant=False, context_fn=contexts)

    assert_same_training(case, Counter("aot_eager").compile(saving), case.dense)


def test_compiled_autocast(case, counter):
    def low(*inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return case.fused(*inputs)

    out, expected = counter.compile(low)(*case.inputs), low(*case.inputs)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected)


def test_compiled_transforms(case):
    """torch.func inside a compiled region."""
    inputs = [tensor.detach() for tensor in case.inputs]

    def per_sample(*inputs):
        def loss(*inputs):
            return case.fused(*(t[None] for t in inputs[:3]), inputs[3]).sum()

        return torch.func.vmap(torch.func.grad(loss, (0, 3)), (0, 0, 0, None))(*inputs)

    compiled = torch.compile(per_sample, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), per_sample(*inputs), rtol=1e-4, atol=1e-5)


def test_mistakes_are_told_when_compiling(case):
    compiled = Counter("eager").compile(flex_attention)
    with pytest.raises(Exception, match="enable_gqa"):
        compiled(case.query, *torch.randn(2, 2, 2, 24, 8))


def test_an_unknown_torch_is_named(monkeypatch):
    known = torch._dynamo.variables.higher_order_ops
    monkeypatch.setattr(known, "_hop_name_to_variable_class", {})
    monkeypatch.delattr(known.FlexAttentionHigherOrderVariable, "create_wrapped_node")
    with pytest.raises(errors.TorchVersionError, match=r"2\.11 to 2\.13"):
        dynamo.install()


def test_a_mod_that_cannot_be_traced_is_named(case):
    def running_sum(score, b, h, q_idx, kv_idx):
        return score.cumsum(0)

    compiled = Counter("eager").compile(flex_attention)
    with pytest.raises(Exception, match="running_sum"):
        compiled(*case.inputs[:3], running_sum)


def test_a_mod_that_dynamo_gives_up_on_gets_its_own_error(case):
    def branching(score, b, h, q_idx, kv_idx):
        return score if q_idx > kv_idx else -score

    def numbered(b, h, q_idx, kv_idx):
        return q_idx.item() > kv_idx

    compiled = torch.compile(flex_attention, backend="eager")
    with pytest.raises(errors.TracedBranchError, match="branching"):
        compiled(*case.inputs[:3], branching)
    masked = torch.compile(create_block_mask, backend="eager")
    with pytest.raises(errors.TracedValueError, match="numbered"):
        masked(numbered, None, None, 24, 24, device="cpu")
    expected = flex_attention(*case.inputs[:3])
    torch.testing.assert_close(compiled(*case.inputs[:3]), expected)
