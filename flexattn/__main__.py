"""The command line: `python -m flexattn info | explain | compile | cache | bench`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from flexattn import knobs
from flexattn.bench import charts, gpu, report, suites
from flexattn.errors import ArgumentError, CompilerNotFoundError, FlexAttentionError
from flexattn.kernel import isa
from flexattn.kernel.triton_source import triton_version
from flexattn.reports.compile_only import DIRECTIONS, SHORT, compile_only, kind_of
from flexattn.reports.compile_triton import GPUS
from flexattn.reports.explain import explain
from flexattn.runtime import cache, compiler
from flexattn.runtime.counters import clear_cache

EXAMPLES = """examples:
  python -m flexattn info
  python -m flexattn explain flexattn:noop_mask --kernel forward
  python -m flexattn compile mymodule:my_mod --direction backward --dtype bfloat16 --json
  python -m flexattn compile mymodule:my_mod --target sm_90 --direction fwd --head-dim 192,128
  python -m flexattn cache --clear
  python -m flexattn bench cpu-forward --json --plot forward.svg
  python -m flexattn bench gpu --out figures
"""

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f64": "float64"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 on an error, 2 on a wrong command line."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except FlexAttentionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m flexattn", epilog=EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text, epilog=EXAMPLES, formatter_class=raw
        )
        command.set_defaults(run=run)
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
        return command

    add("info", _info, "what this machine offers: compilers, devices, cache, settings")
    command = add("explain", _explain, "every stage of one mod, from its graph to its cost")
    _mod_arguments(command)
    command.set_defaults(dtype="float32")
    command.add_argument("--kernel", choices=DIRECTIONS[:2], help="print this kernel's text too")
    command.add_argument("--batch", type=int, default=1, metavar="B")
    command.add_argument("--heads", type=int, default=8, metavar="H", help="query heads (8)")
    command.add_argument("--kv-len", type=int, metavar="N", help="as many as queries by default")
    command = add("compile", _compile, "compile the kernel of one mod without running it")
    _mod_arguments(command)
    directions = (*DIRECTIONS, *SHORT)
    command.add_argument("--direction", choices=directions, default="forward")
    targets = ", ".join((*isa.ISAS, *GPUS))
    command.add_argument("--target", default="cpp", help="cpp, or one of " + targets)
    command.add_argument(
        "--head-dim", type=_head_dim, default=64, metavar="D[,Dv]", help="GPUs only, 64"
    )
    command = add("cache", _cache, "what the kernel cache holds")
    command.add_argument("--clear", action="store_true", help="delete all kernels")
    command = add("bench", _bench, "measure this machine; ratios above 1 mean flexattn is faster")
    command.add_argument("suite", choices=[*suites.SUITES, "gpu"])
    command.add_argument("--rounds", type=_rounds, default=7, help="timings per contestant (7)")
    command.add_argument("--no-peers", action="store_true", help="leave torch's compiled flex out")
    command.add_argument("--output", type=_new_file, help="also write the JSON here")
    command.add_argument("--plot", type=_new_chart, help="write a chart (.png or .svg)")
    _gpu_arguments(command.add_argument_group("the suite gpu"))
    return parser


def _gpu_arguments(group: argparse._ArgumentGroup) -> None:
    out, folder = pathlib.Path("out/gpu"), "folder for gpu.json and gpu.md (default: out/gpu)"
    group.add_argument("--out", type=pathlib.Path, default=out, help=folder)
    group.add_argument("--minutes", type=float, default=8.0, help="time for all of it")
    group.add_argument("--only", default="", help="rows whose name holds this text")
    group.add_argument("--no-checks", action="store_true", help="measure unchecked results")
    group.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny shapes")


def _mod_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("mod", metavar="MODULE:FUNCTION", help="a score_mod or mask_mod")
    command.add_argument("--q-len", type=int, default=1024)
    command.add_argument(
        "--dtype",
        type=_dtype_name,
        choices=tuple(DTYPES.values()),
        help="also bf16, fp16 and so on; float32, for GPUs bfloat16",
    )


def _dtype_name(text: str) -> str:
    return DTYPES.get(text.replace("fp", "f"), text)


def _head_dim(text: str) -> int | tuple[int, int]:
    """``128`` or ``192,128``."""
    first, comma, second = text.partition(",")
    try:
        return (int(first), int(second)) if comma else int(first)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number, nor two such as 192,128"
        ) from None


def _rounds(text: str) -> int:
    """Two at least: one timing cannot say how noisy the machine is."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 2 or more")
    return int(text)


