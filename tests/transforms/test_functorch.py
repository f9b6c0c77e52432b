"""torch.func over attention: grad, vmap and their combinations against the dense formula."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

from flexattn import create_block_mask, flex_attention
from flexattn.errors import DoubleBackwardError, ForwardADError
from flexattn.ir.nodes import F32, I64, Apply, Input, Load
from flexattn.ir.program import CaptureType, Program
from flexattn.op.functorch import fold_program

N = 3
ALL = (0, 1, 2, 3)
DIMS = [
    (0, 0, 0, None),  # shared parameters: per-sample gradients of what is not mapped
    (0, None, 0, None),
    (None, 0, 0, 0),
    (None, None, None, 0),  # only a captured tensor is mapped
    (2, 1, 0, 1),
]


def loss(attention):
    return lambda *inputs: attention(*inputs).sin().sum()


def mapped(case, dims):
    """The case's inputs, with a mapped dimension of size N where ``dims`` says."""
    inputs = [tensor.detach() for tensor in case.inputs]
    return [
        tensor if dim is None else torch.randn(*tensor.shape[:dim], N, *tensor.shape[dim:])
        for tensor, dim in zip(inputs, dims)
    ]


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=2e-4, atol=2e-5)


def test_grad_reaches_inputs_and_captured_tensors(case):
    inputs = [tensor.detach() for tensor in case.inputs]
    assert_same(grad(loss(case.fused), ALL)(*inputs), grad(loss(case.dense), ALL)(*inputs))


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_vmap(case, dims):
    inputs = mapped(case, dims)
    assert_same(vmap(case.fused, dims)(*inputs), vmap(case.dense, dims)(*inputs))


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_vmap_of_grad_is_per_sample(case, dims):
    inputs = mapped(case, dims)
    actual = vmap(grad(loss(case.fused), ALL), dims)(*inputs)
    assert_same(actual, vmap(grad(loss(case.dense), ALL), dims)(*inputs))
    assert all(tensor.shape[0] == N for tensor in actual)


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_grad_of_vmap(case, dims):
    inputs = mapped(case, dims)

    def total(attention):
        return lambda *inputs: vmap(loss(attention), dims)(*inputs).sum()

    assert_same(grad(total(case.fused), ALL)(*inputs), grad(total(case.dense), ALL)(*inputs))


def test_vmap_where_query_is_key_is_value(case):
    x, bias = torch.randn(N, *case.query.shape), case.bias.detach()

    def itself(attention):
        return lambda x: attention(x, x, x, bias)

    assert_same(vmap(itself(case.fused))(x), vmap(itself(case.dense))(x))
    per_sample = [vmap(grad(loss(itself(f))))(x) for f in (case.fused, case.dense)]
    assert_same(*per_sample)


def test_no_samples(case):
    nothing, bias = torch.randn(0, *case.query.shape), case.bias.detach()

    def itself(x):
        return case.fused(x, x, x, bias)

    assert vmap(itself)(nothing).shape == nothing.shape
    assert vmap(grad(loss(itself)))(nothing).shape == nothing.shape


def test_nested_vmap(case):
    query, key, _, bias = mapped(case, (0, 0, None, 0))
    value = torch.randn(2, N, *case.value.shape)

    def twice(attention):
        return vmap(vmap(attention, (0, None, 0, None)), (None, 0, 0, 0))

    key, bias = key[:2], bias[:2]
    assert_same(
        twice(case.fused)(query, key, value, bias), twice(case.dense)(query, key, value, bias)
    )


def test_vmap_with_a_mask_made_outside_and_shared_keys(case):
    query = torch.randn(N, *case.query.shape)
    key, value = (torch.randn(1, *case.key.shape[1:]) for _ in range(2))
    bias = case.bias.detach()
    length = query.shape[-2]
    mask = create_block_mask(
        case.mask_mod(), query.shape[1], None, length, length, device="cpu", BLOCK_SIZE=8
    )

    def ours(query, key, value):
        return case.fused(query, key, value, bias, block_mask=mask)

    def dense(query, key, value):
        return case.dense(query, key, value, bias)

    dims = (0, None, None)
    assert_same(vmap(ours, dims)(query, key, value), vmap(dense, dims)(query, key, value))
    actual = vmap(grad(loss(ours), (0, 1, 2)), dims)(query, key, value)
    assert_same(actual, vmap(grad(loss(dense), (0, 1, 2)), dims)(query, key, value))


