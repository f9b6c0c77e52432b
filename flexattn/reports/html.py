"""Sections of text as HTML for notebooks and pages, light and dark."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable

STYLE = (
    "<style>.flexattn-report pre{overflow-x:auto;margin:.3em 0 .8em;padding:.6em;font-size:12px;"
    "line-height:1.35;border-left:3px solid #0072b2;background:#f6f6f6;color:#1a1a1a;"
    "text-align:left}.flexattn-report summary{cursor:pointer;font-weight:600}"
    "@media (prefers-color-scheme:dark){.flexattn-report pre{background:#22252b;color:#ececec;"
    "border-color:#56b4e9}}</style>"
)


def page(title: str, sections: Iterable[tuple[str, str]], unfolded: Collection[str]) -> str:
    """A title and sections that fold, those named in ``unfolded`` open; empty ones are left out."""
    parts = []
    for name, text in sections:
        if text:
            state = " open" if name in unfolded else ""
            parts.append(
                f"<details{state}><summary>{html.escape(name)}</summary>"
                f"<pre>{html.escape(text)}</pre></details>"
            )
    head = f"<p><b>{html.escape(title)}</b></p>"
    return f'<div class="flexattn-report">{STYLE}{head}{"".join(parts)}</div>'
