"""Trackers get a run's own numbers; one that is missing, does not start or fails costs the run nothing."""

import inspect
import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
from conftest import as_toml

from owpo.cli import main
from owpo.errors import InputError, Interrupted
from owpo.recipes import build_config
from owpo.run import resume, train
from owpo.training.display import Display
from owpo.training.session import Session

SERVICES = ("wandb", "trackio")


@dataclass
class Started:
    """What a service was begun with, and what it kept of what it was sent."""

    settings: dict
    kept: list[dict] = field(default_factory=list)
    is_finished: bool = False


class StandIn(ModuleType):
    """A service in this process: it keeps what the real one keeps, and fails where it is told to."""

    def __init__(self, name):
        super().__init__(name)
        self.started: list[Started] = []
        self.fails: dict[str, Exception] = {}

    def _call(self, name):
        if name in self.fails:
            raise self.fails[name]

    def _begin(self, settings):
        self._call("init")
        assert not self.started or self.started[-1].is_finished
        self.started.append(Started(settings))

    def _finish(self):
        self._call("finish")
        assert not self.started[-1].is_finished
        self.started[-1].is_finished = True


class WandbStandIn(StandIn):
    def __init__(self):
        super().__init__("wandb")
        self.steps: dict[str, int] = {}  # the last one of each id

    def init(
        self, entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None,
        config_exclude_keys=None, config_include_keys=None, allow_val_change=None, group=None, job_type=None,
        mode=None, force=None, reinit=None, resume=None, resume_from=None, fork_from=None, save_code=None,
        tensorboard=None, sync_tensorboard=None, monitor_gym=None, settings=None, anonymous=None,
    ):  # fmt: skip
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        self._begin(given)
        self.first = self.steps.get(id, -1) + 1

    def define_metric(
        self, name, step_metric=None, step_sync=None, hidden=None, summary=None, overwrite=None
    ):
        self.axis = (name, step_metric)

    def log(self, data, step=None, commit=None):
        self._call("log")
        run = self.started[-1]
        last = self.steps.get(run.settings["id"], -1)
        if step is None:
            step = last + 1
        if step < max(last, self.first):
            return  # the real one says so on stderr
        self.steps[run.settings["id"]] = step
        run.kept.append(dict(data))

    def finish(self, exit_code=None):
        self._finish()

    def sent(self):
        """(the step on the axis, the rest) of all that was kept."""
        assert self.axis == ("*", "total_step")
        return [
            (record["total_step"], {key: value for key, value in record.items() if key != "total_step"})
            for run in self.started
            for record in run.kept
        ]

    def identity(self, number):
        return self.started[number].settings["id"]


class TrackioStandIn(StandIn):
    def __init__(self):
        super().__init__("trackio")

    def init(
        self, project, name=None, group=None, space_id=None, server_url=None, dataset_id=None, bucket_id=None,
        config=None, resume="never", settings=None, private=None, embed=True, auto_log_gpu=None,
        gpu_log_interval=10.0, auto_log_cpu=None, cpu_log_interval=10.0, webhook_url=None,
        webhook_min_level=None,
    ):  # fmt: skip
        print(f"* Trackio project initialized: {project}")
        self._begin({"project": project, "name": name, "config": config, "resume": resume})

    def log(self, metrics, step=None):
        self._call("log")
        self.started[-1].kept.append({"step": step, "numbers": metrics})

    def finish(self):
        print("* Run finished. Uploading logs to Trackio (please wait...)")
        self._finish()

    def sent(self):
        return [(record["step"], record["numbers"]) for run in self.started for record in run.kept]

    def identity(self, number):
        return self.started[number].settings["name"]


STAND_INS = {"wandb": WandbStandIn, "trackio": TrackioStandIn}


@pytest.fixture(params=SERVICES)
def service(request, monkeypatch):
    made = STAND_INS[request.param]()
    monkeypatch.setitem(sys.modules, request.param, made)
    return made


@pytest.fixture
def wandb(monkeypatch):
    made = WandbStandIn()
    monkeypatch.setitem(sys.modules, "wandb", made)
    return made


