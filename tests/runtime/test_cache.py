"""The cache on disk: damage is repaired, and what cannot be written is said, not hidden."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from flexattn.errors import CacheDirectoryError
from flexattn.runtime import cache, counters, launch

ANSWER = 'extern "C" int flexattn_tiles(const long long* a) { *(long long*)a[0] = 42; return 0; }'


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_entry_is_one_folder(cache_dir, source):
    key = source().key
    launch.load(source())
    names = ("ir.txt", "kernel.cpp", "kernel.so", "meta.json")
    assert files(cache_dir) == [f"{key}/{name}" for name in names]
    entry = cache.lookup(key)
    assert (entry.folder / "kernel.cpp").read_text() == source().text
    assert entry.meta["key"] == key and entry.meta["flags"] == list(source().flags)


def truncate_library(folder: Path) -> None:
    os.truncate(folder / "kernel.so", 100)


def flip_a_bit_of_the_library(folder: Path) -> None:
    data = bytearray((folder / "kernel.so").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "kernel.so").write_bytes(data)


def empty_library(folder: Path) -> None:
    (folder / "kernel.so").write_bytes(b"")


def remove_library(folder: Path) -> None:
    (folder / "kernel.so").unlink()


def half_write_meta(folder: Path) -> None:
    os.truncate(folder / "meta.json", 30)


def meta_is_a_list(folder: Path) -> None:
    (folder / "meta.json").write_text("[]")


def remove_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def library_is_a_text(folder: Path) -> None:
    (folder / "kernel.so").write_text("no library")
    meta = json.loads((folder / "meta.json").read_text())
    meta["checksum"] = cache.checksum(b"no library", meta)
    (folder / "meta.json").write_text(json.dumps(meta))


def change_a_fact(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"direction": "elsewhere"}))


def nest_meta_deeply(folder: Path) -> None:
    (folder / "meta.json").write_text("[" * 100_000)


def entry_is_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


@pytest.mark.parametrize(
    "damage",
    [
        truncate_library, flip_a_bit_of_the_library, empty_library, remove_library,
        half_write_meta, meta_is_a_list, remove_meta, change_a_fact, nest_meta_deeply,
        library_is_a_text, entry_is_a_file,
    ],
)  # fmt: skip
def test_a_damaged_entry_is_built_again(cache_dir, source, damage):
    launch.load(source())
    damage(cache_dir / source().key)
    counters.clear_cache()
    launch.load(source())
    assert counters.cache_info().kernels_built == 1
    assert len(files(cache_dir)) == 4
    counters.clear_cache()
    launch.load(source())
    assert counters.cache_info().disk_hits == 1


def test_a_loaded_kernel_survives_damage_to_its_file(cache_dir, source):
    kernel = launch.load(source(text=ANSWER))
    os.truncate(cache_dir / kernel.source.key / "kernel.so", 0)
    out = torch.zeros(1, dtype=torch.int64)
    kernel(classes=out.data_ptr(), captures=(out, out[None]), ints=(0,), floats=(0.0,))
    assert out.item() == 42


def test_libraries_do_not_take_one_anothers_place(cache_dir, source):
    out = torch.zeros(1, dtype=torch.int64)
    for number in range(20):  # they get the same descriptor one after the other
        launch.load(source(text=ANSWER.replace("42", str(number))))(
            classes=out.data_ptr(), captures=(out, out[None]), ints=(0,), floats=(0.0,)
        )
        assert out.item() == number


def test_a_killed_build_leaves_nothing_behind_for_long(cache_dir, source):
    left = cache_dir / "building" / "killed-x"
    left.mkdir(parents=True)
    (left / "kernel.so").write_bytes(b"half")
    old = time.time() - 7200
    os.utime(left, (old, old))
    launch.load(source())
    assert not left.exists()


def test_a_directory_that_cannot_be_made_is_an_error(source, monkeypatch, cache_dir):
    cache_dir.write_text("a file where a folder should be")
    monkeypatch.setenv("FLEXATTN_CACHE_DIR", str(cache_dir / "below"))
    with pytest.raises(CacheDirectoryError, match="FLEXATTN_CACHE_DIR"):
        launch.load(source())


@pytest.mark.parametrize("step", ["write_text", "rename"])
@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_is_full_or_read_only_is_an_error(cache_dir, source, monkeypatch, code, step):
    def fail(*args, **options):
        raise OSError(code, os.strerror(code), str(cache_dir))

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "write_text") if step == "write_text" else (os, "rename")), fail)
        with pytest.raises(
            CacheDirectoryError, match="is full" if code == errno.ENOSPC else "cannot be written"
        ):
            launch.load(source())
    assert files(cache_dir) == []
    launch.load(source())
    assert counters.cache_info().kernels_built == 1


def test_a_full_disk_seen_by_the_compiler_is_an_error(cache_dir, source, tmp_path, monkeypatch):
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\necho 'as: fatal: No space left on device' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("FLEXATTN_CXX", str(script))
    with pytest.raises(CacheDirectoryError, match="full"):
        launch.load(source())


def test_a_read_only_directory_serves_what_it_holds(cache_dir, source, monkeypatch):
    launch.load(source())
    counters.clear_cache()

    def fail(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("mkdir", "write_text"):
        monkeypatch.setattr(Path, name, fail)
    monkeypatch.setattr(os, "rename", fail)
    launch.load(source())
    assert counters.cache_info().disk_hits == 1


def test_a_kernel_that_memory_holds_needs_no_directory(cache_dir, source):
    kernel = launch.load(source())
    shutil.rmtree(cache_dir)
    assert launch.load(source()) is kernel


def test_a_lock_left_by_a_dead_process_stops_nobody(cache_dir, source):
    (cache_dir / "locks").mkdir(parents=True)
    (cache_dir / "locks" / source().key).write_text("")
    launch.load(source())
    assert counters.cache_info().kernels_built == 1


def test_entries_can_be_listed_and_deleted(cache_dir, source):
    launch.load(source(name="one"))
    launch.load(source(name="two"))
    assert [entry.meta["key"] for entry in cache.entries()] == sorted(
        [source(name="one").key, source(name="two").key]
    )
    assert cache.empty() == 2
    assert files(cache_dir) == [] and cache.entries() == []


def test_the_default_directory_follows_xdg(monkeypatch):
    monkeypatch.delenv("FLEXATTN_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.directory() == Path("/somewhere/flexattn")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/are/to/be/ignored")
    assert cache.directory() == Path("~/.cache/flexattn").expanduser()


def test_a_home_that_does_not_exist_is_an_error(source, monkeypatch):
    def nobody(number):
        raise KeyError(number)

    with monkeypatch.context() as patch:
        for name in ("FLEXATTN_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
            patch.delenv(name, raising=False)
        patch.setattr("pwd.getpwuid", nobody)
        with pytest.raises(CacheDirectoryError, match="set FLEXATTN_CACHE_DIR"):
            launch.load(source())
    monkeypatch.setenv("FLEXATTN_CACHE_DIR", "~no-such-user/cache")
    with pytest.raises(CacheDirectoryError, match="no-such-user"):
        launch.load(source())
