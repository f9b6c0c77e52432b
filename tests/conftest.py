"""Test session set-up: tiers, a private kernel cache, repeatable seeds, one hypothesis profile."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
# Folders whose tests never start a compiler; every other unmarked test is of the cpu tier.
NULL_FOLDERS = frozenset({"ir", "trace", "passes", "analysis", "masks"})
TIERS = ("null", "cpu", "gpu")
# Triton decides when it is imported whether kernels are compiled or interpreted, so these tests
# need a session of their own: TRITON_INTERPRET=1 pytest tests/interpreted (`make test` runs both).
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore = [] if INTERPRETED else ["interpreted"]

settings.register_profile(
    "default",
    max_examples=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    """The controller makes one cache directory; workers inherit it and share their kernels."""
    if hasattr(config, "workerinput"):
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
        return
    directory = tempfile.mkdtemp(prefix="flexattn-tests-")
    os.environ["FLEXATTN_CACHE_DIR"] = directory
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if INTERPRETED and any("interpreted" not in item.path.parts for item in items):
        pytest.exit("with TRITON_INTERPRET=1 only tests/interpreted can run", returncode=4)
    no_gpu = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            parts = item.path.relative_to(HERE).parts
            null = len(parts) == 1 or parts[0] in NULL_FOLDERS
            item.add_marker(pytest.mark.null if null else pytest.mark.cpu)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    """The same numbers for a test whichever tests ran before it."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
