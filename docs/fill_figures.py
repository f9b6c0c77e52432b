"""Write the measured figures of docs/benchmarks/*.json into README.md: run by `make figures`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REGION = re.compile(r"(<!-- figures -->\n).*?(<!-- end of figures -->)", re.DOTALL)
EMPTY = "Run `make figures` to measure this machine.\n"


def cell(name: str, value: Any) -> str:
    match value:
        case None:
            return "too noisy"
        case float() if name.startswith("over_"):
            return f"{value:.2f}×"
        case float():
            return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def table(suite: dict[str, Any]) -> str:
    """One suite as Markdown, with the machine and the date it was measured on."""
    machine, rows = suite["machine"], suite["rows"]
    names = list(rows[0])
    lines = [
        f"**{suite['suite']}**: {machine['cpu']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, {machine['date']}.",
        "",
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|" + "---|" * len(names),
        *("| " + " | ".join(cell(n, row[n]) for n in names) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def figures(folder: Path) -> str:
    suites = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return "\n".join(table(suite) for suite in suites) or EMPTY


def filled(readme: str, folder: Path) -> str:
    """README's text with the region between its two markers replaced."""
    return REGION.sub(lambda m: f"{m[1]}\n{figures(folder)}\n{m[2]}", readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(), ROOT / "docs" / "benchmarks"))
