"""Shows every stage of one mod on its way to a kernel, and what the kernel will cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from flexattn.analysis.cost import Shape, backward_cost, computed_pairs, forward_cost, unfused_cost
from flexattn.ir.hooks import Hooks
from flexattn.ir.nodes import Input, walk
from flexattn.ir.printer import print_graph
from flexattn.kernel import config, findings
from flexattn.kernel.source import KernelSource, kernel_source
from flexattn.masks.block_mask import BlockMask
from flexattn.op.create import create_block_mask
from flexattn.op.programs import STORAGE
from flexattn.reports.html import page
from flexattn.reports.leaving import leavings
from flexattn.reports.problem import Mod, Problem, Traced, make_problem, trace
from flexattn.reports.structure import structure_of

OPEN = ("graph", "cost")  # what most readers look for


@dataclass(frozen=True)
class Explanation:
    """Every stage of one pair of mods; prints as text.

    Attributes:
        name: The mods' names.
        sections: Title to text, in the order of the stages: ``graph``, ``derivative``,
            ``hoisted``, ``proofs``, ``tiles``, ``closed form``, ``decided``, ``blocks``, ``cost``.
        forward: Text of the forward kernel.
        backward: Text of the backward kernel.
        cost: ``pairs``, ``dense_pairs``, ``flops``, ``bytes``, ``unfused_bytes``,
            ``flops_per_byte`` of the forward, ``backward_flops``.
        structure: How the mask's blocks were found (`reports/structure.py`); empty without mask.
    """

    name: str
    sections: Mapping[str, str]
    forward: str
    backward: str
    cost: Mapping[str, float]
    structure: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"== {title} ==\n{text}" for title, text in self.sections.items()]
        return f"{self.name}\n\n" + "\n\n".join(parts)

    def _repr_html_(self) -> str:
        """What notebooks show: a section for each stage, folded but for the first and the last."""
        stages = [*self.sections.items(), ("forward kernel", self.forward)]
        return page(self.name, [*stages, ("backward kernel", self.backward)], OPEN)

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self), indent=1)


def explain(
    score_mod: Mod | None = None,
    mask_mod: Mod | None = None,
    *,
    B: int = 1,
    H: int = 8,
    Q_LEN: int = 1024,
    KV_LEN: int | None = None,
    D: int = 64,
    Dv: int | None = None,
    Hkv: int | None = None,
    dtype: torch.dtype = torch.float32,
    BLOCK_SIZE: int | tuple[int, int] = 128,
) -> Explanation:
    """What becomes of two mods at one problem, stage by stage; nothing is compiled.

    Args:
        BLOCK_SIZE: Block of the mask, queries and keys.

    Returns:
        An object that prints every stage: traced graph with source lines, derivative, hoisted
        parts, proofs, tile choice, blocks of the mask, and FLOPs and bytes against unfused
        attention; ``forward`` and ``backward`` hold the kernels' text.

    Raises:
        FlexAttentionError: What the mods do wrong, as ``flex_attention`` would say it.
    """
    problem = make_problem(B, H, Q_LEN, KV_LEN, D, Dv, Hkv, dtype)
    traced = trace(score_mod, mask_mod, problem)
    grads = {i for i, tensor in enumerate(traced.bound.captures) if tensor.requires_grad}
    forward = _source(traced, problem, "forward", frozenset())
    backward = _source(traced, problem, "backward", frozenset(grads))
    mask, found = None, None
    if mask_mod is not None:
        varies = {node.name for node in walk(traced.program.mask) if isinstance(node, Input)}
        batch, heads = (n if name in varies else None for name, n in (("b", B), ("h", H)))
        mask = create_block_mask(
            mask_mod, batch, heads, Q_LEN, problem.N, device="cpu", BLOCK_SIZE=BLOCK_SIZE
        )
        found = structure_of(mask_mod, (batch or 1, heads or 1, Q_LEN, problem.N), mask.BLOCK_SIZE)
    cost = _figures(problem, mask)
    sections = {
        "graph": _graph(traced),
        "derivative": _derivative(backward.hooks),
        "hoisted": findings.hoisted(forward.hooks),
        "proofs": "\n".join(
            [
                findings.proofs(traced.program, traced.facts.proved, traced.facts.wide),
                *leavings(traced, problem),
            ]
        ),
        "tiles": _tiles(forward),
        "closed form": "no mask_mod." if found is None else found.form_text(),
        "decided": "no mask_mod." if found is None else found.tiles_text(),
        "blocks": "no mask_mod: every block is full." if mask is None else _blocks(mask),
        "cost": _cost(cost),
    }
    how = {} if found is None else found.to_dict()
    return Explanation(traced.name, sections, forward.text, backward.text, cost, how)


def _source(
    traced: Traced, problem: Problem, direction: str, grads: frozenset[int]
) -> KernelSource:
    return kernel_source(
        traced.program,
        direction,
        dtype=STORAGE[problem.dtype],
        grads=grads,
        proved=traced.facts.proved,
        wide=traced.facts.wide,
    )


def _graph(traced: Traced) -> str:
    program = traced.program
    parts = []
    for kind, root in (("score_mod", program.score), ("mask_mod", program.mask)):
        if root is not None:
            parts.append(f"{kind}:\n{print_graph(root, locations=traced.locations)}")
    for i, tensor in enumerate(traced.bound.captures):
        gradient = ", wants a gradient" if tensor.requires_grad else ""
        parts.append(f"capture{i}: {str(tensor.dtype)[6:]}{list(tensor.shape)}{gradient}")
    return "\n".join(parts) or "no mods: plain attention."


def _derivative(hooks: Hooks) -> str:
    if hooks.score is None:
        return "no score_mod: the gradient passes unchanged."
    parts = [] if hooks.score_grad is None else [f"score:\n{print_graph(hooks.score_grad)}"]
    for grad in hooks.capture_grads:
        place = {"none": "(b, h) alone", "q": "q_idx", "kv": "kv_idx", "qkv": "q_idx and kv_idx"}
        head = f"capture{grad.capture}, index varies with {place[grad.depends]}"
        parts.append(f"{head}, adds:\n{print_graph(grad.value)}")
    return "\n".join(parts) or "the gradient passes unchanged."


def _tiles(source: KernelSource) -> str:
    queries, keys = config.tile(source.dtype, source.isa)
    return "\n".join(
        [
            f"tile: at most {queries} queries x {keys} keys",
            f"instruction set: {source.isa.name}, vectors of {source.isa.vector_bytes} bytes",
            f"compiler: g++ {' '.join(source.flags)}",
            f"cache key: {source.key}",
        ]
    )


def _counts(mask: BlockMask) -> tuple[int, int, int]:
    """Partial blocks, full blocks, and the (batch, head) pairs they are listed for."""
    partial, full = mask.kv_num_blocks, mask.full_kv_num_blocks
    b, h, _ = partial.shape
    return int(partial.sum()), 0 if full is None else int(full.sum()), b * h


def _figures(problem: Problem, mask: BlockMask | None) -> dict[str, float]:
    p = problem
    itemsize = torch.empty((), dtype=p.dtype).element_size()
    shape = Shape(p.B, p.Hq, p.Hkv, p.M, p.N, p.D, p.Dv, itemsize)
    pairs = shape.pairs
    if mask is not None:
        partial, full, heads = _counts(mask)
        pairs = computed_pairs(partial + full, mask.BLOCK_SIZE, shape, heads)
    forward = forward_cost(shape, pairs)
    return {
        "pairs": pairs,
        "dense_pairs": shape.pairs,
        "flops": forward.flops,
        "backward_flops": backward_cost(shape, pairs).flops,
        "bytes": forward.bytes,
        "unfused_bytes": unfused_cost(shape).bytes,
        "flops_per_byte": round(forward.intensity, 2),
    }


def _blocks(mask: BlockMask) -> str:
    partial, full, heads = _counts(mask)
    columns = -(-mask.seq_lengths[1] // mask.BLOCK_SIZE[1])
    total = heads * mask.kv_num_blocks.shape[-1] * columns
    return (
        f"{total} blocks of {mask.BLOCK_SIZE[0]} x {mask.BLOCK_SIZE[1]}: {full} full, "
        f"{partial} partial, {total - full - partial} empty; {mask.sparsity():.1f}% sparse\n{mask}"
    )


def _cost(cost: Mapping[str, float]) -> str:
    less = cost["unfused_bytes"] / cost["bytes"] if cost["bytes"] else 1.0
    return "\n".join(
        [
            f"pairs    {cost['pairs']:,} computed of {cost['dense_pairs']:,}",
            f"FLOPs    {cost['flops']:,} forward, {cost['backward_flops']:,} backward",
            f"bytes    {cost['bytes']:,} fused, {cost['unfused_bytes']:,} unfused ({less:.1f}x)",
            f"FLOPs per byte {cost['flops_per_byte']}",
        ]
    )
