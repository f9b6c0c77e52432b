"""Combinations of mask functions against boolean algebra on dense masks."""

from __future__ import annotations

import pytest
import torch
from dense_truth import MODS, dense_mod

from flexattn.errors import ModSignatureError
from flexattn.masks import and_masks, noop_mask, not_mask, or_masks

SHAPE = (2, 2, 9, 11)


def test_and_or_not_are_boolean_algebra() -> None:
    a, b, c = (MODS[name] for name in ("causal", "documents", "prefix"))
    da, db, dc = (dense_mod(mod, SHAPE) for mod in (a, b, c))
    assert torch.equal(dense_mod(and_masks(a, b, c), SHAPE), da & db & dc)
    assert torch.equal(dense_mod(or_masks(a, b, c), SHAPE), da | db | dc)
    assert torch.equal(dense_mod(not_mask(a), SHAPE), ~da)
    nested = or_masks(and_masks(a, not_mask(b)), and_masks(c, or_masks(a, b)))
    assert torch.equal(dense_mod(nested, SHAPE), (da & ~db) | (dc & (da | db)))


def test_of_none_and_of_one() -> None:
    assert bool(dense_mod(and_masks(), SHAPE).all())
    assert not bool(dense_mod(or_masks(), SHAPE).any())
    assert bool(dense_mod(noop_mask, SHAPE).all())
    causal = MODS["causal"]
    assert torch.equal(dense_mod(and_masks(causal), SHAPE), dense_mod(causal, SHAPE))
    assert torch.equal(dense_mod(or_masks(causal), SHAPE), dense_mod(causal, SHAPE))


@pytest.mark.parametrize("value", [True, False])
def test_not_of_a_python_bool(value: bool) -> None:
    assert not_mask(lambda b, h, q, kv: value)(0, 0, 0, 0) is (not value)


@pytest.mark.parametrize("combine", [and_masks, or_masks, not_mask])
def test_what_is_not_callable_is_refused_at_once(combine) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModSignatureError, match=r"(?s)not callable.*why.*fix"):
        combine(torch.ones(3, 3))
