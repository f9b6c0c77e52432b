"""Shows benchmark rows: a terminal table, JSON with the machine it was measured on, a plot."""

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

# Okabe-Ito, told apart by most colour-blind people
COLOURS = {"ours": "#0072B2", "sdpa": "#E69F00", "torch_flex": "#009E73"}


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


def plot(suite: str, rows: Sequence[Row], path: pathlib.Path) -> None:
    """A chart written to ``path`` (PNG or SVG), if the suite has what can be drawn.

    Rates of all contestants, or costs, as bars; times of building masks as lines over the length.
    """
    import matplotlib

    matplotlib.use("Agg")
    if "torch_ms" in rows[0]:
        _plot_builds(suite, rows, path)
    elif "cost" in rows[0]:
        _plot_bars(suite, rows, path, ("cost",), "time over the plain mask's (lower is better)")
    else:
        units = {"gflops": "useful GFLOP/s", "gbytes": "GB/s of keys and values"}
        for unit, says in units.items():
            names = tuple(key for key in rows[0] if key.endswith(f"_{unit}"))
            if names:
                _plot_bars(suite, rows, path, names, f"{says} (higher is better)")


def _plot_builds(suite: str, rows: Sequence[Row], path: pathlib.Path) -> None:
    """Ours whole, PyTorch's builder dashed, one colour a mask."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.0, 5.0), layout="constrained")
    for at, name in enumerate(dict.fromkeys(row["mask"] for row in rows)):
        own = [row for row in rows if row["mask"] == name]
        for key, style, label in (("ours_ms", "o-", name), ("torch_ms", "x--", None)):
            known = [row for row in own if isinstance(row[key], float)]
            xs, ys = [row["tokens"] for row in known], [row[key] for row in known]
            axes.plot(xs, ys, style, color=f"C{at}", label=label)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="ms to build (lower is better)")
    axes.set_title(f"{suite}, {machine()['cpu']}; dashed: torch create_block_mask")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _plot_bars(
    suite: str, rows: Sequence[Row], path: pathlib.Path, names: Sequence[str], axis: str
) -> None:
    """One group of bars a row, one bar a name; a row is called by its texts and whole numbers."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(max(6.0, 0.5 * len(rows)), 4.5), layout="constrained")
    width = 0.8 / len(names)
    for at, name in enumerate(names):
        places = [x + at * width for x in range(len(rows))]
        heights = [row[name] or 0.0 for row in rows]  # none where the machine was too noisy
        label = name.rpartition("_")[0] or name
        axes.bar(places, heights, width, label=label, color=COLOURS.get(label))
    labels = [
        " ".join(v if isinstance(v, str) else f"{k}{v}" for k, v in row.items() if _names(v))
        for row in rows
    ]
    axes.set_xticks(
        [x + 0.4 - width / 2 for x in range(len(rows))], labels, rotation=90, fontsize=7
    )
    axes.set_ylabel(axis)
    axes.set_title(f"{suite}, {machine()['cpu']}")
    if len(names) > 1:
        axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _names(value: object) -> bool:
    return isinstance(value, str | int)
