"""A cache directory for each test, and kernels written by hand to fill it."""

from __future__ import annotations

from pathlib import Path

import pytest
from handwritten import HandWritten

from flexattn.runtime import counters


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, with nothing loaded and counters at zero."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FLEXATTN_CACHE_DIR", str(folder))
    counters.clear_cache()
    return folder


@pytest.fixture
def source() -> type[HandWritten]:
    return HandWritten
