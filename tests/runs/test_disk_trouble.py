"""Every write of a run fails once, in every way that a disk has: a sentence each time, and the same run in the end."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import as_toml
from safetensors import SafetensorError
from transformers import modeling_utils

from owpo.cli import main
from owpo.errors import InputError, RunFailed
from owpo.recipes import build_config
from owpo.run import resume, train
from owpo.runs import checkpoints
from owpo.training.display import Display

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO)
WRITES = ("os.mkdir", "os.rename", "os.truncate", "os.remove", "os.rmdir")
# Wall-clock seconds, the machine, a process id; checkpoints repeat the hash of the seconds.
NOT_REPEATED = {"timing.jsonl", "environment.jsonl", "run.lock", "manifest.json", "state.json"}


class Saboteur:
    """Stands at every write below a folder. Armed, it lets each place fail once, the first time that it is reached."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.is_armed = False
        self.only = ""
        self.failed: dict[tuple, str] = {}
        self.last = ""

    def at(self, event: str, path: str) -> None:
        """
        Raises:
            OSError: here and now.
        """
        if not self.is_armed or not path.startswith(str(self.root)) or self.only not in path:
            return
        name = re.sub(r"/\.run\.\w{8}", "/.run.RANDOM", path)
        # A log is another place when it has grown, but for those that grow with every attempt.
        is_log = (
            path.endswith(".jsonl") and os.path.basename(path) not in NOT_REPEATED and os.path.exists(path)
        )
        place = (event, name, os.path.getsize(path) if is_log else 0)
        if place not in self.failed:
            number = ERRORS[len(self.failed) % len(ERRORS)]
            self.last = self.failed[place] = event
            raise OSError(number, os.strerror(number), path)

    def hook(self, event: str, arguments: tuple) -> None:
        """An audit hook: it hears of every file that Python opens, makes, moves or removes."""
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (opens or event in WRITES) and not isinstance(arguments[0], int):
            self.at(event, os.fsdecode(arguments[0]))

    def fsync(self, real):
        def fsync(descriptor):
            self.at("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)

        return fsync

    def save_file(self, real):
        """The library writes half of the file and then says in its own words what happened."""

        def save_file(tensors, path, *args, **kwargs):
            real(tensors, path, *args, **kwargs)
            try:
                self.at("save_file", str(path))
            except OSError as error:
                whole = Path(path).read_bytes()
                self.is_armed = False
                Path(path).write_bytes(whole[: len(whole) // 2])
                self.is_armed = True
                raise SafetensorError(
                    f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
                ) from None

        return save_file


@pytest.fixture
def saboteur(tmp_path, monkeypatch):
    made = Saboteur(tmp_path / "runs")
    sys.addaudithook(made.hook)  # it cannot be taken away again, but it is disarmed
    monkeypatch.setattr(os, "fsync", made.fsync(os.fsync))
    monkeypatch.setattr(checkpoints, "save_file", made.save_file(checkpoints.save_file))
    monkeypatch.setattr(modeling_utils, "safe_save_file", made.save_file(modeling_utils.safe_save_file))
    yield made
    made.is_armed = False


@pytest.fixture
def small(recipe_data, tmp_path):
    """Two stages of a step each: a move of the reference, checkpoints, evaluations, a closing table."""
    recipe_data["run"] |= {
        "folder": str(tmp_path / "runs" / "run"),
        "checkpoint_every": 1,
        "keep_checkpoints": 1,
    }
    recipe_data["rollout"]["max_new_tokens"] = 3
    recipe_data["ratchet"] = {"protocol": "every_k", "steps": 2, "k": 1}
    recipe_data["evaluation"] = {"every": 1, "samples": 1, "report_samples": 1}
    return recipe_data


def contents(folder: Path) -> dict[str, bytes]:
    found = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in NOT_REPEATED
    }
    (state,) = folder.glob("checkpoints/*/state.json")
    return found | {"progress": json.loads(state.read_text())["progress"]}


def test_every_write_fails_once_and_the_run_is_the_same(small, tmp_path, saboteur):
    folder = Path(small["run"]["folder"])
    whole = train(build_config(small, "test"))
    assert [step["updates"] for step in whole.metrics()] == [1, 1]
    expected = contents(folder)
    folder.parent.rename(tmp_path / "whole")

    saboteur.is_armed = True
    sentences, could_not_be_removed = [], set()
    while True:
        try:
            _ = resume(folder) if folder.exists() else train(build_config(small, "test"))
            break
        except (RunFailed, InputError) as error:
            sentences.append(str(error))
            saboteur.is_armed = False
            left = {path for path in folder.parent.rglob(".*") if path.is_dir() or path.suffix == ".tmp"}
            if saboteur.last in ("os.remove", "os.rmdir"):
                could_not_be_removed |= left
            assert left <= could_not_be_removed
            saboteur.is_armed = True
        assert len(sentences) < 300
    saboteur.is_armed = False
    assert contents(folder) == expected
    assert len(saboteur.failed) > 100
    assert set(saboteur.failed.values()) >= {
        "open",
        "fsync",
        "save_file",
        "os.rename",
        "os.rmdir",
    }
    goes_on = [told for told in sentences if told.endswith(f"by: owpo resume {folder}")]
    assert any(
        f"The last checkpoint, {folder}/checkpoints/000003, stands; free some space" in told
        for told in goes_on
    )
    others = [told for told in sentences if told not in goes_on]
    assert [
        told for told in others if not re.search(r"start it again$|do the same again$|choose another$", told)
    ] == []


def test_every_write_of_an_evaluation_fails_once_and_its_samples_are_the_same(
    small, tmp_path, tiny_model, saboteur, capsys
):
    def words(out):
        data = [small["problems"]["train"]["path"], "-k", "4", "--batch-size", "8", "--max-new-tokens", "4"]
        return ["eval", str(tiny_model), "--data", *data, "--out", str(out)]

    assert main(words(tmp_path / "whole")) == 0
    saboteur.is_armed = True
    told = []
    while (code := main(words(tmp_path / "runs" / "parts"))) != 0:
        assert code in (1, 2)
        told.append(capsys.readouterr().err.splitlines()[-1])
        assert len(told) < 50
    saboteur.is_armed = False
    assert len(told) > 10
    ends = r"then give the same command again|then do the same again$"
    assert [sentence for sentence in told if not re.search(ends, sentence)] == []
    for name in ("train.jsonl", "problems/train.jsonl", "result.json"):
        assert (tmp_path / "runs" / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_that_is_moved_away_in_mid_run_is_missed_and_gone_on_with_once_it_is_back(small, tmp_path):
    folder = Path(small["run"]["folder"])
    train(build_config(small, "test"))
    expected = contents(folder)
    shutil.rmtree(folder)

    class Mover(Display):
        def step(self, metrics, timing, num_steps):
            if metrics["total_step"] == 2:
                folder.rename(tmp_path / "elsewhere")

    with pytest.raises(RunFailed, match=rf"There is no {folder}; put the folder back to where it was"):
        train(build_config(small, "test"), display=Mover())
    assert not folder.exists()
    (tmp_path / "elsewhere").rename(folder)
    resume(folder)
    assert contents(folder) == expected


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (3_000, "{folder.parent}/.* File too large. There is no .*; .*then start it again"),
        (
            100_000,
            "{folder}/checkpoints/000001: File too large. There is no checkpoint yet; .*owpo resume {folder}",
        ),
    ],
    ids=["of the first weights", "of the optimiser"],
)
def test_a_real_limit_on_the_size_of_files(small, tmp_path, limit, message):
    """The system cuts a write short, in Python and in the libraries written in Rust. Then the limit is lifted."""
    folder = Path(small["run"]["folder"])
    train(build_config(small, "test"))
    expected = contents(folder)
    folder.rename(tmp_path / "whole")

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(small), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "owpo", "train", str(recipe)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(
        f"^owpo: trouble with the disk at {message.format(folder=folder)}$", done.stderr, re.MULTILINE
    )
    assert [path for path in folder.parent.rglob(".*") if path.is_dir() or path.suffix == ".tmp"] == []
    _ = resume(folder) if folder.exists() else train(build_config(small, "test"))
    assert contents(folder) == expected


def test_a_full_disk_strikes_tensorboard_in_its_thread(small, saboteur, capfd):
    small["run"]["trackers"] = ["tensorboard"]
    folder = Path(small["run"]["folder"])
    saboteur.only = "tensorboard/events"
    saboteur.is_armed = True
    with pytest.raises(RunFailed, match=rf"disk at .*tensorboard.*owpo resume {folder}"):
        train(build_config(small, "test"))
    assert "Traceback" not in capfd.readouterr().err
    saboteur.is_armed = False
    assert len(resume(folder).metrics()) == 2
