"""What torch.compile records in place of attention and of mask building: operators over functions.

Dynamo can neither run our tracer nor leave a call alone that takes a function. It knows one way
to put functions into a graph: a higher-order operator with a front end that traces each of them
into a subgraph and lifts what they capture. We have operators of our own and borrow the front
end that PyTorch made for its flex_attention. When the graph runs, or when AOT Autograd or
``torch.export`` traces it further, such an operator calls the ordinary function on the
subgraphs; that traces them with our tracer and arrives at an operator of `op/operators.py`.

The front end is found in a private table of Dynamo's, keyed by the operator's name. This module
is the only one that touches it, and does so when Dynamo meets the first call: importing Dynamo
earlier would cost every program a second.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.fx import GraphModule

from flexattn.errors import ArgumentError, KernelOptionError, TorchVersionError
from flexattn.masks.block_mask import BlockMask

LAYOUTS = {("self", "tx", "query", "fn", "fn_name"): "2.11 to 2.13"}
"""Parameters of the borrowed ``create_wrapped_node``, and the torch versions that have them."""

NAMES = ("flexattn_attention", "flexattn_blocks")


class FunctionOperator(HigherOrderOperator):
    """A function that takes mods, as one node of a Dynamo graph.

    Called as ``operator(mods, first, rest)``: the mods, a tensor on whose device they run, and
    the other arguments. In graphs ``operator(mods, first, rest, captured, names)``, where the mods
    are subgraphs; the last two hold, for each, what it takes after the mod's own arguments and
    what the user calls it.
    """

    run: Callable[..., Any]
    """``run(mods, first, rest)``: the function itself; set where it is defined."""

    def __call__(
        self,
        mods: tuple[Any, ...],
        first: Any,
        rest: dict[str, Any],
        captured: tuple[tuple[Any, ...], ...] = (),
        names: tuple[str, ...] = (),
    ) -> Any:
        if not names:  # Dynamo gave up on these mods: it must not meet them again inside
            return torch.compiler.disable(self.run)(mods, first, rest)
        return self.run(tuple(map(_bind, mods, captured, names)), first, rest)


def _bind(mod: GraphModule | None, values: tuple[Any, ...], name: str) -> Callable[..., Any] | None:
    """The mod as users write it, of a subgraph and what it captured."""
    if mod is None:
        return None

    def traced_by_dynamo(*arguments: Any) -> Any:
        return mod(*arguments, *values)

    traced_by_dynamo.__name__ = name
    return traced_by_dynamo


def install() -> bool:
    """Tell Dynamo how to record a ``FunctionOperator``; Dynamo calls it when it meets the first."""
    import torch._dynamo.variables.higher_order_ops as dynamo_operators

    try:
        table = dynamo_operators._hop_name_to_variable_class
        borrowed = dynamo_operators.FlexAttentionHigherOrderVariable
        parameters = inspect.signature(borrowed.create_wrapped_node).parameters
    except AttributeError as error:
        raise _unknown_version(str(error)) from error
    if tuple(parameters) not in LAYOUTS:
        raise _unknown_version(f"create_wrapped_node takes {', '.join(parameters)}")
    for name in NAMES:
        if name not in table:
            table[name] = _front_end(borrowed)
    return True


def _unknown_version(found: str) -> TorchVersionError:
    return TorchVersionError(
        f"torch.compile of torch {torch.__version__} records functions in an unknown way: {found}.",
        why=f"flexattn knows the way of torch {', '.join(LAYOUTS.values())}.",
        fix="use one of these versions, or leave this attention call out of the compiled region "
        "with torch.compiler.disable; it needs no compilation.",
    )


@lru_cache(maxsize=1)
def _front_end(borrowed: Any) -> Any:
    """PyTorch's front end for its flex_attention, given the arguments of ours."""
    from torch._dynamo.utils import proxy_args_kwargs
    from torch._dynamo.variables.builder import wrap_fx_proxy

    class FunctionOperatorVariable(borrowed):
        _HOP_NAME = "flexattn"

        def call_function(self, tx: Any, args: Any, kwargs: Any) -> Any:
            mods, first, rest = args
            kinds = ("score_mod", "mask_fn")[-len(mods.items) :]
            nodes, captured, names = [], [], []
            for mod, kind in zip(mods.items, kinds, strict=True):
                node, values = None, ()
                if not (mod.is_python_constant() and mod.as_python_constant() is None):
                    node, values = self.create_wrapped_node(tx, first, mod, kind)
                nodes.append(node)
                captured.append(values)
                names.append(mod.get_name() if hasattr(mod, "get_name") else "")
            (first, rest), _ = proxy_args_kwargs([first, rest], {})
            arguments = (tuple(nodes), first, rest, tuple(captured), tuple(names))
            proxy = tx.output.create_proxy("call_function", self.value, arguments, {})
            return wrap_fx_proxy(tx=tx, proxy=proxy, example_value=None)

    return FunctionOperatorVariable