def test_vmap_over_a_mask_captured_per_sample(case):
    limits = torch.tensor([4, 11, 20])
    query, key, value = (torch.randn(N, *case.query.shape) for _ in range(3))

    def ours(query, key, value, limit):
        return flex_attention(query, key, value, mask_mod=lambda b, h, q, kv: kv < limit)

    def dense(query, key, value, limit):
        score = query @ key.mT / query.shape[-1] ** 0.5
        keep = torch.arange(key.shape[-2]) < limit
        return score.masked_fill(~keep, -torch.inf).softmax(-1) @ value

    assert_same(vmap(ours)(query, key, value, limits), vmap(dense)(query, key, value, limits))


def test_per_sample_gradients_of_a_model(case):
    class Layer(torch.nn.Module):
        def __init__(self, attention):
            super().__init__()
            self.attention = attention
            self.project = torch.nn.Linear(8, 24)
            self.bias = torch.nn.Parameter(case.bias.detach())

        def forward(self, x):
            return self.attention(*self.project(x).chunk(3, -1), self.bias)

    ours, dense = Layer(case.fused), Layer(case.dense)
    dense.load_state_dict(ours.state_dict())
    samples = torch.randn(N, 1, *case.query.shape[1:])

    def per_sample(model):
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        one = grad(lambda p, x: functional_call(model, p, (x,)).square().sum())
        return vmap(one, (None, 0))(parameters, samples)

    assert_same(per_sample(ours), per_sample(dense))


def test_jacrev(case):
    query, key, value = (tensor.detach() for tensor in case.inputs[:3])

    def rows(attention):
        return jacrev(lambda bias: attention(query, key, value, bias)[0, 0, :3].sum(-1))

    bias = case.bias.detach()
    assert_same(rows(case.fused)(bias), rows(case.dense)(bias))


def test_gradients_of_an_outer_graph_flow_through_an_inner_grad(case):
    """The inner derivative needs a second one to be differentiated: an error, never zero."""
    inner = grad(loss(case.fused))(*case.inputs)
    with pytest.raises(DoubleBackwardError):
        inner.sum().backward()


# PyTorch scripts its own decompositions when forward mode is first used.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_second_derivatives_raise(case):
    inputs = [tensor.detach() for tensor in case.inputs]
    with pytest.raises(DoubleBackwardError):
        grad(lambda x: grad(loss(case.fused))(x, *inputs[1:]).sum())(inputs[0])
    with pytest.raises(ForwardADError):
        hessian(loss(case.fused))(*inputs)
    first = torch.autograd.grad(case.fused(*case.inputs).sum(), case.bias, create_graph=True)
    with pytest.raises(DoubleBackwardError):
        first[0].sum().backward()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_raises(case):
    query, *others = [tensor.detach() for tensor in case.inputs]
    with pytest.raises(ForwardADError):
        jvp(lambda x: case.fused(x, *others), (query,), (query,))
    with pytest.raises(ForwardADError):  # the tangent is that of a captured tensor
        jvp(lambda bias: case.fused(query, *others[:2], bias), (others[2],), (others[2],))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(ForwardADError):
        case.fused(torch.autograd.forward_ad.make_dual(query, query), *others)


def test_folding_rewrites_batch_and_mapped_captures():
    b, h = Input("b", I64), Input("h", I64)
    score = Apply("add", (Input("score", F32), Load(0, (h,), F32)), F32)
    types = (CaptureType("f32", 1),)
    alone = Program(score, None, types)
    assert fold_program(alone, frozenset()) is alone

    folded = fold_program(alone, frozenset({0}))
    sample = Apply("floordiv", (b, Input("n0", I64)), I64)
    assert folded.score is Apply("add", (Input("score", F32), Load(0, (sample, h), F32)), F32)
    assert folded.captures == (CaptureType("f32", 2),)
    assert folded.numbers == (I64,)

    masked = Program(None, Apply("eq", (b, h), "bool"), (), (I64,))
    inner = Apply("mod", (b, Input("n1", I64)), I64)
    assert fold_program(masked, frozenset()).mask is Apply("eq", (inner, h), "bool")
