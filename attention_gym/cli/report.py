"""Print a result as a table for people or as JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    """Standard output: as wide as the terminal, and wide enough for any table when piped."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=160 if piped else None, highlight=False, soft_wrap=piped)


def emit(
    rows: Sequence[Mapping[str, Any]], *, as_json: bool, title: str = "", columns: str = ""
) -> None:
    """Print rows of equal keys.

    Args:
        rows: One mapping per row.
        as_json: Print a JSON array of all keys in place of a table.
        title: Shown over the table.
        columns: Names of the columns to show, separated by blanks; all when empty.
    """
    if as_json:
        print(json.dumps([dict(row) for row in rows], indent=2, default=str))
        return
    names = columns.split() or list(rows[0] if rows else ())
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for name in names:
        number = all(isinstance(row[name], int | float) for row in rows)
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(name.replace("_", " "), justify=justify, no_wrap=name == names[0])
    for row in rows:
        table.add_row(*(Text(shown(row[name])) for name in names))
    console().print(table)


def shown(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        case list() | tuple():
            return ", ".join(map(shown, value))
        case _:
            return str(value)
