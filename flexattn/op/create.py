"""create_block_mask and create_mask: a mask function made into block lists, or into a tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from flexattn.errors import ArgumentError, BlockMaskError, CaptureDeviceError, ModSignatureError
from flexattn.ir.interpreter import evaluate
from flexattn.masks import validate
from flexattn.masks.block_mask import BlockMask
from flexattn.masks.classify import PIECE, Evaluate, grid, pieces
from flexattn.masks.fields import DEFAULT_BLOCK
from flexattn.masks.grids import Grid
from flexattn.masks.mods import MaskMod
from flexattn.masks.pairs import register_evaluator
from flexattn.masks.resize import register_classifier
from flexattn.op import dynamo, operators, symbolic
from flexattn.op.blocks import block_classes, evaluator
from flexattn.op.programs import Bound
from flexattn.op.structure import structure
from flexattn.op.triton_streams import is_capturing_on

_VARIABLE = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS

DeviceLike = torch.device | str | int | None


def create_block_mask(
    mask_mod: MaskMod,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: DeviceLike = None,
    BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK,
    _compile: bool = False,
    separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False,
    dq_kv_order: bool = True,
    *,
    backend: str | None = None,
) -> BlockMask:
    """The block mask of ``mask_mod(b, h, q_idx, kv_idx) -> bool``.

    Args:
        mask_mod: Whether a query attends to a key. Blocks are found by proof; a block that no
            proof decides is evaluated, pair by pair.
        B: Batches; None or 1 for a mask that all batches share.
        H: Query heads; None or 1 for a mask that all heads share.
        Q_LEN: Queries; 0 gives an empty mask.
        KV_LEN: Keys.
        device: Where the tables lie. By default where the tensors that mask_mod captures do,
            or on the accelerator if there is one.
        BLOCK_SIZE: (queries, keys) of a block, or one int for both; any size of 1 or more.
        _compile: PyTorch's; without effect.
        separate_full_blocks: Whether blocks that are kept whole get a list of their own, in
            which mask_mod is not asked again.
        compute_dq_write_order: PyTorch's; without effect, as gradients are repeatable anyway.
        dq_kv_order: PyTorch's; without effect.
        backend: None for proofs (on a GPU: ``"triton"``), or what evaluates every pair instead:
            ``"cpp"`` or ``"triton"`` (a generated kernel on the CPU or a GPU, which keeps a byte
            per block) or ``"eager"`` (the interpreter).

    Raises:
        IndexOutOfRangeError: mask_mod keeps a pair for which it reads outside a capture.
    """
    others = {"device": device, "BLOCK_SIZE": BLOCK_SIZE, "backend": backend}
    others["separate_full_blocks"] = separate_full_blocks
    fields = {
        "seq_lengths": (Q_LEN, KV_LEN),
        "BLOCK_SIZE": validate.block_size(BLOCK_SIZE),
        "mask_mod": mask_mod,
        "_q_wanted": True,
        "_mod_alone": True,
    }
    sizes = (B, H, Q_LEN, KV_LEN)
    if torch.compiler.is_dynamo_compiling():
        return _of_tables(dynamo.record_blocks(mask_mod, sizes, others), fields)
    return _mask(_checked(mask_mod, sizes, others), others, fields)


@dataclass(frozen=True)
class _Asked:
    """What ``create_block_mask`` was asked for, checked."""

    bound: Bound
    shape: tuple[int, int, int, int]
    block: tuple[int, int]
    device: torch.device


def _checked(mask_mod: MaskMod, sizes: tuple[Any, Any, Any, Any], others: dict[str, Any]) -> _Asked:
    if _is_score_mod(mask_mod):
        raise ModSignatureError(
            f"create_block_mask got {_name(mask_mod)!r}, which takes a score.",
            why="blocks are found with a mask_mod(b, h, q_idx, kv_idx) -> bool.",
            fix="pass a mask_mod here, and the score_mod to flex_attention.",
        )
    block = validate.block_size(others["BLOCK_SIZE"])
    lengths = validate.lengths(sizes[2:])
    shape = (_count(sizes[0], "B"), _count(sizes[1], "H"), *lengths)
    bound = symbolic.bind_mask(mask_mod)
    return _Asked(bound, shape, block, _device(others["device"], bound))


def _mask(asked: _Asked, others: dict[str, Any], fields: dict[str, Any]) -> BlockMask:
    """The mask: of runs, or of an operator's tables where values cannot be read."""
    bound, device = asked.bound, asked.device
    separate_full: bool = others["separate_full_blocks"]
    if _by_operator(asked):
        tables = operators.block_tables(bound, asked.shape, asked.block, separate_full, device)
        return _of_tables(tables, fields)
    if device.type == "cuda":  # faults of earlier calls; imported where there can be some
        import_module("flexattn.op.triton_faults").check_earlier(device)
    runs, form = structure(bound, asked.shape, asked.block, device, others["backend"])
    place = {"frame": asked.shape[:2], "device": device, "separate_full": separate_full}
    return BlockMask._of_runs(runs, **place, **fields, _form=form if separate_full else None)


def _by_operator(asked: _Asked) -> bool:
    """Whether values cannot be read, or not now."""
    device = asked.device
    if device.type == "meta" or is_capturing_on(device):
        return True
    return operators.is_watched(asked.bound.captures)