# Dynamo runs a function marked so when it meets the call, and takes the result for a constant:
# what torch.compiler.assume_constant_result does, which would import Dynamo here and now.
install._dynamo_marked_constant = True  # type: ignore[attr-defined]


def refuse_form() -> bool:
    """Raise, while Dynamo records a call that asks for a closed form."""
    raise KernelOptionError(
        "kernel_options['block_list'] is 'closed_form' in a compiled region.",
        why="a graph of torch.compile holds the lists of a mask.",
        fix="leave block_list out, or keep this call out of the region with "
        "torch.compiler.disable; it needs no compilation.",
    )


refuse_form._dynamo_marked_constant = True  # type: ignore[attr-defined]

ATTENTION = FunctionOperator("flexattn_attention")
BLOCKS = FunctionOperator("flexattn_blocks")


# Below is what Dynamo reads instead of the bodies of flex_attention and create_block_mask.


def record_attention(
    mods: tuple[Any, Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: Any,
    others: dict[str, Any],
    returns: tuple[bool, bool],
) -> tuple[Tensor, ...]:
    """Record ``flex_attention`` of (score_mod, mask_mod).

    Args:
        others: Its other arguments by name.
        returns: Whether to return lse and max_scores after the output.
    """
    install()
    rest = {"key": key, "value": value, "mask": None, "others": others, "returns": returns}
    score_mod, mask_mod = mods
    if block_mask is not None:
        if (others["kernel_options"] or {}).get("block_list") == "closed_form":
            refuse_form()
        tables = _tables(block_mask)
        if mask_mod is not None:
            raise ArgumentError(
                "both mask_mod and block_mask are given.",
                why="a block_mask has a mask_mod of its own.",
                fix="pass one of them.",
            )
        rest["mask"] = (tables, block_mask.seq_lengths, block_mask.BLOCK_SIZE)
        mask_mod = block_mask.mask_mod
    return ATTENTION((score_mod, mask_mod), query, rest)


def _tables(block_mask: Any) -> tuple[Tensor, ...]:
    """The block lists of a mask, ours or PyTorch's."""
    if isinstance(block_mask, BlockMask):
        return block_mask._kernel_tables()
    partial = block_mask.kv_num_blocks, block_mask.kv_indices
    if block_mask.full_kv_num_blocks is None:
        return partial
    return *partial, block_mask.full_kv_num_blocks, block_mask.full_kv_indices


def record_blocks(
    mask_mod: Any, sizes: tuple[Any, Any, Any, Any], others: dict[str, Any]
) -> list[Tensor]:
    """Record ``create_block_mask`` for ``sizes`` (B, H, Q_LEN, KV_LEN); returns its tables.

    ``others`` are its other arguments by name.
    """
    install()
    first = torch.empty((), device=others["device"])
    return BLOCKS((mask_mod,), first, {"sizes": sizes, "others": others})
