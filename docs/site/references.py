"""Reference pages made from the tables of the code: errors, operations, settings, functions."""

from __future__ import annotations

import inspect

import flexattn
from flexattn import errors
from flexattn.ir.ops import OPS
from flexattn.knobs import KNOBS
from flexattn.lowering import javascript_spellings, spellings, triton_spellings


def code(text: str) -> str:
    """A cell of a table: the text as code, whatever signs it holds."""
    return f"`` {text} ``".replace("|", "\\|") if text else ""


def errors_page() -> str:
    """Every class with its docstring; the examples in them are tests."""
    found = [getattr(errors, name) for name in errors.__all__]
    parts = [
        "# Errors\n",
        "Each error says what is wrong, *at* which line, *why*, and the *fix*.\n",
    ]
    for error in found:
        text = inspect.cleandoc(error.__doc__ or "")
        bases = ", ".join(base.__name__ for base in error.__bases__)
        parts.append(f"## {error.__name__}\n\nA kind of {bases}.\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def ops_page() -> str:
    """Every operation a mod may use, and its spelling in each target."""
    lines = [
        "# Operations\n",
        "What a mod may use, and what it becomes. Spellings are those for floats, else for whole "
        "numbers, else for booleans.\n",
        "| operation | takes | gives | C++ | Triton | JavaScript |",
        "|---|---|---|---|---|---|",
    ]
    for name, op in OPS.items():
        cpp = {k: s.scalar for k, s in spellings.SPELLINGS[name].items()}
        rows = (cpp, triton_spellings.SPELLINGS[name], javascript_spellings.SPELLINGS[name])
        texts = [row.get("float") or row.get("int") or row.get("bool") or "" for row in rows]
        lines.append(" | ".join([f"| `{name}`", op.takes, op.gives, *map(code, texts)]) + " |")
    return "\n".join(lines) + "\n"


def knobs_page() -> str:
    lines = ["# Settings\n", "Environment variables, read when they are needed.\n"]
    lines += ["| variable | meaning | when it is unset |", "|---|---|---|"]
    lines += [f"| `{k.name}` | {k.meaning} | {k.default} |" for k in KNOBS.values()]
    return "\n".join(lines) + "\n"


def api_page() -> str:
    """Every public name with its docstring."""
    parts = ["# Functions and classes\n"]
    for name in sorted(set(flexattn.__all__) - {"errors", "__version__"}):
        value = getattr(flexattn, name)
        text = inspect.cleandoc(inspect.getdoc(value) or "")
        head = name
        if callable(value):
            try:
                head = f"{name}{inspect.signature(value)}"
            except (TypeError, ValueError):
                head = name
        parts.append(f"## {name}\n\n```text\nflexattn.{head}\n\n{text}\n```\n")
        if inspect.isclass(value):
            parts += methods(value)
    return "\n".join(parts)


def methods(value: type) -> list[str]:
    """Public methods and properties of a class, its own and those it takes from ours."""
    parts = []
    for name, member in inspect.getmembers(value):
        text = inspect.getdoc(member)
        if (
            name.startswith("_")
            or not text
            or not (callable(member) or isinstance(member, property))
        ):
            continue
        home = getattr(member, "__module__", "") or getattr(value, "__module__", "")
        if home.startswith("flexattn"):
            parts.append(f"### {value.__name__}.{name}\n\n```text\n{inspect.cleandoc(text)}\n```\n")
    return parts
