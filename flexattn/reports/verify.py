"""Runs a mod on every available backend, forward and backward, against dense float64."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from flexattn.ir.interpreter import evaluate
from flexattn.op.attention import flex_attention
from flexattn.op.call import BACKENDS
from flexattn.op.create import create_block_mask
from flexattn.op.outputs import AuxRequest
from flexattn.op.programs import bind
from flexattn.op.triton_device import is_interpreted
from flexattn.reports.problem import Mod, Problem, make_problem
from flexattn.trace import trace_mod

# Allowed error relative to the reference's maximum where plain torch in the same dtype does no
# worse: forward, gradients.
FLOORS = {
    torch.float64: (1e-12, 1e-11),
    torch.float32: (2e-6, 1e-5),
    torch.bfloat16: (1e-2, 2e-2),
    torch.float16: (2e-3, 4e-3),
}


@dataclass(frozen=True)
class Check:
    """One tensor of one backend against the reference.

    Attributes:
        backend: A key of the backend table.
        tensor: ``out``, ``lse``, or ``grad q``, ``grad k``, ``grad v``, ``grad capture i``.
        error: Largest absolute difference.
        relative: ``error`` over the reference's largest absolute value.
        allowed: The largest ``relative`` that passes: twice that of the same formula in plain
            torch operations of the inputs' dtype, or a floor of a few roundings.
    """

    backend: str
    tensor: str
    error: float
    relative: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.relative <= self.allowed  # False for NaN


@dataclass(frozen=True)
class Verification:
    """All checks of one mod; prints as a table, true when all hold."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        head = f"{'backend':<8} {'tensor':<16} {'error':>10} {'relative':>10} {'allowed':>10}"
        rows = [
            f"{c.backend:<8} {c.tensor:<16} {c.error:>10.2e} {c.relative:>10.2e} "
            f"{c.allowed:>10.2e}  {'ok' if c.ok else 'WRONG'}"
            for c in self.checks
        ]
        return "\n".join([head, *rows])

    def to_json(self) -> str:
        """The checks as a JSON array of objects."""
        return json.dumps([asdict(check) | {"ok": check.ok} for check in self.checks], indent=1)


def verify(
    score_mod: Mod | None = None,
    mask_mod: Mod | None = None,
    *,
    B: int = 2,
    H: int = 4,
    Q_LEN: int = 131,
    KV_LEN: int | None = None,
    D: int = 32,
    Dv: int | None = None,
    Hkv: int | None = None,
    dtype: torch.dtype = torch.float32,
    backends: Sequence[str] | None = None,
    seed: int = 0,
) -> Verification:
    """Compare every backend with a dense float64 evaluation of the same mods.

    The reference traces the mods once and evaluates their graphs with eager torch operations in
    float64 over the whole score matrix, so keep the lengths small.

    Args:
        backends: Names of backends; by default all that run where the captured tensors lie (or
            on the CPU): ``triton`` on a GPU, or interpreted if ``TRITON_INTERPRET=1`` is set.
        seed: Seed of the random query, key, value and output gradient.

    Raises:
        FlexAttentionError: What the mods do wrong, as ``flex_attention`` would say it.
    """
    problem = make_problem(B, H, Q_LEN, KV_LEN, D, Dv, Hkv, dtype)
    device = _device(score_mod, mask_mod, dtype)
    inputs, gradient = _random(problem, seed, device)
    wanted = _dense(score_mod, mask_mod, inputs, gradient, torch.float64)
    plain = _dense(score_mod, mask_mod, inputs, gradient, dtype)
    checks = []
    for backend in backends or available_backends(inputs[0].device):
        found = _run(score_mod, mask_mod, inputs, gradient, problem, backend)
        for name, reference in wanted.items():
            error, relative = _difference(found[name], reference)
            floor = _floor(dtype, found[name].dtype, gradient=name.startswith("grad"))
            allowed = max(floor, 2 * _difference(plain[name], reference)[1])
            checks.append(Check(backend, name, error, relative, allowed))
    return Verification(tuple(checks))


def _floor(inputs: torch.dtype, own: torch.dtype, *, gradient: bool) -> float:
    # A float32 parameter's gradient is stored in float32, whatever q, k and v are.
    return max(FLOORS[dtype][gradient] for dtype in (inputs, own))


def available_backends(device: torch.device) -> list[str]:
    """The backends that can compute on ``device`` in this process."""
    if device.type == "cuda":
        return [name for name in BACKENDS if name != "cpp"]
    return [name for name in BACKENDS if name != "triton" or is_interpreted()]


def _device(score_mod: Mod | None, mask_mod: Mod | None, dtype: torch.dtype) -> torch.device:
    """Where the captured tensors lie; one without dimensions may lie anywhere."""
    found = (t.device for t in _captures(score_mod, mask_mod, dtype) if t.ndim or t.is_cuda)
    return next(found, torch.device("cpu"))


def _random(problem: Problem, seed: int, device: torch.device) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p = problem
    sizes = ((p.B, p.Hq, p.M, p.D), (p.B, p.Hkv, p.N, p.D), (p.B, p.Hkv, p.N, p.Dv))
    sizes += ((p.B, p.Hq, p.M, p.Dv),)
    tensors = [torch.randn(size, generator=generator).to(device, p.dtype) for size in sizes]
    return tensors[:3], tensors[3]


