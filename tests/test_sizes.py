"""How large files, functions and kernels may grow; run with -s to see the table."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE_LIMIT, FUNCTION_LIMIT, KERNEL_LIMIT = 400, 60, 150
PACKAGES = ("flexattn", "codegen_templates", "attention_gym", "tests")
SCOPE = re.compile(r'^\s*(namespace\b|extern\s+"C"|inline\s+namespace\b)[^;]*\{')


def files(package: str, *suffixes: str) -> list[Path]:
    return [p for s in suffixes for p in sorted((ROOT / package).rglob(f"*{s}"))]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def length(path: Path) -> int:
    return len(path.read_text().splitlines())


def python_functions(path: Path) -> dict[str, int]:
    """Lines of each function, its decorators and docstring left out."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            skipped = (doc.end_lineno or 0) - doc.lineno + 1 if doc else 0
            lines = (node.end_lineno or 0) - node.lineno + 1 - skipped
            found[f"{label(path)}:{node.lineno} {node.name}"] = lines
    return found


def cpp_functions(path: Path) -> dict[str, int]:
    """Lines of each outermost brace block of a C++ file (namespaces do not count as one)."""
    found: dict[str, int] = {}
    depth = start = 0
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        line = re.sub(r'//.*|"(\\.|[^"\\])*"|\'(\\.|[^\'\\])\'', "", raw)
        if depth == 0 and SCOPE.match(raw):
            continue
        opened = depth
        depth = max(0, depth + line.count("{") - line.count("}"))
        if opened == 0 and depth > 0:
            start = number
        elif opened > 0 and depth == 0:
            found[f"{label(path)}:{start}"] = number - start + 1
    return found


def row(name: str, values: list[int]) -> str:
    if not values:
        return f"{name:<28}{'-':>8}"
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{name:<28}{len(values):>8}{statistics.median(values):>8.0f}{p95:>8}{ordered[-1]:>8}"


def test_files_and_functions_stay_small() -> None:
    print(f"\n{'':<28}{'count':>8}{'median':>8}{'p95':>8}{'max':>8}")
    too_long = []
    for package in PACKAGES:
        sources = {str(p.relative_to(ROOT)): length(p) for p in files(package, ".py", ".h", ".cpp")}
        functions: dict[str, int] = {}
        kernels: dict[str, int] = {}
        for path in files(package, ".py"):
            kind = kernels if package == "codegen_templates" else functions
            kind.update(python_functions(path))
        for path in files(package, ".h", ".cpp"):
            kernels.update(cpp_functions(path))
        tables = (
            ("files", sources, FILE_LIMIT),
            ("functions", functions, FUNCTION_LIMIT),
            ("kernels", kernels, KERNEL_LIMIT),
        )
        for what, sizes, limit in tables:
            print(row(f"{package} {what}", list(sizes.values())))
            too_long += [f"{n}: {size} > {limit}" for n, size in sizes.items() if size > limit]
    assert not too_long, "\n".join(too_long)


def test_the_measures_can_refuse(tmp_path: Path) -> None:
    source = ROOT / "tests" / "test_sizes.py"
    assert max(python_functions(source).values()) < FUNCTION_LIMIT
    block = tmp_path / "long.cpp"
    block.write_text("namespace a {\nvoid f() {\n" + "  g();\n" * 200 + "}\n}\n")
    assert list(cpp_functions(block).values()) == [202]
