"""Ctrl-C and SIGTERM while the program still imports, and an output that nobody reads: no traceback."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import as_toml


@pytest.fixture
def recipe(tmp_path, recipe_data):
    path = tmp_path / "recipe.toml"
    path.write_text(as_toml(recipe_data), encoding="utf-8")
    return path


def start(*words) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "owpo", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_library(process: subprocess.Popen, name: str) -> None:
    """Until the process has begun to import what brings that library, or has ended."""
    while process.poll() is None and name not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.002)


@pytest.mark.parametrize("delay", [0, 0.3, 1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_stop_while_importing_is_quiet_and_leaves_nothing(recipe, tmp_path, number, delay):
    process = start("train", recipe, "--ratchet.steps", 5000)
    wait_for_library(process, "libtorch")
    time.sleep(delay)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert "Traceback" not in told
    assert "Error" not in told
    assert process.returncode in (-number, 75)
    if process.returncode == -number:
        assert not (tmp_path / "run").exists()
    else:
        assert re.search(r"^owpo: stopped \(.*(start it again|owpo resume .*)$", told, re.MULTILINE)


def test_a_stop_in_a_finalizer_is_not_lost():
    program = """
import signal, time
from owpo.stop import keep_interrupts

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

keep_interrupts()
Finalized()
print("went on", flush=True)
try:
    time.sleep(30)
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("went on\nstopped\n", "", 0)


def test_an_output_that_is_closed_ends_a_listing_quietly():
    process = start("objectives")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()


def test_help_into_a_closed_pipe_is_quiet():
    process = start("--help")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() in (0, 141)  # argparse itself looks away
    process.stderr.close()


def test_a_run_whose_output_is_closed_says_how_to_go_on(recipe, tmp_path):
    process = start("train", recipe, "--ratchet.steps", "5000")
    process.stdout.readline()
    process.stdout.close()
    told = process.stderr.read()
    assert told == (
        f"owpo: stopped (the output was closed), the last checkpoint stands; go on by: owpo resume {tmp_path / 'run'}\n"
    )
    assert process.wait() == 141
    process.stderr.close()
