"""Writes that a kill cannot halve, logs that can be cut back, and a lock that dies with its holder."""

import errno
import gzip
import hashlib
import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors import SafetensorError

from owpo.disk.files import atomic_folder, read_json, write_json
from owpo.disk.lock import run_lock
from owpo.disk.logs import JSONLLog, read_jsonl_records
from owpo.disk.trouble import DiskFailed, writing
from owpo.errors import InputError, RunFailed


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"value": 1})
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert read_json(path) == {"value": 1}


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError, match="half way"), atomic_folder(tmp_path / "f") as folder:
        (folder / "one").write_text("1")
        raise RuntimeError("half way")
    assert not (tmp_path / "f").exists()
    with atomic_folder(tmp_path / "f") as folder:
        assert list(folder.iterdir()) == []  # nothing is left over from the failed attempt
        (folder / "two").write_text("2")
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["two"]


def test_a_log_is_cut_back_to_a_checkpoint(tmp_path):
    log = JSONLLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1, "text": "né"})
    mark = log.sync()
    log.append({"step": 2})
    later = JSONLLog(log.path)
    later.check(mark)
    later.cut(mark)
    later.append({"step": 2, "again": True})
    assert later.records() == [{"step": 1, "text": "né"}, {"step": 2, "again": True}]


def test_a_compressed_log_is_cut_back_too(tmp_path):
    log = JSONLLog(tmp_path / "tokens.jsonl.gz")
    log.append({"step": 1, "text": "né"}, {"step": 2})
    mark = log.sync()
    log.append({"step": 3})
    later = JSONLLog(log.path)
    later.check(mark)
    later.cut(mark)
    later.append({"step": 4})
    assert later.records() == [{"step": 1, "text": "né"}, {"step": 2}, {"step": 4}]
    text = gzip.decompress(log.path.read_bytes()).decode("utf-8")
    assert [json.loads(line) for line in text.splitlines()] == later.records()


def test_a_compressed_log_is_the_same_bytes_whenever_it_is_written(tmp_path, monkeypatch):
    one, other = JSONLLog(tmp_path / "a.jsonl.gz"), JSONLLog(tmp_path / "b.jsonl.gz")
    one.append({"step": 1})
    monkeypatch.setattr("time.time", lambda: 1e9)
    other.append({"step": 1})
    assert one.path.read_bytes() == other.path.read_bytes()


def test_what_a_kill_left_of_a_compressed_append_is_left_out(tmp_path):
    log = JSONLLog(tmp_path / "tokens.jsonl.gz")
    log.append({"step": 1})
    whole = log.path.stat().st_size
    log.append({"step": 2})
    data = log.path.read_bytes()
    for size in range(len(data) + 1):
        log.path.write_bytes(data[:size])
        assert [record["step"] for record in log.records()] == [1] * (size >= whole) + [2] * (
            size == len(data)
        )


def test_a_compressed_log_that_is_damaged_is_refused(tmp_path):
    log = JSONLLog(tmp_path / "tokens.jsonl.gz")
    log.append({"step": 1})
    data = log.path.read_bytes()
    for place in (0, 12, len(data) - 6):
        log.path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        with pytest.raises(InputError, match="tokens.jsonl.gz is damaged"):
            log.records()


def test_a_mark_is_the_size_and_the_sha256_of_all_that_was_written(tmp_path):
    """Whatever came in between: a checkpoint hashes only what is new since the one before."""
    log = JSONLLog(tmp_path / "metrics.jsonl")
    for change in (
        lambda: None,
        lambda: log.append({"step": 1}, {"step": 2}),
        lambda: log.append({"step": 3, "text": "x" * (3 << 20)}),
        lambda: log.keep(2),
        lambda: log.append({"step": 3}),
        lambda: log.replace({"step": 0}),
        lambda: log.append({"step": 1}),
    ):
        change()
        written = log.path.read_bytes() if log.path.exists() else b""
        assert log.sync() == (len(written), hashlib.sha256(written).hexdigest())


def test_a_log_whose_past_is_another_is_refused_and_left_alone(tmp_path):
    log = JSONLLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1}, {"step": 2})
    mark = log.sync()
    text = log.path.read_text()
    one, two = text.splitlines(keepends=True)
    for changed, message in (
        (one, "holds 12 bytes"),
        (text.replace("2", "3"), "damaged or was edited"),
        (one + one + two, "damaged or was edited"),
    ):
        log.path.write_text(changed)
        with pytest.raises(InputError, match=rf"metrics\.jsonl .*{message}.*restore the file"):
            JSONLLog(log.path).check(mark)
        assert log.path.read_text() == changed


@contextmanager
def largest_file(size):
    """The system itself refuses what goes beyond, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_disk_cuts_short_leaves_what_was_there(tmp_path):
    log, file = JSONLLog(tmp_path / "metrics.jsonl"), tmp_path / "a.json"
    log.append({"step": 1})
    write_json(file, {"value": 1})
    with largest_file(50):
        with pytest.raises(DiskFailed, match=rf"{log.path}: File too large"):
            log.append({"step": 2}, {"step": 3, "text": "x" * 100})
        with pytest.raises(DiskFailed, match=rf"{file}: File too large"):
            write_json(file, {"value": "x" * 100})
        with (
            pytest.raises(DiskFailed, match=rf"{tmp_path / 'folder'}: File too large"),
            atomic_folder(tmp_path / "folder") as folder,
        ):
            (folder / "one").write_text("x" * 100)
    assert log.path.read_text() == '{"step": 1}\n'
    assert read_json(file) == {"value": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "metrics.jsonl"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EROFS, os.strerror(errno.EROFS)),
        SafetensorError("Error while serializing: I/O error: Read-only file system (os error 30)"),
        SafetensorError(
            'Error while serializing: IoError(Os { code: 30, kind: ReadOnlyFilesystem, message: "..." })'
        ),
        Exception("Read-only file system (os error 30)"),
    ],
)
def test_trouble_is_recognised_in_every_librarys_words(error):
    with pytest.raises(DiskFailed) as caught, writing(Path("/run/weights")):
        raise error
    assert str(caught.value) == "trouble with the disk at /run/weights: Read-only file system"
    assert caught.value.cure == "make the file system writable"


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, ""), RunFailed("says (os error 28)"), IsADirectoryError(21, "")]
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)), writing(Path("/run/weights")):
        raise error


def test_a_line_cut_by_a_kill_is_not_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": ', encoding="utf-8")
    assert read_jsonl_records(path) == [{"step": 1}]


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from owpo.disk.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"in use by process {holder.pid}"), run_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with run_lock(tmp_path):
        pass
