"""A host's process: its output is kept, its failure is told, and it ends with whoever started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from owpo.errors import Interrupted, RunFailed
from owpo.hosting.process import run_host
from owpo.stop import StopSignal

SLEEPER = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module that the host's process can run."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    def make(code: str) -> str:
        (tmp_path / "some_host.py").write_text(code)
        return "some_host"

    return make


def run(
    name: str, folder: Path, *arguments: str, stop: StopSignal | None = None, on_look=lambda: None
) -> None:
    run_host(name, arguments, folder / "host.log", stop=stop or StopSignal(), on_look=on_look)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_gets_its_arguments_and_its_output_is_kept(module, tmp_path):
    name = module("import sys; print('given', sys.argv[1:]); print('and', file=sys.stderr)")
    looks = []
    run(name, tmp_path, "a", "b", on_look=lambda: looks.append(1))
    run(name, tmp_path)
    assert (tmp_path / "host.log").read_text().splitlines() == ["given ['a', 'b']", "and", "given []", "and"]
    assert len(looks) >= 2


def test_a_failure_is_told_with_the_last_lines(module, tmp_path):
    name = module("import sys; print('first'); [print('line', i) for i in range(30)]; sys.exit(3)")
    with pytest.raises(RunFailed, match=r"some_host ended with code 3(.|\n)*line 29") as failed:
        run(name, tmp_path)
    assert "first" not in str(failed.value)


def test_a_stop_ends_it_and_what_it_started(module, tmp_path):
    name, told = module(SLEEPER), tmp_path / "pids"
    stop = StopSignal()

    def look():
        if told.exists():
            stop.received = "SIGTERM"

    with pytest.raises(Interrupted):
        run(name, tmp_path, str(told), stop=stop, on_look=look)
    pids = [int(pid) for pid in told.read_text().split()]
    wait_until(lambda: not any(map(is_running, pids)))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_it_ends_when_the_run_is_killed(module, tmp_path):
    name, told = module(SLEEPER), tmp_path / "pids"
    code = (
        "import sys; from pathlib import Path; from owpo.hosting.process import run_host\n"
        "from owpo.stop import StopSignal\n"
        f"run_host({name!r}, [{str(told)!r}], Path({str(tmp_path / 'log')!r}), stop=StopSignal(), on_look=int)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code])
    wait_until(told.exists)
    wait_until(lambda: len(told.read_text().split()) == 2)
    host = int(told.read_text().split()[0])
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until(lambda: not is_running(host))
    os.kill(int(told.read_text().split()[1]), signal.SIGKILL)  # what a host leaves behind is its own affair
