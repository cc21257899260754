"""Several processes at once: one that fails, and a stop."""

import sys
import time

import pytest

from owpo.errors import Interrupted
from owpo.stop import StopSignal
from owpo.study import workers
from owpo.study.workers import Job, work


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Makes a job of a line of Python."""
    monkeypatch.setattr(workers, "with_parent", lambda _module, words: [sys.executable, "-c", *words])
    return lambda key, program, *after: Job(key, lambda: [program], tmp_path / f"{key}.log", after)


def test_one_that_fails_does_not_keep_the_others(jobs):
    ended = {}
    failures = work(
        [
            jobs("good", "print('fine')"),
            jobs("bad", "import sys; print('so far'); sys.exit('no such file')"),
            jobs("silent", "import os; os._exit(3)"),
            jobs("late", "print('fine')"),
        ],
        2,
        StopSignal(),
        lambda job, failure: ended.update({job.key: failure}),
    )
    assert {key: failure is None for key, failure in ended.items()} == {
        "good": True, "bad": False, "silent": False, "late": True,
    }  # fmt: skip
    assert sorted((f.job.key, f.code, f.told) for f in failures) == [
        ("bad", 1, "no such file"), ("silent", 3, "it printed nothing"),
    ]  # fmt: skip
    assert ended["bad"].job.log.read_text() in ("so far\nno such file\n", "no such file\nso far\n")


def test_one_that_comes_after_another_waits_for_it(jobs, tmp_path):
    """With room for all: what is begun too early does not find the file of the one before."""
    first = jobs("first", f"import time; time.sleep(0.3); open({str(tmp_path / 'first')!r}, 'w')")
    second = jobs(
        "second", f"open({str(tmp_path / 'first')!r}); open({str(tmp_path / 'second')!r}, 'w')", first
    )
    third = jobs("third", f"open({str(tmp_path / 'second')!r})", second, first)
    order = []
    assert work([third, second, first], 3, StopSignal(), lambda job, _: order.append(job.key)) == []
    assert order == ["first", "second", "third"]


def test_what_comes_after_one_that_failed_is_not_begun(jobs):
    bad = jobs("bad", "import sys; sys.exit('no such file')")
    after = jobs("after", "print('begun')", bad)
    last = jobs("last", "print('begun')", after)
    ended = {}
    failures = work(
        [bad, after, last, jobs("other", "print('fine')")],
        1,
        StopSignal(),
        lambda job, failure: ended.update({job.key: failure}),
    )
    assert {key: failure and failure.told for key, failure in ended.items()} == {
        "bad": "no such file", "other": None, "after": "not begun, as bad failed", "last": "not begun, as after failed",
    }  # fmt: skip
    assert len(failures) == 3
    assert not after.log.exists()


def test_no_more_at_once_than_asked(jobs, tmp_path):
    program = (
        "import pathlib, time, os; f = pathlib.Path({!r}, str(os.getpid())); f.touch(); "
        "print(len(list(f.parent.iterdir()))); time.sleep(0.3); f.unlink()"
    ).format(str(tmp_path / "now"))
    (tmp_path / "now").mkdir()
    all_jobs = [jobs(f"job{number}", program) for number in range(4)]
    assert work(all_jobs, 2, StopSignal(), lambda *_: None) == []
    assert max(int(job.log.read_text()) for job in all_jobs) == 2


def test_a_stop_is_passed_on_and_waited_for(jobs, tmp_path):
    saved, started = tmp_path / "saved", tmp_path / "started"
    program = (
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n"
        f"    time.sleep(0.3); pathlib.Path({str(saved)!r}).touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"pathlib.Path({str(started)!r}).touch()\n"
        "time.sleep(60)\n"
    )
    stop = StopSignal()
    check = stop.check

    def check_when_started(*_):
        if started.exists():
            stop.received = "SIGTERM"
        check()

    stop.check = check_when_started
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        work([jobs("long", program), jobs("never", "print('begun')")], 1, stop, lambda *_: None)
    assert saved.exists()
    assert not (tmp_path / "never.log").exists()
    assert time.monotonic() - begun < 30
