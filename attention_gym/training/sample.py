"""Let a trained model write: one byte after another."""

from __future__ import annotations

import torch

from attention_gym.training.attention import flex
from attention_gym.training.data import START
from attention_gym.training.model import ByteTransformer

CONTEXT = 256  # bytes the model looks back on


@torch.no_grad()
def write(
    model: ByteTransformer,
    *,
    cap: float,
    prompt: bytes = b"def ",
    length: int = 200,
    temperature: float = 0.7,
    seed: int = 0,
) -> str:
    """``length`` bytes after the prompt, or fewer where the model ends the document."""
    generator = torch.Generator().manual_seed(seed)
    tokens = [START, *prompt]
    for _ in range(length):
        seen = torch.tensor([tokens[-CONTEXT:]])
        logits = model(seen, flex(torch.zeros_like(seen), cap))[0, -1]
        chances = torch.softmax(logits / temperature, dim=-1)
        token = int(torch.multinomial(chances, 1, generator=generator))
        if token == START:
            break
        tokens.append(token)
    return bytes(tokens[1:]).decode("utf-8", errors="replace")