def _of_tables(tables: list[Tensor], fields: dict[str, Any]) -> BlockMask:
    full = (tables[2], tables[3]) if len(tables) > 2 else None
    return BlockMask._make((tables[0], tables[1]), full, **fields)


def _run_recorded(mods: tuple[MaskMod], first: Tensor, rest: dict[str, Any]) -> list[Tensor]:
    """What `op/dynamo.py` recorded: the tables of a mask."""
    asked = _checked(mods[0], rest["sizes"], rest["others"])
    fields = {"seq_lengths": asked.shape[2:], "BLOCK_SIZE": asked.block}
    return list(_mask(asked, rest["others"], fields)._tables())


dynamo.BLOCKS.run = _run_recorded


def create_mask(
    mod_fn: Callable[..., Any],
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: DeviceLike = None,
) -> Tensor:
    """What a mod keeps, as bool [B, H, Q_LEN, KV_LEN].

    ``mod_fn`` is a mask_mod, or a score_mod: that keeps a pair unless it turns a score of 0
    into -inf.
    """
    lengths = validate.lengths((Q_LEN, KV_LEN))
    shape = (_count(B, "B"), _count(H, "H"), *lengths)
    is_score = _is_score_mod(mod_fn)
    bound = symbolic.bind_mask(mod_fn, "score" if is_score else "mask")
    chosen = _device(device, bound)
    kept = _score_keeps(bound, chosen) if is_score else evaluator(bound, shape, chosen)
    mask = torch.empty(shape, dtype=torch.bool, device=chosen)
    for box in pieces(shape, (1, 1), PIECE):
        mask[tuple(slice(*bounds) for bounds in box)] = kept(*grid(*box, chosen))
    return mask


def _score_keeps(bound: Bound, device: torch.device) -> Callable[..., Tensor]:
    program, captures = bound.variant.program, [tensor.detach() for tensor in bound.captures]

    def kept(*indices: Tensor) -> Tensor:
        env = dict(zip(("b", "h", "q_idx", "kv_idx"), indices))
        env["score"] = torch.zeros((), device=device)
        with torch.no_grad():
            assert program.score is not None
            score = evaluate(program.score, env, captures, program.compute)
        return ~torch.isneginf(score)

    return kept


@register_classifier
def _classify(
    mask_mod: MaskMod,
    shape: tuple[int, int, int, int],
    block: tuple[int, int],
    device: torch.device,
) -> Grid:
    asked = _Asked(symbolic.bind_mask(mask_mod), shape, block, device)
    if _by_operator(asked):
        return block_classes(asked.bound, shape, block, device)
    return structure(asked.bound, shape, block, device)[0]


@register_evaluator
def _evaluator(
    mask_mod: MaskMod, shape: tuple[int, int, int, int], device: torch.device
) -> Evaluate:
    return evaluator(symbolic.bind_mask(mask_mod), shape, device)


def _count(value: int | None, name: str) -> int:
    count = 1 if value is None else value
    if not isinstance(count, int | torch.SymInt) or isinstance(count, bool) or count < 0:
        raise BlockMaskError(
            f"{name} is {value!r}.",
            why="it counts batches or heads.",
            fix=f"pass an int of 0 or more, or None for a mask that every {name} shares.",
        )
    return count


def _present(device: torch.device) -> torch.device:
    """``device`` with its number.

    Raises:
        ArgumentError: The machine or its torch has no such device.
    """
    if device.type == "cpu":
        return device
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError) as error:
        raise ArgumentError(
            f"the mask is to lie on {device}, and torch {torch.__version__} cannot use that.",
            why=f"{str(error).strip().splitlines()[0]}.",
            fix="pass device='cpu', or run where torch.cuda.is_available() is True.",
        ) from error


def _device(device: DeviceLike, bound: Bound) -> torch.device:
    """The device asked for, else that of the captures, else PyTorch's default for masks."""
    found = {tensor.device for tensor in bound.captures if tensor.ndim or tensor.is_cuda}
    if device is not None:
        chosen = _present(validate.device(device))
    else:
        fallback = torch.accelerator.current_accelerator() or torch.device("cpu")
        chosen = min(found, key=str, default=fallback)
    wrong = [
        tensor.device
        for tensor in bound.captures
        if tensor.device != chosen and (tensor.ndim or tensor.device.type != "cpu")
    ]
    if wrong:
        raise CaptureDeviceError(
            f"mask_mod captures a tensor on {wrong[0]}, and the mask is made on {chosen}.",
            why="one kernel reads both.",
            fix=f"move the tensor with .to({str(chosen)!r}), or pass device={str(wrong[0])!r}.",
        )
    return chosen


def _is_score_mod(mod: Callable[..., Any]) -> bool:
    """Whether ``mod`` wants five arguments."""
    if not callable(mod):
        return False  # the tracer says so in better words
    if type(mod) is FunctionType and mod.__code__.co_flags & _VARIABLE == 0:
        return mod.__code__.co_argcount - len(mod.__defaults__ or ()) == 5
    try:
        parameters = inspect.signature(mod).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters) == 5


def _name(mod: Callable[..., Any]) -> str:
    return getattr(mod, "__name__", None) or type(mod).__name__
