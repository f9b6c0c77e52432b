"""Makes one self-contained C++ file of a template: includes inlined, mods spliced in."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Iterable, Mapping

BEGIN_MODS, END_MODS = "// >>> mods", "// <<< mods"
_FUNCTION = re.compile(r"\bm_\w+")
_PROVIDES = re.compile(r"^//.*\bProvides:(.*(?:\n//.*)*)", re.M)
_INCLUDE = re.compile(r'^#include "([^"]+)"\s*$')


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
