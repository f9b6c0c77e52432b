"""Every one of the first recipes on the Triton backend, interpreted, forward and backward."""

from __future__ import annotations

import pytest
import torch
from attention_calls import poisoned

from attention_gym.check import FLOOR, distance, results
from attention_gym.gallery import load
from attention_gym.inputs import make_problem
from attention_gym.recipe import Sizes

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, at inf - inf

RECIPES = (
    *("causal", "sliding_window", "causal_window_document", "document", "prefix_lm", "alibi"),
    *("tanh_softcap", "relative_bias", "t5_bias", "key_padding"),
)
SIZES = Sizes(batch=1, heads=2, q_len=45, kv_len=45, head_dim=16)
SMALL = {  # so that a short sequence sees more than one case
    "sliding_window": {"window": 13},
    "causal_window_document": {"window": 13},
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str) -> None:
    """Output, lse and all gradients, of captured tensors too, against dense float64."""
    problem = make_problem(load(name), SIZES, SMALL.get(name, {}))
    with poisoned():
        got = results(problem, "triton")
    truth = results(problem.to(torch.float64), None)
    usual = results(problem.to(torch.float32), None)
    for what, want in truth.items():
        floor = FLOOR[torch.float32][what.startswith("grad")]
        allowed = max(2 * distance(usual[what], want), floor)
        assert distance(got[what], want) <= allowed, what
