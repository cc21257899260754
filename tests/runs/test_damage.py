"""Every file of a run: where a byte of it changes, the run says so, or goes on from what is still intact."""

import json
import random
import shutil
from pathlib import Path

import pytest

from owpo.errors import InputError, Interrupted
from owpo.policy.load import load_policy
from owpo.recipes import build_config
from owpo.run import resume, same_recipe, train
from owpo.runs.versions import VersionStore
from owpo.stop import StopSignal
from owpo.training.display import Display


class Listening(Display):
    def __init__(self):
        self.heard = []

    def warn(self, text):
        self.heard.append(text)


@pytest.fixture
def stopped(recipe_data, monkeypatch):
    """A run of two stages stopped in the second, with two checkpoints; what it needs to go on."""
    recipe_data["ratchet"] = {"protocol": "every_k", "steps": 6, "k": 3}
    config = build_config(recipe_data, "test")
    folder = Path(config.run.folder)
    real = StopSignal.check

    def check(self, *args):
        metrics = folder / "metrics.jsonl"
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= 5:
            self.received = "SIGTERM"
        real(self, *args)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StopSignal, "check", check)
        train(config)
    lineage = (folder / "lineage.jsonl").read_text().splitlines()
    assert [json.loads(line)["candidate"] for line in lineage] == ["base", "stage1-end"]
    return folder


def flip(path, chance):
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(data))


def outcome(folder):
    return [(folder / name).read_bytes() for name in ("metrics.jsonl", "lineage.jsonl", "result.json")]


def test_a_flipped_bit_in_any_file_is_refused_or_changes_nothing(stopped, tmp_path, caplog):
    chance = random.Random(0)
    whole = tmp_path / "intact"
    shutil.copytree(stopped, whole)
    resume(stopped)
    expected = outcome(stopped)
    files = [file for file in sorted(whole.rglob("*")) if file.is_file() and file.stat().st_size]
    survived, refusals = set(), {}
    for name in [str(file.relative_to(whole)) for file in files]:
        shutil.rmtree(stopped)
        shutil.copytree(whole, stopped)
        flip(stopped / name, chance)
        try:
            resume(stopped)
        except InputError as error:
            refusals[name] = str(error)
        else:
            assert outcome(stopped) == expected, name
            survived.add(name)
    assert [
        name for name, told in refusals.items() if str(stopped) not in told or "restore" not in told
    ] == []
    # The lock and the environment are for information. The rest are the two checkpoints: the newest is passed over for
    # the one before it, whose own damage nobody meets.
    checkpoints = sorted(path.name for path in (whole / "checkpoints").iterdir() if path.is_dir())
    parts = ("model.safetensors", "optimizer.safetensors", "state.json")
    in_checkpoints = {f"checkpoints/{number}/{part}" for number in checkpoints for part in parts}
    assert survived - {"environment.jsonl"} == {"run.lock", *in_checkpoints}
    assert f"checkpoint {checkpoints[-1]} is damaged (state.json has other bytes" in caplog.text


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "adapter_config.json"])
def test_a_file_put_beside_the_weights_is_noticed(stopped, name):
    (stopped / "versions" / "base" / name).write_text("{}")
    with pytest.raises(InputError, match=rf"versions/base.*{name}.*restore that folder"):
        resume(stopped)


def test_what_the_system_leaves_in_a_folder_is_no_damage(stopped):
    (stopped / "versions" / "base" / ".DS_Store").write_text("x")
    assert len(resume(stopped).metrics()) == 6


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "version.json"])
def test_a_damaged_version_that_is_made_again_is_written_again(tmp_path, tiny_model, name):
    policy, store = load_policy(str(tiny_model)), VersionStore(tmp_path)

    def keep():
        store.add(policy, "stage1-step2", parent="base", stage=1, step=2, reason="best")

    keep()
    file = tmp_path / "stage1-step2" / name
    written = file.read_bytes()
    flip(file, random.Random(1))
    with pytest.raises(InputError, match=rf"stage1-step2.*{name}"):
        store.load_into(policy, "stage1-step2")
    keep()
    assert file.read_bytes() == written
    store.load_into(policy, "stage1-step2")


@pytest.mark.parametrize("text", ["{}\n{broken\n", "5\n", "\xff\n"])
def test_a_damaged_environment_is_put_aside_and_said(stopped, text):
    (stopped / "environment.jsonl").write_text(text, encoding="latin-1")
    display = Listening()
    resume(stopped, display=display)
    assert "put aside as environment.jsonl.damaged-1" in " ".join(display.heard)
    assert (stopped / "environment.jsonl.damaged-1").read_text(encoding="latin-1") == text
    (start,) = (stopped / "environment.jsonl").read_text().splitlines()
    assert json.loads(start)["model_code_may_run"] is False


def test_a_line_of_the_environment_that_a_kill_cut_is_dropped(stopped):
    with (stopped / "environment.jsonl").open("a") as stream:
        stream.write('{"owpo": "0.')
    resume(stopped)
    starts = [json.loads(line) for line in (stopped / "environment.jsonl").read_text().splitlines()]
    assert [start["model_code_may_run"] for start in starts] == [False, False]


def test_whoever_reads_the_configuration_checks_it(stopped, recipe_data):
    config = build_config(recipe_data, "test")
    same_recipe(config, stopped)
    file = stopped / "config.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(InputError, match=r"config\.json is damaged or was edited"):
        same_recipe(config, stopped)


def test_a_run_of_an_earlier_version_is_refused(stopped):
    file = stopped / "config.json"
    data = json.loads(file.read_text())
    del data["seal"]
    file.write_text(json.dumps(data))
    with pytest.raises(InputError, match="earlier version of owpo"):
        resume(stopped)
