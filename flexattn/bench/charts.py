"""Draws benchmark rows: bars for rates and costs, lines for times of building masks."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from flexattn.bench.report import machine
from flexattn.bench.shapes import Row

FORMATS = (".png", ".svg")
# Okabe-Ito, told apart by most colour-blind people
COLOURS = {"ours": "#0072B2", "sdpa": "#E69F00", "torch_flex": "#009E73"}
# what is drawn of a row that has it, alone or once a contestant; of several, the first
BARS = {
    "cost": "time over the plain mask's (lower is better)",
    "gflops": "useful GFLOP/s (higher is better)",
    "gbytes": "GB/s of keys and values (higher is better)",
    "over_one_thread": "rate over one thread's (higher is better)",
    "microseconds": "microseconds a call (lower is better)",
    "ms": "ms (lower is better)",
    "beyond_inputs_and_outputs_mb": "MB beyond inputs and outputs (lower is better)",
}


def plot(suite: str, rows: Sequence[Row], path: pathlib.Path) -> None:
    """A chart of any suite's rows, written to ``path`` (one of ``FORMATS``).

    Figures of all contestants as bars; times of building masks as lines over the length.
    """
    import matplotlib

    matplotlib.use("Agg")
    if "torch_ms" in rows[0]:
        return _plot_builds(suite, rows, path)
    for figure, axis in BARS.items():
        names = [key for key in rows[0] if key == figure or key.endswith(f"_{figure}")]
        if names:
            return _plot_bars(suite, rows, path, names, axis)
    raise AssertionError(f"no column of {suite} is in BARS: {', '.join(rows[0])}")


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
