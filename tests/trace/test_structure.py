"""What a trace is recognised by: structure, numbers, captures; and what it leaves behind."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

from flexattn.ir.interpreter import evaluate
from flexattn.ir.nodes import Apply, Const, Input, Load, walk
from flexattn.trace import Traced, trace_mod


def window(size: Any) -> Traced:
    def mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (q_idx - kv_idx < size)

    return trace_mod(mod, "mask")


def test_fresh_closures_with_other_numbers_have_one_structure() -> None:
    traces = [window(size) for size in (3, 4, 1000)]
    assert len({trace.structure for trace in traces}) == 1
    assert len({hash(trace.structure) for trace in traces}) == 1
    assert [trace.numbers for trace in traces] == [(3,), (4,), (1000,)]


def test_the_type_of_a_number_is_part_of_the_structure() -> None:
    structures = {window(size).structure for size in (3, 3.0, True, torch.tensor(3))}
    assert len(structures) == 4


def test_dtype_and_rank_of_captures_are_part_of_the_structure_and_sizes_are_not() -> None:
    def with_table(table: Tensor) -> Traced:
        return trace_mod(lambda s, b, h, q, k: s + table[h], "score")

    first, longer = with_table(torch.ones(3)), with_table(torch.ones(5))
    assert first.structure == longer.structure
    assert first.structure != with_table(torch.ones(3, dtype=torch.float64)).structure
    scalar = trace_mod(lambda s, b, h, q, k: s + torch.ones(()), "score")
    assert scalar.structure != first.structure


def test_the_same_tensor_is_captured_once_and_two_tensors_twice() -> None:
    one, two = torch.ones(4), torch.ones(4)
    twice = trace_mod(lambda s, b, h, q, k: s + one[q] * one[k], "score")
    both = trace_mod(lambda s, b, h, q, k: s + one[q] * two[k], "score")
    assert [id(t) for t in twice.captures] == [id(one)]
    assert [id(t) for t in both.captures] == [id(one), id(two)]
    assert twice.structure != both.structure


def test_captures_are_the_real_tensors() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    derived = parameter * 2
    traced = trace_mod(lambda s, b, h, q, k: s + parameter[h] + derived[h], "score")
    assert traced.captures[0] is parameter and traced.captures[1] is derived
    value = evaluate(traced.graph(), {"score": torch.ones(1), "h": 1}, traced.captures)
    value.sum().backward()
    assert parameter.grad is not None and parameter.grad.tolist() == [0.0, 3.0, 0.0]


def test_numbers_become_inputs_where_lifted_and_constants_elsewhere() -> None:
    traced = trace_mod(lambda s, b, h, q, k: s * 2 + (q - 7) * 0.5, "score")
    assert traced.numbers == (2, 7, 0.5)
    root = traced.graph({0: Input("n0", "i64"), 2: Input("n1", "f32")})
    names = {node.name for node in walk(root) if isinstance(node, Input)}
    constants = {node.value for node in walk(root) if isinstance(node, Const)}
    assert names == {"score", "q_idx", "n0", "n1"} and constants == {7}
    env = {"score": torch.tensor(3.0), "q_idx": 5, "n0": 10, "n1": 2.0}
    assert evaluate(root, env, []).item() == 3 * 10 + (5 - 7) * 2
    assert evaluate(traced.graph(), env, []).item() == 3 * 2 + (5 - 7) * 0.5


def test_exponents_indices_and_shift_counts_have_to_stay_constants() -> None:
    table = torch.randn(3, 4)
    traced = trace_mod(
        lambda s, b, h, q, k: s * 3 + s**2 + table[h, 1] + table[h][2] + (q << 4) + table[:, 3][h],
        "score",
    )
    assert traced.numbers == (3, 2, 1, 2, 4)  # the column is a view made by torch itself
    assert traced.must_bake == {1, 2, 3, 4}
    row = trace_mod(lambda s, b, h, q, k: s + table[0, q % 4] * 5, "score")
    assert row.numbers == (0, 4, 5) or row.numbers == (4, 0, 5)
    assert {row.numbers[at] for at in row.must_bake} == {0}


@given(st.floats(width=64) | st.integers(-(2**62), 2**62))
def test_a_constant_is_rounded_as_torch_rounds_it(value: float) -> None:
    root = trace_mod(lambda s, b, h, q, k: s * 0 + value, "score").graph()
    given_value = evaluate(root, {"score": torch.zeros(())}, [])
    expected = torch.zeros(()) + value if math.isfinite(value) else torch.tensor(value)
    assert torch.equal(given_value, expected) or (given_value.isnan() and expected.isnan())


def test_chained_and_direct_indexing_are_one_structure() -> None:
    dense = torch.randn(2, 1, 4, 4)
    chained = trace_mod(lambda s, b, h, q, k: s + dense[b][0][q][k], "score")
    direct = trace_mod(lambda s, b, h, q, k: s + dense[b, 0, q, k], "score")
    assert chained.structure == direct.structure
    assert sum(isinstance(node, Load) for node in walk(chained.graph())) == 1


def test_only_the_elements_that_are_used_are_read() -> None:
    intervals = torch.zeros(5, 2, dtype=torch.long)

    def mod(b, h, q_idx, kv_idx):
        row = intervals[kv_idx // 2]
        return q_idx >= row[1]

    loads = [node for node in walk(trace_mod(mod, "mask").graph()) if isinstance(node, Load)]
    assert len(loads) == 1


def test_an_index_changed_after_it_was_used_is_read_as_it_was() -> None:
    table = torch.arange(12).view(3, 4)

    def mod(score, b, h, q_idx, kv_idx):
        i = h + 0
        row = table[i]
        i += 1
        return score + row[kv_idx] + i

    traced = trace_mod(mod, "score")
    env = {"score": torch.zeros(()), "h": 1, "kv_idx": 2}
    assert evaluate(traced.graph(), env, traced.captures).item() == table[1, 2] + 2


def test_in_place_changes_are_seen_through_every_name() -> None:
    def mod(score, b, h, q_idx, kv_idx):
        x = score * 2
        y = x
        x += 1
        x.mul_(3)
        return y - x.clone().add_(5)

    assert evaluate(trace_mod(mod, "score").graph(), {"score": torch.ones(())}, []).item() == -5


def test_locations_name_the_users_lines() -> None:
    def helper(x):
        return x * 3

    def mod(score, b, h, q_idx, kv_idx):
        doubled = helper(score)
        return torch.where(
            q_idx > kv_idx,
            doubled,
            score,
        )

    traced = trace_mod(mod, "score")
    root = traced.graph()
    lines = {node.op: line for node, line in traced.locations.items() if isinstance(node, Apply)}
    assert lines["mul"].endswith(": return x * 3") and "test_structure.py:" in lines["mul"]
    assert lines["gt"].endswith(": q_idx > kv_idx,")
    assert "where" in lines and root in traced.locations


def test_locations_of_an_impure_mod_are_empty_rather_than_wrong() -> None:
    calls = []

    def mod(score, b, h, q_idx, kv_idx):
        calls.append(None)
        return score * len(calls)

    traced = trace_mod(mod, "score")
    assert traced.locations == {}


def test_the_mod_runs_once_per_trace() -> None:
    calls = []

    def mod(b, h, q_idx, kv_idx):
        calls.append(None)
        return q_idx >= kv_idx

    trace_mod(mod, "mask").graph()
    assert len(calls) == 1


def test_a_trace_keeps_nothing_alive_when_it_is_gone() -> None:
    table = torch.ones(3)
    gone = weakref.ref(table)
    traced = trace_mod(lambda s, b, h, q, k, table=table: s + table[h], "score")
    del table
    assert gone() is not None and len(traced.captures) == 1
    del traced
    gc.collect()
    assert gone() is None


def test_threads_trace_side_by_side() -> None:
    results: dict[int, set[Any]] = {}

    def work(number: int) -> None:
        table = torch.ones(number + 1)
        found = set()
        for _ in range(50):
            traced = trace_mod(lambda s, b, h, q, k: s + table[h] * number, "score")
            assert traced.captures[0] is table
            found.add((traced.structure, traced.numbers))
        results[number] = found

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]
    assert all(len(found) == 1 for found in results.values())
    assert len({structure for found in results.values() for structure, _ in found}) == 1


@pytest.mark.parametrize(
    "disable", [torch._C.DisableTorchFunction, torch._C.DisableTorchFunctionSubclass]
)
def test_tracing_works_where_torch_functions_are_switched_off(disable: Any) -> None:
    table = torch.ones(3)
    with disable():
        traced = trace_mod(lambda s, b, h, q, k: torch.where(q > k, s + table[h], 0.0), "score")
    assert len(traced.captures) == 1


def test_tracing_under_another_mode_and_default_device() -> None:
    with torch.device("meta"):
        traced = trace_mod(lambda s, b, h, q, k: s * torch.tanh(s), "score")
    assert traced.captures == []
    assert torch._C._len_torch_function_stack() == 0