def _run(
    score_mod: Mod | None,
    mask_mod: Mod | None,
    inputs: Sequence[Tensor],
    gradient: Tensor,
    problem: Problem,
    backend: str,
) -> dict[str, Tensor]:
    q, k, v = (tensor.clone().requires_grad_() for tensor in inputs)
    captures = [t for t in _captures(score_mod, mask_mod, problem.dtype) if t.requires_grad]
    mask = None
    if mask_mod is not None:
        batch = (problem.B, problem.Hq)
        mask = create_block_mask(mask_mod, *batch, problem.M, problem.N, device=q.device)
    aux = AuxRequest(lse=True)
    out, extra = flex_attention(
        q,
        k,
        v,
        score_mod,
        mask,
        enable_gqa=problem.Hq != problem.Hkv,
        return_aux=aux,
        backend=backend,
    )
    grads = torch.autograd.grad(out, [q, k, v, *captures], gradient, allow_unused=True)
    return _named(out, extra.lse, grads, [q, k, v, *captures])


def _captures(score_mod: Mod | None, mask_mod: Mod | None, dtype: torch.dtype) -> list[Tensor]:
    compute = "f64" if dtype == torch.float64 else "f32"
    score = trace_mod(score_mod, "score", compute=compute) if score_mod is not None else None
    mask = trace_mod(mask_mod, "mask", compute=compute) if mask_mod is not None else None
    return bind(score, mask, compute).captures


def _named(
    out: Tensor, lse: Tensor, grads: Sequence[Tensor | None], inputs: Sequence[Tensor]
) -> dict[str, Tensor]:
    named = {"out": out.detach(), "lse": lse.detach()}
    names = ["grad q", "grad k", "grad v"]
    names += [f"grad capture {i}" for i in range(len(inputs) - 3)]
    for name, grad, tensor in zip(names, grads, inputs, strict=True):
        named[name] = torch.zeros_like(tensor) if grad is None else grad
    return named


def _dense(
    score_mod: Mod | None,
    mask_mod: Mod | None,
    inputs: Sequence[Tensor],
    gradient: Tensor,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Textbook attention in ``dtype`` over the whole matrix, differentiated by autograd."""
    compute = "f64" if dtype == torch.float64 else "f32"
    scores_in = torch.float64 if compute == "f64" else torch.float32
    q, k, v = (tensor.to(dtype).requires_grad_() for tensor in inputs)
    score = trace_mod(score_mod, "score", compute=compute) if score_mod is not None else None
    mask = trace_mod(mask_mod, "mask", compute=compute) if mask_mod is not None else None
    bound = bind(score, mask, compute)
    program = bound.variant.program
    group = q.shape[1] // k.shape[1]
    keys, values = (t.repeat_interleave(group, 1) for t in (k, v))
    scores = (q @ keys.mT).to(scores_in) * q.shape[-1] ** -0.5
    env = _indices(q, k) | _numbers(bound) | {"score": scores}
    if program.score is not None:
        scores = evaluate(program.score, env, bound.captures, compute, on_fault="safe")
    if program.mask is not None:
        keep = evaluate(program.mask, env, bound.captures, compute, on_fault="safe")
        scores = torch.where(keep, scores, -torch.inf)
    scores = scores.expand(*q.shape[:3], k.shape[2])
    empty = (scores == -torch.inf).all(-1, keepdim=True)
    weights = torch.softmax(torch.where(empty, 0.0, scores), -1).masked_fill(empty, 0.0)
    out = weights.to(dtype) @ values
    lse = torch.logsumexp(scores.detach(), -1)
    captures = [tensor for tensor in bound.captures if tensor.requires_grad]
    tensors = [q, k, v, *captures]
    grads = torch.autograd.grad(out, tensors, gradient.to(dtype), allow_unused=True)
    return _named(out, lse, grads, tensors)


def _indices(q: Tensor, k: Tensor) -> dict[str, Tensor]:
    names, sizes = ("b", "h", "q_idx", "kv_idx"), (*q.shape[:3], k.shape[2])
    return {
        name: torch.arange(size, device=q.device).view([-1 if d == at else 1 for d in range(4)])
        for at, (name, size) in enumerate(zip(names, sizes, strict=True))
    }


def _numbers(bound) -> dict[str, int | float]:  # type: ignore[no-untyped-def]
    ints, floats = iter(bound.ints), iter(bound.floats)
    kinds = bound.variant.program.numbers
    return {f"n{i}": next(ints) if kind == "i64" else next(floats) for i, kind in enumerate(kinds)}


def _difference(found: Tensor, reference: Tensor) -> tuple[float, float]:
    """Largest absolute difference, and that over the reference's maximum; infinities agree."""
    if reference.numel() == 0:
        return 0.0, 0.0
    found, reference = found.double(), reference.double()
    same = (found == reference) | (found.isnan() & reference.isnan())
    error = torch.where(same, 0.0, found - reference).abs().max().item()
    finite = reference[reference.isfinite()]
    scale = finite.abs().max().item() if finite.numel() else 0.0
    return error, error / scale if scale else error