def _new_file(text: str) -> pathlib.Path:
    """A file that can be written: found out before the measuring, which takes minutes."""
    path = pathlib.Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}: make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def _new_chart(text: str) -> pathlib.Path:
    if pathlib.Path(text).suffix not in charts.FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} ends in neither of {', '.join(charts.FORMATS)}")
    return _new_file(text)


def find_mod(path: str) -> Callable[..., Any]:
    """The function named ``module:function``; attributes may follow with dots."""
    module, _, name = path.partition(":")
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(
            f"there is no mod {path!r}.",
            why=f"{error}.",
            fix="name it as MODULE:FUNCTION, where MODULE can be imported from here.",
        ) from error
    finally:
        sys.path.remove("")
    if not callable(found):
        raise ArgumentError(
            f"{path!r} is not a mod.",
            why=f"it is {found!r}, of type {type(found).__name__}.",
            fix="name a function score_mod(score, b, h, q_idx, kv_idx) or mask_mod(b, h, q_idx, "
            "kv_idx).",
        )
    return found


def _info(arguments: Any) -> int:
    entries = cache.entries()
    facts = report.machine() | {
        "instruction_set": isa.host().name,
        "compiler": _compiler(),
        "triton": triton_version() or "none",
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cache_directory": str(cache.directory()),
        "cached_kernels": len(entries),
        "settings": {name: knobs.get(name) for name in knobs.KNOBS},
    }
    if arguments.json:
        print(json.dumps(facts, indent=1))
    else:
        for name, value in facts.items():
            print(f"{name:<16} {value}")
    return 0


def _compiler() -> str:
    """The compiler, or what is wrong with it: a command that looks for trouble has to run then."""
    try:
        found = compiler.find()
    except CompilerNotFoundError as error:
        return f"none: {error.summary}"
    return f"{found.path} ({found.version})"


def _explain(arguments: Any) -> int:
    mod = find_mod(arguments.mod)
    mods = {f"{kind_of(mod)}_mod": mod}
    sizes = {"B": arguments.batch, "H": arguments.heads, "KV_LEN": arguments.kv_len}
    told = explain(**mods, **sizes, Q_LEN=arguments.q_len, dtype=getattr(torch, arguments.dtype))
    if arguments.json:
        print(told.to_json())
    else:
        print(told)
        if arguments.kernel:
            print(f"\n== {arguments.kernel} kernel ==\n{getattr(told, arguments.kernel)}")
    return 0


def _compile(arguments: Any) -> int:
    facts = compile_only(
        find_mod(arguments.mod),
        arguments.target,
        direction=arguments.direction,
        dtype=arguments.dtype and getattr(torch, arguments.dtype),
        head_dim=arguments.head_dim,
        Q_LEN=arguments.q_len,
    )
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return 0
    kernels = facts.pop("kernels", {})
    for name, value in facts.items():
        print(f"{name:<14} {_told(value)}")
    for name, kernel in kernels.items():
        print(f"\n{name}")
        for fact, value in kernel.items():
            print(f"  {fact:<14} {_told(value)}")
    return 0


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {number}" for name, number in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cache(arguments: Any) -> int:
    if arguments.clear:
        clear_cache()
        removed = cache.empty()
        print(json.dumps({"removed": removed}) if arguments.json else f"{removed} kernels deleted")
        return 0
    rows = [entry.meta | {"key": entry.folder.name} for entry in cache.entries()]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{len(rows)} kernels in {cache.directory()}")
    for row in rows:
        print(f"{row['key'][:12]}  {row['direction']:<8}  {row['dtype']:<4}  {row['isa']}")
    return 0


def _bench(arguments: Any) -> int:
    if arguments.suite == "gpu":
        if arguments.output or arguments.plot:
            raise ArgumentError(
                "bench gpu takes no --output and no --plot.",
                why="it writes gpu.json and gpu.md into a folder, after each row.",
                fix="name that folder with --out.",
            )
        checks, peers = not arguments.no_checks, not arguments.no_peers
        chosen = (arguments.out, arguments.minutes, arguments.rehearse, arguments.only)
        return gpu.run(gpu.Plan(*chosen, checks=checks, peers=peers))
    measure, steps = suites.SUITES[arguments.suite]
    with report.progress(steps, arguments.suite) as tick:
        rows = list(measure(arguments.rounds, not arguments.no_peers, tick))
    text = report.as_json(arguments.suite, rows)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    if arguments.plot:
        charts.plot(arguments.suite, rows, arguments.plot)
    print(text) if arguments.json else report.print_table(arguments.suite, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
