"""Every error class has a manual page whose examples run, and a test that raises it."""

from __future__ import annotations

import doctest
import pickle
import re
from pathlib import Path

import pytest

from flexattn import errors

TESTS = Path(__file__).parent
CLASSES = [getattr(errors, name) for name in errors.__all__]
# What cannot be shown without breaking the machine is told, not run.
WITHOUT_EXAMPLE = {
    errors.CacheDirectoryError,
    errors.CompilerFailedError,
    errors.CompilerNotFoundError,
    errors.DeterminismError,
    errors.DeviceTooOldError,
    errors.InvalidGraphError,
    errors.TorchVersionError,
    errors.TritonNotFoundError,
}
PARTS = ("arguments", "base", "machine", "tracing", "values")


@pytest.mark.parametrize("cls", CLASSES, ids=errors.__all__)
def test_the_examples_of_the_manual_page_run(cls: type[errors.FlexAttentionError]) -> None:
    (page,) = doctest.DocTestFinder(recurse=False).find(cls, cls.__name__, module=errors)
    if cls in WITHOUT_EXAMPLE:
        assert not page.examples
        return
    raised = [example.exc_msg for example in page.examples if example.exc_msg]
    if cls is not errors.FlexAttentionError:
        assert len(raised) == 1 and raised[0].startswith(f"flexattn.errors.{cls.__name__}: ")
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(page, out=told.append)
    assert not told, "".join(told)


def test_each_cause_has_one_class_with_a_fitting_builtin() -> None:
    defined = {
        cls
        for part in PARTS
        for cls in vars(__import__(f"flexattn.errors.{part}", fromlist=[part])).values()
        if isinstance(cls, type)
    }
    assert defined == set(CLASSES)
    assert [cls.__name__ for cls in CLASSES] == sorted(cls.__name__ for cls in defined)
    for cls in CLASSES:
        assert cls.__module__ == "flexattn.errors"
        assert cls.__doc__ and len(cls.__doc__.splitlines()[0]) > 20
        if cls is not errors.FlexAttentionError:
            builtin = [base for base in cls.__mro__ if base.__module__ == "builtins"]
            assert builtin[0] is not Exception


@pytest.mark.parametrize("cls", CLASSES, ids=errors.__all__)
def test_a_test_raises_it(cls: type[errors.FlexAttentionError]) -> None:
    if cls is errors.FlexAttentionError:
        return
    named = re.compile(rf"\b{cls.__name__}\b")
    files = [path for path in TESTS.rglob("test_*.py") if path != Path(__file__)]
    assert any(named.search(path.read_text()) for path in files)


@pytest.mark.parametrize("cls", CLASSES, ids=errors.__all__)
def test_it_survives_a_process_boundary(cls: type[errors.FlexAttentionError]) -> None:
    error = cls("what.", at="file.py:1: line", why="because.", fix="so.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls and str(again) == str(error)
    assert (again.summary, again.at, again.why, again.fix) == (
        "what.",
        "file.py:1: line",
        "because.",
        "so.",
    )
