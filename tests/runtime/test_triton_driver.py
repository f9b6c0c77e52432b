"""What reaches the GPU's driver through Triton's own launcher, told by a driver that has no GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import triton

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """One report per launch, see launched_triton.py."""
    folder = tmp_path_factory.mktemp("driver")
    headers = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    library = folder / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", f"-I{headers}", "-o", library, HERE / "stub_cuda.c"]
    assert shutil.which("gcc"), "Triton builds its launcher with gcc, and so does this test"
    subprocess.run(command, check=True, timeout=120)
    done = subprocess.run(
        [sys.executable, HERE / "launched_triton.py", folder],
        env={
            **os.environ,
            "TRITON_LIBCUDA_PATH": str(folder),
            "LD_LIBRARY_PATH": str(folder),
            "TRITON_CACHE_DIR": str(folder / "triton"),
            "FLEXATTN_CACHE_DIR": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_argument_arrives(told: list[dict]) -> None:
    # tables 16, captures 5 and two numbers; innermost strides are constants in the first kernel
    assert [each["count"] for each in told] == [49, 52]
    assert all(each["arguments"] for each in told)


def test_grid_stream_and_shared_memory(told: list[dict]) -> None:
    for number, each in enumerate(told, start=1):
        threads = 4 * 32
        wanted = [3, 2, 1, threads, each["shared"], 77, each["function"], number]
        assert each["launched"] == wanted and each["function"] and each["shared"] > 0


def test_descriptors_get_memory_from_torch(told: list[dict]) -> None:
    with_descriptors, without = told
    ((address, size),) = with_descriptors["allocated"]
    assert with_descriptors["scratch"] == address
    assert size == 3 * 2 * with_descriptors["scratch_size"] > 0
    assert without["allocated"] == [] and without["scratch"] == 0
