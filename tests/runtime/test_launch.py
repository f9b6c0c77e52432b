"""Loading and running kernels: arguments arrive, counters count, threads and children behave."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from flexattn.errors import CacheDirectoryError
from flexattn.runtime import counters, launch

INTS, TABLE = torch.tensor([7, 8, 9], dtype=torch.int32), torch.zeros(4, 6).t()

TEAM = """
extern "C" int flexattn_tiles(const long long* a) {
  int members = 0;
  #pragma omp parallel num_threads(a[22]) if(a[22] > 1)
  {
    __atomic_fetch_add(&members, 1, __ATOMIC_SEQ_CST);
  }
  *(long long*)a[0] = members;
  return 0;
}
"""


def echo(kernel: launch.Kernel, **fields: int) -> tuple[list[int], launch.Fault | None]:
    out = torch.full((11,), -1)
    fault = kernel(
        classes=out.data_ptr(), captures=(INTS, TABLE), ints=(41,), floats=(2.5,), **fields
    )
    return out.tolist(), fault


def test_every_argument_arrives(cache_dir, source):
    values, fault = echo(launch.load(source()), b0=5)
    assert fault is None
    assert values == [torch.get_num_threads(), 5, 7, 3, 6, 4, 1, 1, 6, 41, 2500]


def test_positional_and_named_launch_agree(cache_dir, source):
    kernel = launch.load(source())
    out = torch.full((11,), -1)
    head = [out.data_ptr(), 5, *[0] * (len(kernel.fields) - 2)]
    kernel.launch(head, (INTS, TABLE), (41,), (2.5,))
    assert out.tolist() == echo(kernel, b0=5)[0]


def test_status_one_is_a_fault_and_two_is_no_memory(cache_dir, source):
    kernel = launch.load(source())
    assert echo(kernel, h0=1)[1] == launch.Fault(10, 11, 12, 13)
    with pytest.raises(MemoryError):
        echo(kernel, h0=2)
    assert echo(kernel)[1] is None


def test_a_field_that_does_not_exist_is_refused(cache_dir, source):
    with pytest.raises(TypeError, match="kv_len"):
        launch.load(source())(kv_len=3)


def test_counters_tell_builds_from_hits(cache_dir, source):
    launch.load(source())
    launch.load(source())
    assert counters.cache_info() == (0, 1, 0, 1, 1)
    counters.clear_cache()
    assert counters.cache_info() == (0, 0, 0, 0, 0)
    launch.load(source())
    assert counters.cache_info() == (0, 0, 1, 0, 0)


def test_threads_share_one_build_and_launch_at_once(cache_dir, source):
    def run(number: int) -> bool:
        kernel = launch.load(source())
        return all(echo(kernel, b0=number)[0][1] == number for _ in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(8)))
    assert counters.cache_info().compiler_runs == 1


def test_different_kernels_compile_at_the_same_time(cache_dir, source, monkeypatch):
    meeting = threading.Barrier(2, timeout=60)
    compile_library = launch.build.compiler.compile_library

    def meet(*args, **options):
        meeting.wait()  # breaks unless the other build is under way too
        compile_library(*args, **options)

    monkeypatch.setattr(launch.build.compiler, "compile_library", meet)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(launch.load, [source(name="one"), source(name="two")]))
    assert counters.cache_info().kernels_built == 2


def test_two_processes_build_one_kernel_once(cache_dir, source):
    code = (
        "import sys; from handwritten import HandWritten;"
        "from flexattn.runtime import counters, launch; print('ready', flush=True);"
        "sys.stdin.read(1); launch.load(HandWritten()); print(counters.cache_info().compiler_runs)"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], text=True, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    with processes[0], processes[1]:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("x")
            process.stdin.flush()
        runs = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sorted(runs) == [0, 1]
    assert not list((cache_dir / "building").iterdir())
    assert not list((cache_dir / "locks").iterdir())


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_forked_child_computes_on_one_thread(cache_dir, source, two_threads):
    kernel = launch.load(source(text=TEAM))
    out = torch.zeros(1, dtype=torch.int64)
    kernel(classes=out.data_ptr(), captures=(INTS, TABLE), ints=(1,), floats=(1.0,))
    assert out.item() == torch.get_num_threads()
    child = os.fork()
    if child == 0:  # a second team would wait for the parent's threads forever
        kernel(classes=out.data_ptr(), captures=(INTS, TABLE), ints=(1,), floats=(1.0,))
        other = launch.load(source())
        os._exit(0 if out.item() == 1 and echo(other)[0][0] == 1 else 3)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, 9)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(ended[1]) == 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux only")
def test_kernels_use_the_openmp_runtime_of_torch(cache_dir, source):
    def runtimes() -> set[str]:
        paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        return {
            path for path in paths if "libgomp" in path or "libomp" in path or "libiomp" in path
        }

    before = runtimes()
    assert len(before) == 1
    out = torch.zeros(1, dtype=torch.int64)
    launch.load(source(text=TEAM))(
        classes=out.data_ptr(), captures=(INTS, TABLE), ints=(1,), floats=(1.0,)
    )
    assert runtimes() == before


def test_dump_writes_what_a_reader_wants(cache_dir, source, tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXATTN_DUMP", str(tmp_path / "dump"))
    launch.load(source())
    (folder,) = (tmp_path / "dump").iterdir()
    names = {"ir.txt", "analysis.txt", "kernel.cpp", "meta.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "analysis.txt").read_text() == source().analysis_text
    assert "flexattn_tiles" in (folder / "kernel.cpp").read_text()


@pytest.mark.parametrize("place", ["file/below", "~no-such-user/dump"])
def test_a_dump_that_cannot_be_written_is_an_error(cache_dir, source, monkeypatch, place, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLEXATTN_DUMP", place if place[0] == "~" else str(tmp_path / place))
    with pytest.raises(CacheDirectoryError, match="FLEXATTN_DUMP"):
        launch.load(source())
    monkeypatch.delenv("FLEXATTN_DUMP")
    launch.load(source())
