"""Write the measured figures of docs/benchmarks/*.json into pages: run by `make figures`.

README.md gets a summary, docs/benchmarks/README.md every row.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REGION = re.compile(r"(<!-- figures -->\n).*?(<!-- end of figures -->)", re.DOTALL)
BUILDS = ("mask", "tokens", "first_ms", "ours_ms", "peak_mb", "torch_ms", "torch_resident_mb")
SHOWN = (32768, 131072, 1048576)
EMPTY = "Run `make figures` to measure this machine.\n"


def cell(name: str, value: Any) -> str:
    match value:
        case None:
            return "too noisy"
        case float() if name.startswith("over_") or name == "cost":
            return f"{value:.2f}×"
        case float() if name.startswith("of_"):
            return f"{100 * value:.0f}%"
        case float():
            return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table."""
    names = list(rows[0])
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|" + "---|" * len(names),
        *("| " + " | ".join(cell(n, row[n]) for n in names) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def title(suite: dict[str, Any]) -> str:
    """Name of a suite, with the machine and the date it was measured on."""
    machine = suite["machine"]
    return (
        f"**{suite['suite']}**: {machine['cpu']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, {machine['date']}."
    )


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means over the lengths of each (dtype, D, mask); of masks, some columns and rows.

    Of mods and threads too; other suites stay as they are.
    """
    if "tokens" in rows[0] and "ours_ms" in rows[0]:
        return [{name: row[name] for name in BUILDS} for row in rows if row["tokens"] in SHOWN]
    if "cost" in rows[0]:
        return _means(rows, ("problem", "dtype"), ("cost",))
    if "direction" in rows[0]:
        return _means(rows, ("direction", "dtype"), ("over_one_thread",))
    if not {"S", "mask"} <= set(rows[0]):
        return rows
    columns = ("ours_gflops", *(n for n in rows[0] if n.startswith(("over_", "of_"))))
    return _means(rows, ("dtype", "D", "mask"), columns)


def _means(
    rows: list[dict[str, Any]], same: tuple[str, ...], columns: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Geometric means of some columns over the rows that agree in others."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in same), []).append(row)
    means = []
    for key, members in groups.items():
        mean: dict[str, Any] = dict(zip(same, key, strict=True))
        for name in columns:
            values = [row[name] for row in members if row[name] is not None]
            mean[name] = math.prod(values) ** (1 / len(values)) if values else None
        means.append(mean)
    return means


def suites(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def figures(folder: Path) -> str:
    parts = [f"{title(s)}\n\n{markdown(summary(s['rows']))}" for s in suites(folder)]
    return "\n".join(parts) or EMPTY


def page(folder: Path) -> str:
    """Every row of every suite."""
    parts = [f"{title(s)}\n\n{markdown(s['rows'])}" for s in suites(folder)]
    head = "# Measured figures\n\nRepeat with `make figures`; the JSON files hold the same rows.\n"
    head += (
        "The processor of these is a Zen 5. Of other machines: two cores of a Xeon with AMX "
        "([xeon-2026-11-26](xeon-2026-11-26)), two Zen 4 cores with earlier kernels "
        "([epyc-2026-11-20](epyc-2026-11-20)). Of every recipe: [gallery](gallery).\n"
    )
    return "\n".join([head, *parts])


def filled(readme: str, folder: Path) -> str:
    """README's text with the region between its two markers replaced."""
    return REGION.sub(lambda m: f"{m[1]}\n{figures(folder)}\n{m[2]}", readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    folder = ROOT / "docs" / "benchmarks"
    path.write_text(filled(path.read_text(), folder))
    (folder / "README.md").write_text(page(folder))
