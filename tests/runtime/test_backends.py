"""The table of backends, and the table of environment variables."""

from __future__ import annotations

import pytest

from flexattn import knobs
from flexattn.runtime.backends import BACKENDS, for_device


def test_each_device_has_its_default():
    assert for_device("cpu") is BACKENDS["cpp"]
    assert for_device("meta") is None


def test_a_backend_says_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("FLEXATTN_CXX", raising=False)
    assert BACKENDS["cpp"].missing() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "compiler" in BACKENDS["cpp"].missing()


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("FLEXATTN_DUMP", "")
    assert knobs.get("FLEXATTN_DUMP") is None
    monkeypatch.setenv("FLEXATTN_DUMP", "here")
    assert knobs.get("FLEXATTN_DUMP") == "here"


def test_a_variable_outside_the_table_is_a_mistake():
    with pytest.raises(KeyError):
        knobs.get("FLEXATTN_DUMPS")