class Listening(Display):
    def __init__(self):
        self.heard = []

    def warn(self, text):
        self.heard.append(text)


class Stopping(Display):
    """Ctrl-C as a step is done."""

    def __init__(self, step):
        self.at = step

    def step(self, metrics, timing, num_steps):
        if metrics["total_step"] == self.at:
            signal.raise_signal(signal.SIGINT)


class Killing(Stopping):
    """The end of everything as a step is done: nothing is saved."""

    def step(self, metrics, timing, num_steps):
        if metrics["total_step"] == self.at:
            raise MemoryError


def tracked(recipe_data, *names):
    recipe_data["run"]["trackers"] = list(names)
    return build_config(recipe_data, "test")


def read(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def numbers_of(folder):
    """(step, numbers) of each step and evaluation in the folder's logs, in the order in which they happened."""
    found = []
    evaluations = {record["step"]: record["accuracy"] for record in read(folder, "evaluations")}
    for metrics, timing in zip(read(folder, "metrics"), read(folder, "timing"), strict=True):
        named = {f"metrics/{key}": value for key, value in metrics.items()}
        named |= {f"timing/{key}": value for key, value in timing.items()}
        found.append((metrics["total_step"], {k: v for k, v in named.items() if isinstance(v, int | float)}))
        if metrics["step"] in evaluations:
            found.append((metrics["total_step"], {"selection/accuracy": evaluations[metrics["step"]]}))
    return found


def scalars(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]


def in_folder(found, tag):
    return [(step, numbers[tag]) for step, numbers in found if tag in numbers]


TAGS = ("metrics/accuracy", "timing/seconds", "selection/accuracy")


def test_tensorboard_gets_every_step_and_evaluation(recipe_data):
    finished = train(tracked(recipe_data, "tensorboard"))
    expected = numbers_of(finished.folder)
    assert [len(in_folder(expected, tag)) for tag in TAGS] == [4, 4, 2]
    for tag in TAGS:
        assert scalars(finished.folder, tag) == in_folder(expected, tag)


def test_what_a_resumed_run_does_again_is_once_in_tensorboard(recipe_data):
    recipe_data["run"]["checkpoint_every"] = 3
    recipe_data["ratchet"]["steps"] = 7
    config = tracked(recipe_data, "tensorboard")
    folder = Path(config.run.folder)
    with pytest.raises(MemoryError):
        train(config, display=Killing(6))
    assert [step for step, _ in scalars(folder, "metrics/accuracy")] == [1, 2, 3, 4, 5]
    resume(folder)
    for tag in TAGS[:2]:
        assert scalars(folder, tag) == in_folder(numbers_of(folder), tag)


def test_a_service_is_sent_each_step_and_evaluation_once(recipe_data, service):
    finished = train(tracked(recipe_data, service.__name__))
    assert service.sent() == numbers_of(finished.folder)
    assert [step for step, _ in service.sent()] == [1, 2, 2, 3, 4, 4]
    (run,) = service.started
    assert run.is_finished
    assert run.settings["project"] == "owpo"
    assert run.settings["resume"] == "allow"
    assert run.settings["config"] == json.loads(json.dumps(run.settings["config"]))
    assert run.settings["config"]["rollout"]["group_size"] == 16


def test_a_tracker_that_is_named_twice_is_sent_each_step_once(recipe_data, service):
    finished = train(tracked(recipe_data, service.__name__, service.__name__))
    assert service.sent() == numbers_of(finished.folder)


def test_a_run_that_was_stopped_and_resumed_is_one_run_at_a_service(recipe_data, service):
    config = tracked(recipe_data, service.__name__)
    with pytest.raises(Interrupted):
        train(config, display=Stopping(3))
    assert service.started[0].is_finished
    finished = resume(config.run.folder)
    assert len(service.started) == 2
    assert service.identity(0) == service.identity(1)
    assert service.started[0].settings == service.started[1].settings
    assert service.sent() == numbers_of(finished.folder)


def test_two_runs_are_two_at_a_service_though_their_folders_share_a_name(recipe_data, service, tmp_path):
    for parent in ("a", "b"):
        recipe_data["run"]["folder"] = str(tmp_path / parent / "run")
        train(tracked(recipe_data, service.__name__))
    assert service.identity(0) != service.identity(1)
    assert all(run.settings["name"].startswith("run") for run in service.started)


def test_an_evaluation_that_a_stop_delayed_reaches_a_service(recipe_data, service, monkeypatch):
    """The step before it is at the service already."""
    real = Session.evaluation
    config = tracked(recipe_data, service.__name__)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Session, "evaluation", lambda *_args: (_ for _ in ()).throw(Interrupted("SIGTERM")))
        train(config)
    assert Session.evaluation is real
    assert [step for step, _ in service.sent()] == [1, 2]
    finished = resume(config.run.folder)
    assert service.sent() == numbers_of(finished.folder)


