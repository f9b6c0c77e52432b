"""Writes what the GPU suite found: JSON with everything, Markdown with targets and tables."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flexattn.bench import report
from flexattn.bench.gpu_contest import Row


def device_facts(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    facts = report.machine() | {"triton": _version("triton"), "flash_attn": _version("flash-attn")}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        facts |= {
            "device": found.name,
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "l2_mb": found.L2_cache_size / 2**20,
            "memory_gb": round(found.total_memory / 2**30),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Target:
    """A figure that is wanted on an H200.

    Attributes:
        text: What is measured.
        wanted: The bound, as a number.
        least: Whether ``wanted`` is a lower bound; else an upper one.
        value: Finds the figure in the rows; None where no row holds it.
    """

    text: str
    wanted: float
    least: bool
    value: Callable[[Sequence[Row]], float | None]

    def row(self, rows: Sequence[Row]) -> Row:
        value = self.value(rows)
        met = None
        if value is not None:
            met = value >= self.wanted if self.least else value <= self.wanted
        bound = f"{'≥' if self.least else '≤'} {self.wanted:g}"
        return {"target": self.text, "wanted": bound, "measured": value, "met": met}


def pick(rows: Sequence[Row], **facts: Any) -> Row:
    """The first row with these facts, or an empty one."""
    return next((row for row in rows if all(row.get(k) == v for k, v in facts.items())), {})


def _over(key: str, **facts: Any) -> Callable[[Sequence[Row]], float | None]:
    return lambda rows: pick(rows, **facts).get(key)


def _ratio(above: str, below: str, **facts: Any) -> Callable[[Sequence[Row]], float | None]:
    def value(rows: Sequence[Row]) -> float | None:
        row = pick(rows, **facts)
        return row[above] / row[below] if above in row and below in row else None

    return value


def _of_copy(B: int, N: int) -> Callable[[Sequence[Row]], float | None]:
    def value(rows: Sequence[Row]) -> float | None:
        ceiling = pick(rows, group="ceiling", what="copy").get("tb_s")
        reached = pick(rows, group="decode", variant="full", B=B, M=1, N=N).get("ours_tb_s")
        return reached / ceiling if reached and ceiling else None

    return value


CAUSAL: dict[str, Any] = {"variant": "causal", "D": 128, "Hkv": 16}
FLEX = "over_torch_flex"
TARGETS: tuple[Target, ...] = (
    *(
        Target(f"forward causal {n}, torch flex_attention's time over ours", 1.1, True,
               _over(FLEX, group="forward", M=n, **CAUSAL))
        for n in (8192, 16384)
    ),
    *(
        Target(f"backward causal {n}, torch flex_attention's time over ours", 1.3, True,
               _over(FLEX, group="backward", M=n, **CAUSAL))
        for n in (8192, 16384)
    ),
    Target("forward causal document 16384, torch's over ours", 2.0, True,
           _over(FLEX, group="forward", variant="causal document")),
    Target("forward soft-cap over forward without it", 1.15, False,
           _ratio("ours_ms", "ours_without_mod_ms", group="forward", variant="soft-cap")),
    Target("decoding one token, B 8, 32768 keys, share of copy bandwidth", 0.8, True,
           _of_copy(8, 32768)),
    Target("decoding one token, B 32, 32768 keys, share of copy bandwidth", 0.8, True,
           _of_copy(32, 32768)),
    Target("decoding 8 tokens over decoding 1, B 8, 32768 keys", 1.2, False,
           _ratio("ours_ms", "ours_one_token_ms", group="decode", variant="full", M=8, N=32768)),
    Target("backward relative bias with its gradient, torch's over ours", 3.0, True,
           _over(FLEX, group="backward", variant="relative bias")),
    Target("new mod to its result, compiled, ms", 3000.0, False,
           _over("next_ms", group="new mod", what="cold")),
    Target("new mod to its result, from disk, ms", 20.0, False,
           _over("next_ms", group="new mod", what="from disk")),
    Target("Python per launch, µs", 15.0, False, _over("launch_us", group="launch")),
)  # fmt: skip


def targets(rows: Sequence[Row]) -> list[Row]:
    return [target.row(rows) for target in TARGETS]


def write(folder: Path, result: dict[str, Any]) -> None:
    """``gpu.json`` and ``gpu.md`` in ``folder``; called after each row, so little is ever lost."""
    folder.mkdir(parents=True, exist_ok=True)
    result = result | {"targets": targets(result["rows"])}
    for name, text in (
        ("gpu.json", json.dumps(result, indent=1, default=str) + "\n"),
        ("gpu.md", markdown(result)),
    ):
        part = folder / f".{name}.part"
        part.write_text(text)
        part.replace(folder / name)


def markdown(result: dict[str, Any]) -> str:
    """The page: device, checks, targets, a table per group, what is missing and why."""
    facts, rows = result["device"], result["rows"]
    name = facts.get("device", facts["cpu"])
    parts = [f"# GPU figures: {name}, {facts['date']}\n"]
    if result["rehearsal"]:
        parts.append(
            "**A rehearsal on the CPU with tiny shapes: no figure here means anything.**\n"
        )
    versions = ("torch", "triton", "flash_attn", "cuda", "cudnn", "python", "system")
    told = ", ".join(f"{key} {facts[key]}" for key in versions if facts.get(key))
    parts.append(
        f"{told}. {result['seconds']:.0f} s in all. bfloat16, random data, medians of rounds that "
        "alternate between the contestants; TFLOP/s counts the pairs that the mask keeps, a "
        "backward as 2.5 forwards; × is the other's time over ours.\n"
    )
    parts.append(_checks(result["checks"]))
    parts.append("## Targets (set for an H200)\n\n" + _table(targets(rows), TARGET_COLUMNS))
    for group, columns in COLUMNS.items():
        members = [row for row in rows if row["group"] == group and "skipped" not in row]
        if members:
            parts.append(f"## {group}\n\n" + _table([_shown(r, rows) for r in members], columns))
    parts.append(_missing(rows))
    return "\n".join(parts)


def _checks(checks: dict[str, Any]) -> str:
    lines = [
        f"## Results on the device\n\n{checks['passed']} passed, {len(checks['failed'])} failed, "
        f"{len(checks['skipped'])} skipped, {len(checks['not_run'])} not run, "
        f"in {checks['seconds']:.0f} s.\n"
    ]
    lines += [f"* failed: `{f['test']}`: {_line(f['why'])}" for f in checks["failed"]]
    lines += [f"* skipped: `{f['test']}`: {_line(f['why'])}" for f in checks["skipped"]]
    lines += [f"* not run: `{test}`" for test in checks["not_run"]]
    lines += [f"* {note}" for note in checks.get("notes", ())]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())[-300:]


def _missing(rows: Sequence[Row]) -> str:
    """Rows left out, contestants that failed or could not enter: nothing is missing silently."""
    lines = []
    for row in rows:
        name = row.get("case", row["group"])
        if "skipped" in row:
            lines.append(f"* {name}: left out, {row['skipped']}")
        if "wrong" in row:
            lines.append(f"* {name}: **wrong**, {row['wrong']}")
        for what in ("failed", "absent"):
            lines += [
                f"* {name}: {who} {what}: {_line(why)}" for who, why in row.get(what, {}).items()
            ]
    return "## What is missing, and why\n\n" + ("\n".join(lines) or "Nothing.") + "\n"


def _shown(row: Row, rows: Sequence[Row]) -> Row:
    """A row with the columns that are made of others."""
    shown = dict(row)
    if "Hq" in row:
        same = row["Hq"] == row["Hkv"]
        shown["heads"] = f"{row['Hq']}" if same else f"{row['Hq']}/{row['Hkv']}"
    matmul = pick(rows, group="ceiling", what="bf16 matrix product").get("tflops")
    if matmul and "ours_tflops" in row:
        shown["of_ceiling"] = row["ours_tflops"] / matmul
    copy = pick(rows, group="ceiling", what="copy").get("tb_s")
    if copy and "ours_tb_s" in row:
        shown["of_ceiling"] = row["ours_tb_s"] / copy
    if "ours_one_token_ms" in row and "ours_ms" in row:
        shown["over_one_token"] = row["ours_ms"] / row["ours_one_token_ms"]
    if "ours_without_mod_ms" in row and "ours_ms" in row:
        shown["over_without_mod"] = row["ours_ms"] / row["ours_without_mod_ms"]
    return shown


TARGET_COLUMNS = {"target": "target", "wanted": "wanted", "measured": "measured", "met": "met"}
_PEERS = {
    "over_torch_flex": "× torch flex",
    "over_sdpa_flash": "× SDPA flash",
    "over_sdpa_cudnn": "× SDPA cuDNN",
    "over_flash_attn": "× flash-attn",
    "difference": "difference",
}
_ATTENTION = {
    "variant": "variant", "B": "B", "heads": "heads", "D": "D", "N": "tokens",
    "ours_ms": "ms", "ours_tflops": "TFLOP/s", "of_ceiling": "of matmul",
    **_PEERS, "over_without_mod": "over no mod", "ours_spread": "spread",
}  # fmt: skip
COLUMNS: dict[str, dict[str, str]] = {
    "ceiling": {"what": "what", "tflops": "TFLOP/s", "tb_s": "TB/s"},
    "forward": _ATTENTION,
    "backward": _ATTENTION,
    "decode": {
        "variant": "variant", "B": "B", "heads": "heads", "D": "D", "M": "queries", "N": "keys",
        "ours_ms": "ms", "ours_tb_s": "TB/s", "of_ceiling": "of copy", **_PEERS,
        "over_one_token": "over one token", "ours_how": "timed by",
    },
    "mask": {
        "variant": "variant", "tokens": "tokens", "first_ms": "first ms", "ms": "ms",
        "memory_gb": "GB held", "torch_first_ms": "torch's first ms", "torch_ms": "torch's ms",
        "over_torch": "× torch",
    },
    "launch": {
        "launch_us": "launch µs", "forward_us": "with its plan and memory",
        "memory_us": "memory alone", "plain_us": "call µs", "block_mask_us": "with BlockMask",
        "soft_cap_us": "and soft-cap", "sdpa_us": "SDPA", "torch_flex_soft_cap_us": "torch flex",
    },
    "new mod": {
        "what": "what", "import_ms": "import ms", "first_ms": "first mod ms",
        "next_ms": "next mod ms", "third_ms": "third mod ms", "backward_ms": "its backward ms",
    },
}  # fmt: skip


def _table(rows: Sequence[Row], columns: dict[str, str]) -> str:
    used = {key: title for key, title in columns.items() if any(key in row for row in rows)}
    lines = ["| " + " | ".join(used.values()) + " |", "|" + "---|" * len(used)]
    lines += ["| " + " | ".join(_cell(key, row.get(key)) for key in used) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(key: str, value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "**no**"
        case float() if key.startswith("over_"):
            return f"{value:.2f}×"
        case float() if key in ("of_ceiling", "ours_spread"):
            return f"{100 * value:.0f}%"
        case float():
            return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
        case _:
            return str(value)
