"""Makes one self-contained file of a template, C++ or Triton: parts inlined, mods spliced in."""

from __future__ import annotations

import ast
import functools
import importlib.resources
import re
from collections.abc import Iterable, Mapping

BEGIN_MODS, END_MODS = "// >>> mods", "// <<< mods"
_FUNCTION = re.compile(r"\bm_\w+")
_PROVIDES = re.compile(r"^//.*\bProvides:(.*(?:\n//.*)*)", re.M)
_INCLUDE = re.compile(r'^#include "([^"]+)"\s*$')
_BEGIN, _END = "# >>> mods", "# <<< mods"
_TRITON = "codegen_templates.triton"
_FUNCTIONS = ("functions", "functions_rare")  # the parts with m_* functions that mods may call


def render(
    template: str,
    *,
    mods: str | None = None,
    defines: Mapping[str, int] | None = None,
    head: Iterable[str] = (),
) -> str:
    """The text of one kernel.

    Args:
        template: File of `codegen_templates/cpp`.
        mods: Replaces the lines between the two mods marks; None keeps the identities.
        defines: Macros set before everything else.
        head: Comment lines for the top of the file.
    """
    if mods is not None:
        mods = "\n".join([*_math_includes(mods), mods.strip()])
    lines = [f"// {line}".rstrip(" \\") for line in head]  # a backslash would join two lines
    lines += [f"#define {name} {value}" for name, value in (defines or {}).items()]
    _inline(template, mods, lines, set())
    return "\n".join(lines) + "\n"


@functools.cache
def part(name: str) -> str:
    """Text of one file of `codegen_templates/cpp`."""
    folder = importlib.resources.files("codegen_templates") / "cpp"
    return folder.joinpath(*name.split("/")).read_text(encoding="utf-8")


@functools.cache
def providers() -> dict[str, str]:
    """Function that mods may call → the part that defines it, from the "Provides:" of its head."""
    folder = importlib.resources.files("codegen_templates") / "cpp"
    found: dict[str, str] = {}
    for name in sorted(path.name for path in folder.iterdir() if path.name.startswith("math_")):
        for head in _PROVIDES.findall(part(name)):
            found |= dict.fromkeys(_FUNCTION.findall(head), name)
    return found


def _math_includes(mods: str) -> list[str]:
    where = providers()
    needed = {where[name] for name in _FUNCTION.findall(mods) if name in where}
    return [f'#include "{name}"' for name in sorted(needed)]


def _inline(name: str, mods: str | None, out: list[str], done: set[str]) -> None:
    done.add(name)
    text = part(name)
    if mods is not None and BEGIN_MODS in text:
        before, _, rest = text.partition(BEGIN_MODS)
        after = rest.partition(END_MODS)[2]
        text = f"{before}{BEGIN_MODS}\n{mods}\n{END_MODS}{after}"
    out.append(f"// {name}: from codegen_templates/cpp")
    for line in text.splitlines():
        include = _INCLUDE.match(line)
        if include is None:
            out.append(line)
        elif include[1] not in done:
            _inline(include[1], mods, out, done)


def render_triton(name: str, *, mods: str | None = None, head: Iterable[str] = ()) -> str:
    """The text of one Triton kernel: a module that needs nothing but Triton.

    Args:
        name: File of `codegen_templates/triton`, without its ending.
        mods: Replaces the lines between the two mods marks; None keeps the identities.
        head: Comment lines for the top of the file.
    """
    imports: dict[str, None] = {}
    parts: list[str] = []
    _inline_triton(name, mods, imports, parts, set())
    top = "".join(f"# {line}".rstrip() + "\n" for line in head)
    return "\n\n\n".join([top + "\n".join(imports), *parts]) + "\n"


@functools.cache
def triton_part(name: str) -> str:
    """Text of one file of `codegen_templates/triton`."""
    folder = importlib.resources.files("codegen_templates") / "triton"
    return folder.joinpath(f"{name}.py").read_text(encoding="utf-8")


def _inline_triton(
    name: str, mods: str | None, imports: dict[str, None], out: list[str], done: set[str]
) -> None:
    # A part comes before whoever imports it; imports of other modules stand once, above all.
    done.add(name)
    needed, body = _without_imports(triton_part(name), imports)
    if mods is not None and _BEGIN in body:
        needed += _function_parts(mods)
        before, _, rest = body.partition(_BEGIN)
        after = rest.partition(_END)[2]
        body = f"{before}{_BEGIN}\n{mods.strip()}\n{_END}{after}"
    for part_name in needed:
        if part_name not in done:
            _inline_triton(part_name, mods, imports, out, done)
    out.append(f"# {name}.py: from codegen_templates/triton\n{body.strip()}")


def _function_parts(mods: str) -> list[str]:
    called = set(_FUNCTION.findall(mods))
    return [
        name
        for name in _FUNCTIONS
        if not called.isdisjoint(re.findall(r"^def (m_\w+)", triton_part(name), re.M))
    ]


def _without_imports(text: str, imports: dict[str, None]) -> tuple[list[str], str]:
    """The parts that ``text`` imports, and its lines without imports, its docstring as comments.

    Other imports go into ``imports``.
    """
    lines: list[str | None] = list(text.splitlines())
    parts = []
    for place, node in enumerate(ast.parse(text).body):
        span = range(node.lineno - 1, node.end_lineno or node.lineno)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_TRITON):
            parts.append((node.module or "")[len(_TRITON) + 1 :])
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports[ast.unparse(node)] = None
        elif place == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            words = [f"# {line}".rstrip() for line in str(node.value.value).strip().splitlines()]
            lines[span.start] = "\n".join(words)
            span = range(span.start + 1, span.stop)
        else:
            continue
        for line in span:
            lines[line] = None
    return parts, "\n".join(line for line in lines if line is not None)
