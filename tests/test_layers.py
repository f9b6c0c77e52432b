"""The import law: read from the table in docs/architecture.md, held by every module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("flexattn", "attention_gym", "codegen_templates")
# Entry points stand outside the table: nothing imports them.
ENTRY = re.compile(r"(^|\.)__main__$")


@dataclass
class Law:
    """What the table says: who stands where, and the exceptions written in its words."""

    rank: dict[str, tuple[int, int]] = field(default_factory=dict)  # package -> (layer, place)
    ordered: set[int] = field(default_factory=set)  # layers whose packages come one "then" another
    only: dict[str, set[str]] = field(default_factory=dict)  # "`lowering` only `ir`"

    def allows(self, source: str, target: str) -> bool:
        if source == target:
            return True
        (layer, place), (other, other_place) = self.rank[source], self.rank[target]
        if source in self.only and target not in self.only[source] and other > 0:
            return False
        return other < layer or (other == layer and layer in self.ordered and other_place < place)


def read_law(text: str) -> Law:
    law = Law()
    for layer, packages, knows in re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", text, re.M):
        parts = re.split(r",? then ", packages)
        if len(parts) > 1:
            law.ordered.add(int(layer))
        for place, part in enumerate(parts):
            for name in re.findall(r"`([\w/]+)`", part):
                law.rank[name.removesuffix("/__init__")] = (int(layer), place)
        for name, target in re.findall(r"`(\w+)` only `(\w+)`", knows):
            law.only[name] = {target}
        if knows.startswith("text, no IR"):
            law.only[re.findall(r"`(\w+)`", packages)[0]] = set()
    return law


LAW = read_law((ROOT / "docs" / "architecture.md").read_text())


def modules() -> Iterator[tuple[str, Path]]:
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def layer_name(module: str) -> str:
    """``flexattn.ir.nodes`` -> ``ir``; the top packages themselves stay as they are."""
    parts = module.split(".")
    return parts[1] if parts[0] == "flexattn" and len(parts) > 1 else parts[0]


def is_type_checking(node: ast.If) -> bool:
    return "TYPE_CHECKING" in ast.unparse(node.test)


def targets(node: ast.AST, module: str) -> list[str]:
    """Our own modules that one import statement names."""
    if isinstance(node, ast.Import):
        found = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
            kept = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*kept, *([base] if base else [])])
        found = [
            f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
            for alias in node.names
        ]
    else:
        return []
    return [name for name in found if name.split(".")[0] in OURS]


def imports(module: str, *, types: bool) -> list[tuple[str, int]]:
    """(imported module, line) of every import of our own outside functions."""
    found: list[tuple[str, int]] = []

    def walk(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            found.extend((name, node.lineno) for name in targets(node, module))
            if isinstance(node, ast.If) and is_type_checking(node) and not types:
                walk(node.orelse)
                continue
            for block in ("body", "orelse", "finalbody"):
                walk(getattr(node, block, []))
            for handler in getattr(node, "handlers", []):
                walk(handler.body)

    walk(ast.parse(MODULES[module].read_text()).body)
    return found


def test_the_table_names_every_package() -> None:
    missing = sorted({layer_name(m) for m in MODULES if not ENTRY.search(m)} - set(LAW.rank))
    assert not missing, f"docs/architecture.md's layers table lacks {missing}"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if not ENTRY.search(m)))
def test_imports_point_downwards(module: str) -> None:
    source = layer_name(module)
    for target, line in imports(module, types=True):
        assert not ENTRY.search(target), f"{module}:{line} imports the entry point {target}"
        assert LAW.allows(source, layer_name(target)), (
            f"{module}:{line} imports {target}: {source} {LAW.rank[source]} stands not above "
            f"{layer_name(target)} {LAW.rank[layer_name(target)]}"
        )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_of_our_own_hides_in_a_function(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                hidden = targets(node, module)
                assert not hidden, f"{module}:{getattr(node, 'lineno', '?')} hides {hidden}"


def test_attention_gym_uses_the_public_api_alone() -> None:
    reports = {"flexattn.reports.html", "flexattn.reports.javascript"}
    public = {"flexattn", "flexattn.errors", "flexattn.bench", *reports}
    for module in MODULES:
        if module.split(".")[0] != "attention_gym":
            continue
        for target, line in imports(module, types=True):
            ours = target.split(".")[0] == "attention_gym"
            assert ours or target in public, f"{module}:{line} reaches into {target}"


def test_no_cycles() -> None:
    graph = {m: {t for t, _ in imports(m, types=False) if t in MODULES and t != m} for m in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_the_law_itself_can_refuse() -> None:
    law = read_law(
        "| 0 | `errors` | nothing |\n| 1 | `ir` | ops |\n"
        "| 2 | `trace` · `passes` (siblings) | `ir` |\n"
        "| 3 | `masks` · `lowering` (siblings) | 1 and 2; `lowering` only `ir` |\n"
        "| 4 | `op`, then `explain` | all |\n"
    )
    assert law.allows("trace", "ir") and not law.allows("ir", "trace")
    assert not law.allows("trace", "passes") and law.allows("masks", "passes")
    assert law.allows("lowering", "ir") and not law.allows("lowering", "passes")
    assert law.allows("lowering", "errors")
    assert law.allows("explain", "op") and not law.allows("op", "explain")
