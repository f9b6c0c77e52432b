"""torch.export of a model with attention: strict and not, saved, and run in another process."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import torch
from torch.export import Dim

from flexattn import create_block_mask, flex_attention

LOADER = """
import sys
import torch
import flexattn
program, data = sys.argv[1:]
inputs, expected = torch.load(data)
torch.testing.assert_close(torch.export.load(program).module()(*inputs), expected)
"""


class Layer(torch.nn.Module):
    """Attention with a learned bias under a mask that is made inside, or kept as an attribute."""

    def __init__(self, block_mask=None) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.randn(4, 31))
        self.block_mask = block_mask

    def forward(self, query, key, value):
        def biased(score, b, h, q_idx, kv_idx):
            return score + self.bias[h, torch.clamp(q_idx - kv_idx, -15, 15) + 15]

        mask = self.block_mask
        if mask is None:
            mask = create_block_mask(causal, None, None, query.shape[2], key.shape[2], "cpu", 8)
        return flex_attention(query, key, value, biased, mask)


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def dense(layer, query, key, value):
    place = torch.arange(query.shape[2])
    distance = place[:, None] - place
    bias = layer.bias[:, distance.clamp(-15, 15) + 15].masked_fill(distance < 0, -torch.inf)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def inputs_of(length):
    return tuple(torch.randn(2, 4, length, 8) for _ in range(3))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_export(strict, kept):
    mask = create_block_mask(causal, None, None, 20, 20, "cpu", 8) if kept else None
    layer, inputs = Layer(mask), inputs_of(20)
    exported = torch.export.export(layer, inputs, strict=strict)
    targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert "flexattn.forward.default" in targets
    other = inputs_of(20)
    torch.testing.assert_close(exported.module()(*other), dense(layer, *other))


@pytest.mark.parametrize("strict", [True, False])
def test_saved_and_run_in_another_process(strict, tmp_path):
    layer, inputs = Layer(), inputs_of(20)
    length = Dim("length", min=16, max=4096)
    exported = torch.export.export(layer, inputs, strict=strict, dynamic_shapes=[{2: length}] * 3)
    torch.export.save(exported, tmp_path / "layer.pt2")
    other = inputs_of(33)
    torch.save((other, dense(layer, *other).detach()), tmp_path / "data.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(tmp_path / "layer.pt2"), str(tmp_path / "data.pt")],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]


class Masked(torch.nn.Module):
    def forward(self, query, key, value, block_mask):
        return flex_attention(query, key, value, block_mask=block_mask)


def below(limits):
    return lambda b, h, q_idx, kv_idx: kv_idx < limits[b]


@pytest.mark.parametrize(
    ("strict", "mods"),
    [
        (True, (causal, causal)),  # Dynamo cannot make a function anew around another tensor
        (False, (causal, causal)),
        (False, (below(torch.tensor([7, 15])), below(torch.tensor([9, 11])))),
    ],
)
def test_block_masks_as_arguments(strict, mods):
    """Tables and captured tensors of a mask are inputs of the program."""
    first, second = (create_block_mask(mod, 2, None, 20, 20, "cpu", 8) for mod in mods)
    inputs = inputs_of(20)
    exported = torch.export.export(Masked(), (*inputs, first), strict=strict)
    exported.example_inputs = None  # torch.export.load takes plain tensors alone for these
    stored = io.BytesIO()
    torch.export.save(exported, stored)
    stored.seek(0)
    module = torch.export.load(stored).module()
    expected = flex_attention(*inputs, block_mask=second)
    torch.testing.assert_close(module(*inputs, second), expected)


def test_an_exported_program_trains():
    layer, inputs = Layer(), inputs_of(20)
    module = torch.export.export(layer, inputs, strict=False).module()
    module(*inputs).sin().sum().backward()
    (bias,) = module.parameters()
    expected = torch.autograd.grad(dense(layer, *inputs).sin().sum(), layer.bias)[0]
    torch.testing.assert_close(bias.grad, expected, rtol=1e-4, atol=1e-5)
