"""The expression nodes every stage works on: immutable, scalar, shared when equal.

Grammar::

    Node  = Input(name, dtype)                 a value the kernel supplies
          | Const(value, dtype)                a Python bool, int or float
          | Load(capture, indices, dtype)      one element of captured tensor number `capture`
          | Apply(op, args, dtype)             an operation of the table in `ir/ops.py`
    dtype = bool | i32 | i64 | f32 | f64

Equal nodes are one object, so equality is identity and graphs are directed acyclic. Tracing
makes bool, i64 and one float dtype only; i32 appears when a pass narrows index arithmetic.

Names of inputs: ``score b h q_idx kv_idx`` (a mod's arguments), ``score_log2`` (log2(e) times
the score), ``output`` and ``grad`` (the modified score, and the gradient that arrives at it),
``n0 n1 …`` (numbers lifted to run-time arguments), ``size{c}_{d}`` (size of dimension ``d`` of
capture ``c``), and ``u:{i} q:{i} kv:{i}`` (value ``i`` hoisted out of the inner loop: per head,
per query, per key).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias
from weakref import WeakValueDictionary

DType: TypeAlias = str
BOOL, I32, I64, F32, F64 = "bool", "i32", "i64", "f32", "f64"
INTS = frozenset({I32, I64})
FLOATS = frozenset({F32, F64})

_interned: WeakValueDictionary[tuple[object, ...], Node] = WeakValueDictionary()


class Node:
    """Base of the four node classes; compare with ``is``."""

    __slots__ = ("__weakref__", "dtype")
    dtype: DType

    @property
    def args(self) -> tuple[Node, ...]:
        return ()


class Input(Node):
    """A value the kernel supplies under a fixed name (see the module's head)."""

    __slots__ = ("name",)
    __match_args__ = ("name", "dtype")
    name: str

    def __new__(cls, name: str, dtype: DType) -> Input:
        return _intern(cls, (cls, name, dtype), name=name, dtype=dtype)

    def __reduce__(self) -> tuple[object, ...]:
        return Input, (self.name, self.dtype)


class Const(Node):
    """A number known when the kernel is generated; ``value`` is a bool, int or float."""

    __slots__ = ("value",)
    __match_args__ = ("value", "dtype")
    value: bool | int | float

    def __new__(cls, value: bool | int | float, dtype: DType) -> Const:
        if dtype == BOOL:
            value = bool(value)
        elif dtype in INTS:
            value = int(value)
        else:
            value = float(value)
        # Floats are keyed by their bits: 0.0 and -0.0 differ, and a NaN equals itself.
        bits = struct.pack("<d", value) if isinstance(value, float) else value
        return _intern(cls, (cls, bits, dtype), value=value, dtype=dtype)

    def __reduce__(self) -> tuple[object, ...]:
        return Const, (self.value, self.dtype)


class Load(Node):
    """One element of capture number ``capture``; ``indices`` has one i64 node per dimension."""

    __slots__ = ("capture", "indices")
    __match_args__ = ("capture", "indices", "dtype")
    capture: int
    indices: tuple[Node, ...]

    def __new__(cls, capture: int, indices: Iterable[Node], dtype: DType) -> Load:
        indices = tuple(indices)
        key = (cls, capture, tuple(map(id, indices)), dtype)
        return _intern(cls, key, capture=capture, indices=indices, dtype=dtype)

    @property
    def args(self) -> tuple[Node, ...]:
        return self.indices

    def __reduce__(self) -> tuple[object, ...]:
        return Load, (self.capture, self.indices, self.dtype)


class Apply(Node):
    """Operation ``op`` (a key of ``ops.OPS``) on ``args``."""

    __slots__ = ("_args", "op")
    __match_args__ = ("op", "args", "dtype")
    op: str
    _args: tuple[Node, ...]

    def __new__(cls, op: str, args: Iterable[Node], dtype: DType) -> Apply:
        args = tuple(args)
        key = (cls, op, tuple(map(id, args)), dtype)
        return _intern(cls, key, op=op, _args=args, dtype=dtype)

    @property
    def args(self) -> tuple[Node, ...]:
        return self._args

    def __reduce__(self) -> tuple[object, ...]:
        return Apply, (self.op, self._args, self.dtype)


def _intern(cls: type, key: tuple[object, ...], **fields: object):  # type: ignore[no-untyped-def]
    # Children are named by id in the key; a live node keeps its children alive, so no id in
    # a live entry is ever reused.
    node = _interned.get(key)
    if node is None:
        node = object.__new__(cls)
        for name, value in fields.items():
            object.__setattr__(node, name, value)
        node = _interned.setdefault(key, node)
    return node


def walk(*roots: Node | None) -> Iterator[Node]:
    """Every node below ``roots`` once, arguments before users; None roots are passed over."""
    seen: set[Node] = set()
    for root in roots:
        if root is None:
            continue
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if node in seen:
                continue
            if ready:
                seen.add(node)
                yield node
            else:
                stack.append((node, True))
                stack.extend((arg, False) for arg in reversed(node.args) if arg not in seen)


def rebuild(node: Node, args: tuple[Node, ...]) -> Node:
    """``node`` with other arguments, same operation and dtype."""
    match node:
        case Load(capture, _, dtype):
            return Load(capture, args, dtype)
        case Apply(op, _, dtype):
            return Apply(op, args, dtype)
    return node


def rewrite(root: Node, rule: Callable[[Node], Node]) -> Node:
    """Apply ``rule`` to every node bottom-up, each once; ``rule`` sees rewritten arguments."""
    done: dict[Node, Node] = {}
    for node in walk(root):
        args = tuple(done[arg] for arg in node.args)
        done[node] = rule(node if args == node.args else rebuild(node, args))
    return done[root]
