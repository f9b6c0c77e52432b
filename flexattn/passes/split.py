"""Take what needs only (b, h), only q_idx or only kv_idx out of the inner loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flexattn.ir.nodes import Const, Input, Node, rebuild, walk

UNIFORM, Q, KV, BOTH = frozenset[str](), frozenset({"q"}), frozenset({"kv"}), frozenset({"q", "kv"})

# What each input varies with inside one head; all others are the same for the whole head.
VARIES = {
    "q_idx": Q,
    "kv_idx": KV,
    **dict.fromkeys(("score", "score_log2", "output", "grad"), BOTH),
}
_LEVELS = {UNIFORM: "u", Q: "q", KV: "kv"}


@dataclass(frozen=True)
class Hoisted:
    """The split graphs.

    Attributes:
        uniform: Values that depend on (b, h), numbers and sizes alone.
        q: Values that depend on q_idx besides; may use ``u:*``.
        kv: Values that depend on kv_idx besides; may use ``u:*``.
        roots: The given roots, in terms of ``u:* q:* kv:*``.
    """

    uniform: tuple[Node, ...]
    q: tuple[Node, ...]
    kv: tuple[Node, ...]
    roots: tuple[Node, ...]


def variation(*roots: Node) -> dict[Node, frozenset[str]]:
    """Which of ``q`` and ``kv`` each node below ``roots`` depends on."""
    varies: dict[Node, frozenset[str]] = {}
    for node in walk(*roots):
        if isinstance(node, Input):
            varies[node] = VARIES.get(node.name, UNIFORM)
        else:
            varies[node] = frozenset().union(*(varies[arg] for arg in node.args))
    return varies


def split(roots: Iterable[Node]) -> Hoisted:
    """Replace every largest one-sided sub-expression of ``roots`` by a hoisted input.

    Inputs and constants stay where they are: reading them again costs nothing.
    """
    roots = tuple(roots)
    varies = variation(*roots)
    values: dict[str, list[Node]] = {"u": [], "q": [], "kv": []}
    inner: dict[Node, Node] = {}  # each node in terms of the hoisted values of lower levels
    outer: dict[Node, Node] = {}  # each hoisted node's name

    def seen_from(level: frozenset[str], node: Node) -> Node:
        """``node`` as an expression of ``level`` refers to it."""
        own = varies[node]
        if own == level or isinstance(node, Input | Const):
            return inner[node]
        if node not in outer:
            kind = _LEVELS[own]
            outer[node] = Input(f"{kind}:{len(values[kind])}", node.dtype)
            values[kind].append(inner[node])
        return outer[node]

    for node in walk(*roots):
        args = tuple(seen_from(varies[node], arg) for arg in node.args)
        inner[node] = rebuild(node, args)
    rewritten = tuple(seen_from(BOTH, root) for root in roots)
    return Hoisted(tuple(values["u"]), tuple(values["q"]), tuple(values["kv"]), rewritten)
