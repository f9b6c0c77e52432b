"""The command line: every command, its JSON, its messages and its exit codes."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_gym.cli.app import build_parser, main
from attention_gym.cli.measure import noisy
from attention_gym.code import code
from attention_gym.gallery import load, names
from attention_gym.inputs import make_problem
from attention_gym.picture import picture_scores
from attention_gym.recipe import Sizes
from attention_gym.reference import compare
from flexattn import flex_attention


@pytest.fixture
def gym(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line in this process: (exit code, standard output, standard error)."""

    def call(line: str) -> tuple[int, str, str]:
        try:
            status = main(line.split())
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "attention_gym"]
    done = subprocess.run([*command, "list"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "sliding_window" in done.stdout and not done.stderr
    done = subprocess.run([*command, "show", "alibbi"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "'alibi'" in done.stderr and "Traceback" not in done.stderr


def test_list(gym: Any) -> None:
    status, out, _ = gym("list --json")
    rows = json.loads(out)
    assert status == 0 and [row["name"] for row in rows] == list(names())
    assert {"kind", "family", "formula", "models", "papers", "captures", "needs"} <= set(rows[0])
    window = next(row for row in rows if row["name"] == "sliding_window")
    assert window["parameters"]["window"]["type"] == "int"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [("--model gemma", "tanh_softcap"), ("--needs gr", "t5_bias"), ("--model nobody", None)],
)
def test_list_filters(gym: Any, options: str, wanted: str | None) -> None:
    found = {row["name"] for row in json.loads(gym(f"list --json {options}")[1])}
    assert "causal" not in found
    assert (wanted in found) if wanted else not found


def test_list_shows_formulas_unharmed(gym: Any) -> None:
    assert "slope[h]" in gym("list --model BLOOM")[1]


@pytest.mark.parametrize("name", names())
def test_show(gym: Any, name: str) -> None:
    status, out, _ = gym(f"show {name}")
    recipe, out = load(name), " ".join(out.split())  # however wide the terminal is
    assert status == 0
    assert recipe.formula in out and recipe.sources[0].paper in out
    assert all(words in out for words in recipe.parameters.values())


def test_show_draws_with_the_parameters_given(gym: Any) -> None:
    _, out, _ = gym("show sliding_window --window 2 --size 4")
    assert "  # . . .\n  # # . .\n  . # # .\n  . . # #\n" in out
    drawn = json.loads(gym("show sliding_window --window 2 --size 4 --json")[1])["picture"]
    assert drawn == "# . . .\n# # . .\n. # # .\n. . # #"


@pytest.mark.parametrize("name", names())
def test_the_code_shown_runs_as_it_stands(name: str) -> None:
    recipe = load(name)
    sizes = recipe.fits or Sizes(batch=2, heads=4, q_len=24, head_dim=8)
    problem = make_problem(recipe, replace(sizes, kv_heads=sizes.heads), {})
    with torch.no_grad():
        scope: dict[str, Any] = {
            "query": problem.query, "key": problem.key, "value": problem.value, **problem.captures
        }  # fmt: skip
        exec(compile(code(recipe), name, "exec"), scope)
        want = flex_attention(
            problem.query, problem.key, problem.value, score_mod=problem.score_mod,
            mask_mod=problem.mask_mod, scale=problem.scale, backend="eager",
        )  # fmt: skip
    torch.testing.assert_close(scope["out"], want)


def test_run(gym: Any) -> None:
    status, out, _ = gym("run document --q-len 96 --kv-len 130 --heads 4 --documents 3 --json")
    row = json.loads(out)
    assert status == 0
    assert row["query"] == [2, 4, 96, 64] and row["key"] == [2, 4, 130, 64]
    assert sum(row["blocks"].values()) == 2 * 4 * 1 * 2
    assert row["later_ms"] > 0 and row["mean_magnitude"] > 0


def test_run_backward_with_a_learned_table_and_shared_key_heads(gym: Any) -> None:
    status, out, _ = gym(
        "run relative_bias --backward --q-len 64 --heads 4 --kv-heads 2 --repeat 1"
    )
    assert status == 0 and "relative_bias" in out


def test_verify(gym: Any) -> None:
    status, out, _ = gym("verify t5_bias --q-len 40 --kv-len 33 --dtype float32 --json")
    rows = json.loads(out)
    assert status == 0
    assert {row["backend"] for row in rows} == {"cpp", "eager", "reference"}
    assert {"out", "lse", "grad query", "grad table", "picture 1"} <= {row["what"] for row in rows}
    assert all(row["passed"] and row["error"] <= row["allowed"] for row in rows)


def test_verify_tells_a_wrong_recipe(gym: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from attention_gym import elementwise

    right = elementwise.modified_scores
    monkeypatch.setattr(
        elementwise, "modified_scores", lambda score, s, m: right(score * 1.01, s, m)
    )
    status, out, _ = gym("verify causal --backend eager --dtype float32")
    assert status == 1 and "failed" in out


def test_list_of_what_is_absent(gym: Any) -> None:
    rows = json.loads(gym("list --absent --json")[1])
    assert len(rows) == len({row["name"] for row in rows}) == 52
    assert not {row["name"] for row in rows} & set(names())
    impossible = {row["name"] for row in rows if row["status"] == "cannot be"}
    assert impossible == {"cope", "stick_breaking", "talking_heads", "point_transformer"}
    assert all(row["needs"] and row["why"].endswith(".") for row in rows)
    assert "talking_heads" in gym("list --absent --needs xh")[1]


def test_bench(gym: Any, tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    small = "--q-len 64 --heads 2 --rounds 2"
    status, out, _ = gym(f"bench sliding_window {small} --no-peers --output {target} --json")
    rows = json.loads(out)
    assert status == 0 and json.loads(target.read_text())["rows"] == rows
    assert rows[0]["ours_ms"] > 0 and rows[0]["sdpa_ms"] > 0 and not rows[0]["why"]
    status, out, _ = gym(f"bench relative_bias {small} --no-peers --backward --json")
    assert status == 0 and json.loads(out)[0]["sdpa_ms"] > 0
    row = json.loads(gym(f"bench tanh_softcap {small} --no-peers --json")[1])[0]
    assert row["sdpa_ms"] is None and row["why"]["sdpa"] == "the score is not merely added to"


def test_compare(gym: Any) -> None:
    windows = "sliding_window sliding_window --a window=2 --b window=3"
    status, out, _ = gym(f"compare {windows} --q-len 4 --kv-len 5 --json")
    row = json.loads(out)
    assert status == 0
    assert row["picture"] == "# . . . .\n# # . . .\nb # # . .\n. b # # ."
    assert row["only_a"] == 0 and row["only_b"] == 2 * 8 and row["kept_by_both"] == 7 * 8
    status, out, _ = gym("compare alibi causal --q-len 3 --head 1 --json")
    assert json.loads(out)["picture"] == "# . .\n~ # .\n~ ~ #"
    assert "# both keep the same score" in gym("compare causal prefix_lm")[1]


@pytest.mark.parametrize("kind", ["mask", "score"])
def test_a_new_recipe_works_as_it_stands(gym: Any, tmp_path: Path, kind: str) -> None:
    status, out, _ = gym(f"new fresh_one --kind {kind} --folder {tmp_path}")
    assert status == 0 and "verify fresh_one" in out
    scope = runpy.run_path(str(tmp_path / "fresh_one.py"))
    recipe = replace(scope["RECIPE"], name="fresh_one", summary=scope["__doc__"].strip())
    for number, picture in enumerate(recipe.pictures):
        torch.testing.assert_close(picture_scores(recipe, picture), picture.scores()), number
    torch.testing.assert_close(*compare(recipe, recipe.references[0]))
    assert "def fresh_one" in code(recipe)
    status, _, err = gym(f"new fresh_one --folder {tmp_path}")
    assert status == 2 and "exists already" in err


def test_explain(gym: Any) -> None:
    status, out, _ = gym("explain tanh_softcap --q-len 128")
    assert status == 0 and "tanh" in out
    assert json.loads(gym("explain tanh_softcap --q-len 128 --json")[1])


@pytest.mark.parametrize("name", names())
def test_plot(gym: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "picture.svg"
    status, out, _ = gym(f"plot {name} --out {path} --theme both --json")
    assert status == 0
    assert [Path(row["file"]).name for row in json.loads(out)] == [
        "picture-light.svg", "picture-dark.svg"
    ]  # fmt: skip
    text = (tmp_path / "picture-dark.svg").read_text()
    assert text.startswith("<?xml") and "#16181d" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "COMMAND"),
        ("nonsense", "invalid choice"),
        ("show", "NAME"),
        ("show slidng_window", "'sliding_window'"),
        ("run Sliding-Window --window 3", "'sliding_window'"),
        ("run qqqqqq", "attention_gym list"),
        ("run causal --window 3", "--window"),
        ("run sliding_window --window three", "--window"),
        ("run causal --heads 6 --kv-heads 4", "--kv-heads"),
        ("run causal --q-len 0", "--q-len"),
        ("run causal --repeat 0", "--repeat"),
        ("show causal --size 0", "--size"),
        ("plot causal --out picture.gif", ".png or .svg"),
        ("plot causal --q-len 100000", "1024"),
        ("plot causal --block-size 0", "--block-size"),
        ("verify", "--all"),
        ("bench", "--all"),
        ("bench causal --rounds 1", "--rounds"),
        ("bench causal --output /nowhere/at/all.json", "/nowhere/at/all.json"),
        ("compare causal", "NAME"),
        ("compare causal slidng_window", "'sliding_window'"),
        ("compare causal sliding_window --b windw=3", "its parameters are: window"),
        ("compare causal sliding_window --b window=wide", "int"),
        ("compare causal causal --q-len 100", "1 to 64"),
        ("new Two-Sided", "lower-case"),
        ("new causal", "exists already"),
        ("new fine --folder /nowhere/at/all", "cannot write"),
        ("verify causal --all", "--all"),
        ("train --steps 0", "--steps"),
        ("train --heads 7", "--heads"),
        ("train --resume --restart", "--restart"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_message(gym: Any, line: str, words: str) -> None:
    status, out, err = gym(line)
    assert status == 2 and not out
    assert words in err and "Traceback" not in err


def test_help_has_examples_and_the_recipe_s_options(gym: Any) -> None:
    for command in (
        "list", "show", "run", "verify", "explain", "plot", "bench", "compare", "new", "train"
    ):  # fmt: skip
        status, out, _ = gym(f"{command} --help")
        assert status == 0 and f"python -m attention_gym {command}" in out
    _, out, _ = gym("run t5_bias --help")
    assert "--max-distance" in out and "[tokens]" in out and "--no-bidirectional" in out


@pytest.mark.parametrize("name", names())
def test_no_parameter_hides_an_option(name: str) -> None:
    build_parser(load(name))  # argparse refuses two options of one name


def test_compile_for_a_gpu(gym: Any) -> None:
    status, out, _ = gym(
        "compile sliding_window --window 64 --target sm_90 --direction fwd --head-dim 32 "
        "--dtype fp16 --json"
    )
    facts = json.loads(out)
    assert status == 0 and facts["recipe"] == "sliding_window" and facts["dtype"] == "f16"
    assert facts["mma"]["wgmma"] > 0 and facts["shared_bytes"] <= 227 * 1024
    assert {"registers", "spilled_words", "stack", "seconds"} <= facts.keys()
    status, out, _ = gym("compile sliding_window --target sm_90 --head-dim 32 --dtype fp16")
    assert status == 0 and "wgmma" in out and "forward" in out


def test_compile_refuses_what_is_none(gym: Any) -> None:
    assert gym("compile causal --target sm_12")[0] == 1
    assert gym("compile causal --head-dim wide")[0] == 2
    assert gym("compile causal --direction sideways")[0] == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("show beit_bias --height 0", "beit_bias does not work with --height 0."),
        ("run document --documents 0 --q-len 50", "with --documents 0, --q-len 50."),
        ("run sliding_window --windw 3", "did you mean --window?"),
        ("compare causal alibi --foo", "compare does not take '--foo'"),
    ],
)
def test_what_cannot_be_is_told_without_a_traceback(gym: Any, line: str, told: str) -> None:
    status, out, err = gym(line)
    assert status == 2 and not out and told in err


def test_a_mistake_in_a_recipe_keeps_its_traceback(gym: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("attention_gym.cli.browse.describe", lambda recipe: [][1])
    with pytest.raises(IndexError):
        gym("show causal --json")


def test_filters_that_nothing_fits(gym: Any) -> None:
    status, out, err = gym("list --model mistrl")
    assert status == 0 and not out and "Mistral" in err
    assert json.loads(gym("list --model mistrl --json")[1]) == []


def test_a_mask_that_keeps_nothing_is_said_to(gym: Any) -> None:
    assert "keeps nothing" in gym("run sliding_window --window -3 --q-len 40")[1]
    assert "keeps nothing" not in gym("run sliding_window --window 3 --q-len 40")[1]


def test_a_ratio_too_noisy_to_tell_says_so() -> None:
    row = {"ours_ms": 1.0, "sdpa_ms": 2.0, "torch_flex_ms": None}
    ratios = {"over_sdpa": None, "over_torch_flex": None}
    assert noisy(row | ratios) == {"over_sdpa": "noisy"}
