"""The examples of docs/blockmask.md give what the page says."""

from __future__ import annotations

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "blockmask.md"


def test_the_examples() -> None:
    text = PAGE.read_text().replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 15
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0