def test_what_is_done_again_after_a_kill_is_sent_again_with_the_same_numbers(recipe_data, service):
    recipe_data["run"]["checkpoint_every"] = 3
    config = tracked(recipe_data, service.__name__)
    with pytest.raises(MemoryError):
        train(config, display=Killing(3))
    finished = resume(config.run.folder)
    sent = [
        (step, {key: value for key, value in numbers.items() if key.startswith(("metrics", "selection"))})
        for step, numbers in service.sent()
    ]
    assert [step for step, _ in sent] == [1, 2, 2, 1, 2, 2, 3, 4, 4]
    assert sent[:3] == sent[3:6]
    assert service.sent()[3:] == numbers_of(finished.folder)


def test_an_id_that_a_kill_left_empty_is_made_anew(recipe_data, service):
    config = tracked(recipe_data, service.__name__)
    with pytest.raises(Interrupted):
        train(config, display=Stopping(1))
    (Path(config.run.folder) / "tracker_id").write_text("")
    resume(config.run.folder)
    assert len(service.identity(1).removeprefix("run-")) == 8


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("tensorboard", "torch.utils.tensorboard", "'owpo[tensorboard]'"),
        ("wandb", "wandb", "wandb"),
        ("trackio", "trackio", "trackio"),
    ],
)
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(
    recipe_data, tmp_path, monkeypatch, capsys, name, module, package
):
    monkeypatch.setitem(sys.modules, module, None)
    recipe_data["run"]["trackers"] = [name]
    recipe_data["run"]["folder"] = str(tmp_path / "runs" / "run")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(recipe_data), encoding="utf-8")
    assert main(["train", str(recipe)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"owpo: run.trackers names {name}, which cannot be imported (")
    assert told.endswith(f"): pip install {package}\n")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("names", [["tensorbord"], ["wandb", "mlflow"]])
def test_an_unknown_tracker_is_refused_with_the_known_ones(recipe_data, names):
    with pytest.raises(
        InputError, match=rf"run\.trackers = '{names[-1]}' must be 'tensorboard', 'wandb' or 'trackio'"
    ):
        tracked(recipe_data, *names)


CURES = {"wandb": "WANDB_MODE=offline", "trackio": "set TRACKIO_DIR"}


def test_a_service_that_does_not_start_leaves_no_run_behind(recipe_data, tmp_path, service):
    """So that the recipe can be changed, and the same command be given again."""
    recipe_data["run"]["folder"] = str(tmp_path / "runs" / "run")
    service.fails["init"] = RuntimeError("no account")
    with pytest.raises(InputError) as failed:
        train(tracked(recipe_data, "tensorboard", service.__name__))
    told = str(failed.value)
    assert told.startswith(f"run.trackers: {service.__name__} does not start (RuntimeError: no account); ")
    assert CURES[service.__name__] in told
    assert told.endswith("; or take it out of run.trackers. Then start it again")
    assert list((tmp_path / "runs").iterdir()) == []
    service.fails.clear()
    finished = train(tracked(recipe_data, service.__name__))
    assert service.sent() == numbers_of(finished.folder)


def test_a_service_that_does_not_start_at_a_resume_says_how_to_go_on(recipe_data, service):
    config = tracked(recipe_data, service.__name__)
    folder = Path(config.run.folder)
    with pytest.raises(Interrupted):
        train(config, display=Stopping(3))
    before = (folder / "metrics.jsonl").read_bytes()
    service.fails["init"] = RuntimeError("no account")
    with pytest.raises(InputError) as failed:
        resume(folder)
    assert CURES[service.__name__] in str(failed.value)
    assert str(failed.value).endswith(f". Then go on by: owpo resume {folder}")
    assert (folder / "metrics.jsonl").read_bytes() == before
    service.fails.clear()
    assert len(resume(folder).metrics()) == 4


TROUBLE = {
    "log": {"log": BrokenPipeError("the service is gone")},
    "finish": {"finish": OSError("the service is gone")},
    "both": {"log": RuntimeError("the service is gone"), "finish": ValueError("and again")},
}


@pytest.mark.parametrize("fails", TROUBLE.values(), ids=TROUBLE)
def test_a_service_that_fails_is_told_of_once_and_the_run_goes_on(recipe_data, tmp_path, service, fails):
    whole = train(build_config(recipe_data, "test"))
    recipe_data["run"]["folder"] = str(tmp_path / "tracked")
    service.fails |= fails
    display = Listening()
    finished = train(tracked(recipe_data, service.__name__, "tensorboard"), display=display)
    (warning,) = [text for text in display.heard if service.__name__ in text]
    kind = type(next(iter(fails.values()))).__name__
    assert warning == (
        f"{service.__name__} failed ({kind}: the service is gone) and is sent nothing more; the run folder has "
        "every number"
    )
    assert finished.metrics() == whole.metrics()
    assert finished.rows == whole.rows
    assert [step for step, _ in scalars(finished.folder, "metrics/accuracy")] == [1, 2, 3, 4]
    assert service.started[0].is_finished == ("finish" not in fails)


def test_a_service_that_fails_in_mid_run_is_sent_nothing_more(recipe_data, wandb):
    class Failing(Listening):
        def step(self, metrics, timing, num_steps):
            wandb.fails = {"log": ConnectionResetError("lost")} if metrics["total_step"] == 2 else {}

    display = Failing()
    train(tracked(recipe_data, "wandb"), display=display)
    assert [step for step, _ in wandb.sent()] == [1]
    assert len([text for text in display.heard if "wandb failed (ConnectionResetError: lost)" in text]) == 1


def test_a_stop_is_a_stop_though_the_service_does_not_finish(recipe_data, service):
    config = tracked(recipe_data, service.__name__)
    service.fails["finish"] = RuntimeError("the service is gone")
    with pytest.raises(Interrupted):
        train(config, display=Stopping(3))
    service.started[0].is_finished, service.fails = True, {}
    assert len(resume(config.run.folder).metrics()) == 4


def test_what_a_service_prints_is_not_in_the_json_of_a_run(recipe_data, tmp_path, service, capsys):
    recipe_data["run"]["trackers"] = [service.__name__]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(recipe_data), encoding="utf-8")
    assert main(["train", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == recipe_data["run"]["folder"]


@pytest.mark.parametrize("name", SERVICES)
def test_the_stand_ins_take_what_the_real_ones_take(name):
    real, stand_in = pytest.importorskip(name), STAND_INS[name]()
    for call in ("init", "log", "finish", *(["define_metric"] if name == "wandb" else [])):
        parameters = list(inspect.signature(getattr(real, call)).parameters)
        assert parameters[parameters[:1] == ["self"] :] == list(
            inspect.signature(getattr(stand_in, call)).parameters
        )


@pytest.mark.parametrize("name", SERVICES)
def test_the_real_ones_take_a_run(recipe_data, tmp_path, name):
    if util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    recipe_data["run"]["trackers"] = [name]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(recipe_data), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "owpo", "train", str(recipe), "--json"],
        env={**os.environ, "WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == recipe_data["run"]["folder"]
    id = (tmp_path / "run" / "tracker_id").read_text()
    if name == "wandb":
        assert len(list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{id}/run-{id}.wandb"))) == 1
    else:
        rows = sqlite3.connect(tmp_path / "trackio" / "owpo.db").execute("select run_name, step from metrics")
        assert sorted(rows) == [(f"run-{id}", step) for step in (1, 2, 2, 3, 4, 4)]
