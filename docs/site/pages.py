"""The page of one recipe, and the pages of variants without one, as Markdown with HTML parts."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from formula import formula_html

import flexattn
from attention_gym.absent import WANTED, Absent
from attention_gym.blocks import recipe_mask
from attention_gym.code import code
from attention_gym.playground import embedded
from attention_gym.recipe import NEEDS, Recipe

TARGET = "sm_90"


def raw(text: str) -> str:
    return f"```{{raw}} html\n{text}\n```\n"


def picture_html(name: str, small: bool = False) -> str:
    end, alt = ("-small.png", "") if small else (".png", f"{name}: pairs, blocks and bias")
    rest = f'loading="lazy" alt="{alt}" src="../pictures/{name}'
    return "".join(f'<img class="only-{t}" {rest}-{t}{end}">' for t in ("light", "dark"))


def folded(title: str, text: str) -> str:
    summary = f"<summary>{html.escape(title)}</summary>"
    box = '<pre class="folded" tabindex="0">'
    return raw(f"<details>{summary}{box}{html.escape(text)}</pre></details>")


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"* {escaped(line)}" for line in lines) + "\n"


def escaped(text: str) -> str:
    """Markdown that shows ``text`` as it is."""
    for sign in "\\`*_[]<>$|":
        text = text.replace(sign, "\\" + sign)
    return text


def speed(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    """What was measured of one recipe, or that nothing was."""
    if not rows:
        return "Not measured yet."

    def times(row: Mapping[str, Any], name: str) -> str:
        ratio, own = row.get(f"over_{name}"), row.get(f"{name}_ms")
        if own is None:
            return escaped(row.get("why", {}).get(name, "not measured"))
        return f"{own:.3g} ms" + (f" ({ratio:.2f}×)" if ratio else " (too noisy to compare)")

    lines = ["| dtype | direction | queries × keys | flexattn | SDPA, dense mask | torch flex |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        lengths = f"{row['q_len']} × {row['kv_len']}"
        parts = (row["dtype"], row["direction"], lengths, f"{row['ours_ms']:.3g} ms")
        others = [times(row, name) for name in ("sdpa", "torch_flex")]
        lines.append("| " + " | ".join([*parts, *others]) + " |")
    where = f"{machine['cpu']}, {machine['date']}; ×: how many times longer than ours."
    return "\n".join([*lines, "", escaped(where)])


def recipe_page(
    recipe: Recipe, measured: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]
) -> str:
    """Everything of one recipe."""
    sizes = recipe.drawn(default=64)
    given = {name: p.default for name, p in recipe.options().items()} | dict(recipe.small)
    large = recipe_mask(recipe, recipe.sizes, {})
    small = recipe_mask(recipe, sizes, given, block=8)
    captures = recipe.make_captures(sizes, given)
    mods = dict(zip(("score_mod", "mask_mod"), recipe.mods({**given, **captures}), strict=True))
    shape = {"B": sizes.batch, "H": sizes.heads, "Q_LEN": sizes.q_len, "KV_LEN": sizes.kv_len}
    told = flexattn.explain(**mods, **shape)
    triton = flexattn.lower(**mods, **shape, target=TARGET, head_dim=(64, 64))
    sparsity = "The recipe has no mask: every block is visited."
    if large is not None and small is not None:
        kept = f"{large.sparsity():.1f}% at {recipe.sizes.q_len} × {recipe.sizes.kv_len} tokens"
        drawn = f"{small.sparsity():.1f}% as drawn, in blocks of 8"
        sparsity = f"Blocks of 128 × 128 that are skipped: {kept}. {drawn}."
    needs = "; ".join(NEEDS[key] for key in sorted(recipe.needs)) or "nothing beyond a mod"
    parts = [
        f"# {escaped(recipe.name)}\n\n{escaped(recipe.summary)}\n",
        raw(f'<p class="formula">{formula_html(recipe.formula)}</p>'),
        raw(f'<div class="pictures">{picture_html(recipe.name)}</div>'),
        f"## Try it\n\n{raw(embedded(recipe.name))}",
        f"## Code\n\n```python\n{code(recipe)}\n```\n",
        "## Where it is used\n\n" + bullets([f"{s.model}: {s.paper}" for s in recipe.sources]),
    ]
    tables = (("Parameters", recipe.parameters), ("Captured tensors", recipe.captured))
    for title, rows in tables:
        if rows:
            parts.append(f"## {title}\n\n" + bullets([f"{k}: {v}" for k, v in rows.items()]))
    if recipe.equivalents:
        parts.append("## The same elsewhere\n\n" + bullets(recipe.equivalents))
    sources = [f"checked against: {r.source}" for r in recipe.references]
    parts += [
        "## Facts\n\n"
        + bullets([f"family: {recipe.family}", f"needs: {needs}", *dict.fromkeys(sources)]),
        f"## Sparsity and speed\n\n{escaped(sparsity)}\n\n{speed(measured, machine)}\n",
        "## What it becomes\n",
        folded("traced graph", told.sections["graph"]),
        folded("C++ kernel, forward", told.forward),
        folded(f"Triton kernels for {TARGET}, forward", triton),
    ]
    return "\n".join(parts)


def absent_page(row: Absent) -> str:
    status = "cannot be a recipe" if row.impossible else "not yet a recipe"
    return "\n".join(
        [
            f"# {escaped(row.name)}\n\n{escaped(row.title)}\n",
            raw(f'<p class="formula">{formula_html(row.formula)}</p>'),
            f"**This is {status}.** {escaped(row.why)}\n",
            "## What it needs\n\n" + bullets([WANTED[key] for key in row.needs]),
            f"## Where it is used\n\n{bullets([row.model])}",
        ]
    )
