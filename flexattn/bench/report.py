"""Shows benchmark rows: a terminal table, and JSON with the machine it was measured on."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from flexattn.bench.shapes import Row


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, threads, versions, date."""
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "date": datetime.date.today().isoformat(),
    }


def _cpu_name() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def as_json(suite: str, rows: Sequence[Row]) -> str:
    """The rows and the machine as one JSON object."""
    return json.dumps({"suite": suite, "machine": machine(), "rows": list(rows)}, indent=1)


def print_table(suite: str, rows: Sequence[Row]) -> None:
    """The rows as a table; an empty ratio means the machine was too noisy to say."""
    from rich.console import Console
    from rich.table import Table

    facts = machine()
    table = Table(title=f"{suite}: {facts['cpu']}, {facts['threads']} threads, {facts['date']}")
    for name in rows[0]:
        table.add_column(name, justify="right" if not isinstance(rows[0][name], str) else "left")
    for row in rows:
        table.add_row(*(_cell(name, value) for name, value in row.items()))
    needed = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, needed)).print(table)  # cut off, cells say nothing


def _cell(name: str, value: object) -> str:
    if value is None:
        return "noisy"
    if isinstance(value, float) and name.startswith("of_"):
        return f"{100 * value:.0f}%"
    if isinstance(value, float):
        return f"{value:.2f}x" if name.startswith("over_") else f"{value:.4g}"
    return str(value)


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error; yields the call that advances it by one."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
