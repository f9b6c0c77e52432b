"""How the backward's work is cut: every item once, groups apart, memory bounded."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexattn.kernel import config
from flexattn.op import capture_grads
from flexattn.op.capture_grads import WORKSPACE_BYTES, Buffers, Place, cut_work, places_of

pytestmark = pytest.mark.null

SHAPES = st.tuples(
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(0, 700),
    st.integers(0, 300),
    st.integers(1, 64),
    st.integers(1, 64),
)
PLACES = st.lists(
    st.builds(
        Place,
        st.integers(0, 2),
        st.booleans(),
        st.sets(st.sampled_from(["b", "h"])).map(frozenset),
    ),
    max_size=3,
).map(tuple)


@given(SHAPES, PLACES, st.lists(st.integers(1, 1 << 22), min_size=3, max_size=3), st.booleans())
def test_cut(shape, places, numels, shared_batch) -> None:
    batch, heads, rows, keys, dim, value_dim = shape
    kv_batch = 1 if shared_batch else batch
    sizes = tuple(numels[place.capture] for place in places)
    cut = cut_work((batch, kv_batch, heads, rows, keys, dim, value_dim), places, sizes, 4)
    assert 1 <= cut.chunks <= max(1, -(-rows // config.QUERIES))
    if not places:
        assert cut.groups == 0
        return
    items = cut.items.tolist()
    assert sorted(items) == list(range(max(1, kv_batch) * max(1, heads) * cut.chunks))
    start = cut.start.tolist()
    assert start[0] == 0 and start[-1] == len(items) and len(start) == cut.groups + 1
    groups = [items[a:b] for a, b in itertools.pairwise(start)]
    extra = 0
    for place, size, shared in zip(places, sizes, cut.shared, strict=True):
        if not shared:
            extra += 8 * size * cut.groups
        elif cut.groups > 1:
            touched = [_touched(place, group, heads, cut.chunks) for group in groups]
            for one, other in itertools.combinations(touched, 2):
                assert not one & other
    assert extra <= WORKSPACE_BYTES or cut.groups == 1


def _touched(place: Place, group: list[int], heads: int, chunks: int) -> set[tuple[object, ...]]:
    """The parts of a buffer that the items of a group may write."""
    touched = set()
    for item in group:
        rest, chunk = divmod(item, chunks)
        b, h = divmod(rest, max(1, heads))
        touched.add(
            (
                b if "b" in place.plain else "any",
                h if "h" in place.plain else "any",
                chunk if place.dense else "any",
            )
        )
    return touched


def test_depends_on_shapes_only_and_is_remembered() -> None:
    shape, places = (2, 2, 2, 500, 300, 16, 16), (Place(0, False, frozenset("h")),)
    assert cut_work(shape, places, (10,), 4) is cut_work(shape, places, (10,), 4)


@pytest.mark.parametrize("cpus", [1, 2, 6, 8])
def test_every_cpu_gets_work(cpus, monkeypatch) -> None:
    monkeypatch.setattr(capture_grads, "CPUS", cpus)
    cut_work.cache_clear()
    for heads, rows in ((1, 4096), (4, 1024), (32, 256)):
        shape = (1, 1, heads, rows, rows, 64, 64)
        cut = cut_work(shape, (Place(0, False, frozenset()),), (heads,), 4)
        assert min(heads * cut.chunks, cut.groups) >= 2 * cpus
    cut_work.cache_clear()


def test_no_more_chunks_than_balance_needs(monkeypatch) -> None:
    for cpus, heads, chunks in ((2, 8, 1), (2, 4, 1), (2, 3, 2), (2, 1, 4), (16, 8, 4), (6, 8, 3)):
        monkeypatch.setattr(capture_grads, "CPUS", cpus)
        assert capture_grads._balanced(heads) == chunks


def test_buffers_add_up_to_the_gradient() -> None:
    places = (
        Place(0, False, frozenset()),
        Place(0, False, frozenset()),
        Place(1, True, frozenset()),
    )
    captures = [torch.zeros(3, dtype=torch.bfloat16), torch.zeros(2, 2), torch.zeros(4)]
    cut = cut_work((1, 1, 2, 256, 64, 8, 8), places, (3, 3, 4), 4)
    buffers = Buffers(cut, places, captures, torch.float32)
    assert len(buffers.pointers) == len(buffers.strides) == 3
    assert all(not buffers.gradient(c).any() for c in range(3))
    assert buffers.gradient(0).dtype == torch.float64
    assert buffers.gradient(2).shape == (4,)
    one = next(iter(buffers._found.values()))
    one += 1
    assert torch.equal(buffers.gradient(0), torch.full((3,), float(len(one)), dtype=torch.float64))


def test_two_places_of_one_tensor_never_share_memory_between_groups() -> None:
    places = (Place(0, True, frozenset()), Place(0, True, frozenset()))
    cut = cut_work((1, 1, 1, 512, 512, 8, 8), places, (512 * 512,) * 2, 4)
    assert cut.groups > 1
    buffers = Buffers(cut, places, [torch.zeros(512, 512)], torch.float32)
    assert buffers.pointers[0] != buffers.pointers[1]


def test_places_of_reads_the_facts_of_a_kernel() -> None:
    facts = [{"capture": 3, "depends": "q", "dense": False, "plain": ["b", "h"]}]
    assert places_of(facts) == (Place(3, False, frozenset({"b", "h"})),)
