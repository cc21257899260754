"""Alarms: silent on a healthy run, ringing once on each collapse, and the same after a stop or a kill."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from owpo.config import AlarmsConfig
from owpo.errors import InputError, Interrupted
from owpo.recipes import build_config
from owpo.run import resume, train
from owpo.stop import StopSignal
from owpo.terminal import Terminal
from owpo.training import stage
from owpo.training.alarms import raised
from owpo.training.display import Display

NAMES = (
    "stage", "step", "entropy", "response_length_p95", "truncated_share", "all_right_share", "all_wrong_share",
    "grad_norm", "kl_to_reference", "saturated", "active_share",
)  # fmt: skip
# Of the demo (recipes/demo.toml): its first step, and of each number the steps with the smallest and the largest.
DEMO_EXTREMES = [
    (1, 1, 0.1155, 21.0, 0.0, 0.0, 0.8672, 0.2343, None, None, 1.0),
    (2, 3, 0.097, 21.0, 0.0, 0.0, 0.8828, 0.3, 0.1268, 0.1644, 1.0),
    (2, 7, 0.1303, 21.0, 0.0, 0.0, 0.7891, 0.3246, 0.2682, 0.1876, 0.875),
    (2, 10, 0.1468, 21.0, 0.0, 0.0, 0.6875, 0.2974, 0.0753, 0.1943, 0.875),
    (2, 25, 0.1706, 21.0, 0.0, 0.0, 0.2656, 0.2309, 0.014, 0.0445, 0.625),
    (2, 37, 0.1451, 21.0, 0.0, 0.0, 0.0625, 0.2206, 0.0123, 0.0265, 0.5),
    (3, 17, 0.1213, 21.0, 0.0, 0.0, 0.1406, 0.151, 0.008, 0.0276, 0.75),
    (4, 33, 0.0615, 21.0, 0.0, 0.2031, 0.2188, 0.3318, 0.0032, 0.0091, 0.5),
    (4, 41, 0.0567, 21.0, 0.0, 0.1562, 0.2188, 0.2818, 0.0025, 0.0097, 0.375),
    (4, 49, 0.0543, 21.0, 0.0, 0.2188, 0.1406, 0.5186, 0.0059, 0.0096, 0.25),
    (4, 53, 0.0426, 21.0, 0.0, 0.25, 0.2344, 0.2646, 0.0098, 0.0128, 0.25),
]
HEALTHY = {
    "entropy": 0.1, "response_length_p95": 20.0, "truncated_share": 0.1, "all_right_share": 0.1,
    "all_wrong_share": 0.3, "grad_norm": 0.2, "kl_to_reference": 0.05, "saturated": 0.1, "active_share": 1.0,
}  # fmt: skip


def records_of(*changes, stage=1):
    """A stage of healthy steps, each with its changes."""
    return [{"stage": stage, "step": n, **HEALTHY, **change} for n, change in enumerate(changes, start=1)]


def rung(records, **config):
    """Every alarm of a run, by the step that raised it."""
    return [
        (records[n]["stage"], records[n]["step"], alarm.name)
        for n in range(len(records))
        for alarm in raised(records[: n + 1], AlarmsConfig(**config))
    ]


def test_the_healthy_demo_is_silent_even_without_patience():
    records = [dict(zip(NAMES, values, strict=True)) for values in DEMO_EXTREMES]
    assert rung(records, patience=1) == []


# Name, the numbers of 12 steps as a function of n = 0, 1, ..., and the step that raises it by hand: the third one
# beyond the default bound.
COLLAPSES = [
    ("min_entropy_ratio", lambda n: {"entropy": 0.1 * 0.5**n}, 8),  # 1/32 < 0.05 at n = 5
    ("max_entropy_ratio", lambda n: {"entropy": 0.1 * 1.5**n}, 7),  # 1.5^4 = 5.06 > 5 at n = 4
    ("max_tail_growth", lambda n: {"response_length_p95": 20.0 * 1.4**n}, 7),  # 1.4^4 = 3.84 > 3 at n = 4
    (
        "max_truncated_rise",
        lambda n: {"truncated_share": min(0.1 + 0.1 * n, 1.0)},
        6,
    ),  # 0.4 - 0.1 > 0.25 at n = 3
    (
        "max_zero_variance_share",
        lambda n: {"all_wrong_share": min(0.3 + 0.2 * n, 0.9)},
        6,
    ),  # 0.1 + 0.9 at n = 3
    ("max_grad_norm_ratio", lambda n: {"grad_norm": 0.2 * 3.0**n}, 6),  # 27 > 10 at n = 3
    ("max_kl", lambda n: {"kl_to_reference": 0.05 * 3.0**n}, 6),  # 1.35 > 1 at n = 3
    (
        "max_saturated_share",
        lambda n: {"saturated": min(0.1 * n, 0.4), "active_share": 0.5},
        6,
    ),  # 0.3 / 0.5 at n = 3
]


@pytest.mark.parametrize(("name", "change", "step"), COLLAPSES, ids=[name for name, _, _ in COLLAPSES])
def test_each_collapse_raises_its_own_alarm_once(name, change, step):
    records = records_of(*(change(n) for n in range(12)))
    assert rung(records) == [(1, step, name)]
    assert rung(records, **{name: "off"}) == rung(records, **{name: None}) == []


def test_an_alarm_names_its_numbers():
    records = records_of({}, *[{"grad_norm": 3.0}] * 2, {"grad_norm": 4.0})
    (alarm,) = raised(records, AlarmsConfig())
    assert alarm.to_json() == {"alarm": "max_grad_norm_ratio", "value": 4.0, "limit": 2.0}
    assert alarm.sentence == (
        "the gradient's norm is 4, above 2 for 3 steps in a row (alarms.max_grad_norm_ratio = 10, against the 0.2 "
        "that the run began with)"
    )


def test_a_bound_itself_is_allowed():
    assert (
        rung(records_of({}, *[{"grad_norm": 2.0, "kl_to_reference": 1.0, "entropy": 0.1 * 0.05}] * 5)) == []
    )


def test_a_spike_shorter_than_patience_is_silent():
    spike = {"kl_to_reference": 40.0}
    assert rung(records_of({}, spike, spike, {}, spike, spike, {})) == []
    assert rung(records_of({}, spike, spike, {}), patience=2) == [(1, 3, "max_kl")]


def test_an_alarm_comes_again_only_after_it_has_cleared():
    high = {"kl_to_reference": 2.0}
    records = records_of(*[high] * 5, {}, *[high] * 4)
    assert rung(records) == [(1, 3, "max_kl"), (1, 9, "max_kl")]


def test_steps_without_the_number_are_passed_over():
    """No token was trained on: neither out of bounds nor back within them, and nothing is raised twice."""
    high, nothing = {"grad_norm": 5.0}, {"grad_norm": None}
    assert rung(records_of({}, high, nothing, high, nothing, nothing, high, nothing, high)) == [
        (1, 7, "max_grad_norm_ratio")
    ]
    unknown = [{**record} for record in records_of(*[{}] * 4)]
    for record in unknown:
        for name in ("entropy", "kl_to_reference", "saturated", "response_length_p95"):
            del record[name]
    assert rung(unknown, patience=1) == []


def test_the_baseline_is_the_first_step_that_has_the_number():
    nothing = {"entropy": None, "grad_norm": None}
    records = records_of(nothing, nothing, {"entropy": 0.2}, *[{"entropy": 0.009}] * 3)
    assert rung(records) == [(1, 6, "min_entropy_ratio")]
    still = {"grad_norm": 0.0}
    assert rung(records_of(still, still, still, {"grad_norm": 1.0}, *[{"grad_norm": 11.0}] * 3)) == [
        (1, 7, "max_grad_norm_ratio")
    ]
    assert rung(records_of(*[still] * 5)) == []
    assert raised(records_of(nothing), AlarmsConfig()) == []


def test_patience_begins_anew_in_a_stage_and_the_baseline_does_not():
    high = {"grad_norm": 2.5}
    first = records_of({}, high, high)
    assert rung(first + records_of(high, high, stage=2)) == []
    assert rung(first + records_of(high, high, high, high, stage=2)) == [(2, 3, "max_grad_norm_ratio")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patience": 0}, r"alarms\.patience = 0 must be greater than or equal to 1"),
        ({"min_entropy_ratio": 1.0}, r"alarms\.min_entropy_ratio = 1\.0 must be less than 1"),
        ({"max_kl": "of"}, r"alarms\.max_kl = 'of' must be a valid number"),
        ({"action": "stop"}, r"alarms\.action = 'stop' must be 'warn' or 'end_stage'"),
        ({"max_lk": 1.0}, r"alarms\.max_lk is unknown\. Did you mean 'max_kl'"),
    ],
)
def test_wrong_settings_are_named(recipe_data, change, message):
    with pytest.raises(InputError, match=message):
        build_config({**recipe_data, "alarms": change}, "test")


def test_what_is_off_is_written_out_and_read_back(recipe_data):
    config = build_config({**recipe_data, "alarms": {"max_kl": "off"}}, "test")
    assert config.alarms.max_kl is None
    assert build_config(config.model_dump(mode="json"), "again") == config


def test_the_page_has_every_key_with_its_default():
    page = (Path(__file__).parents[2] / "docs" / "alarms.md").read_text(encoding="utf-8")
    for name, field in AlarmsConfig.model_fields.items():
        default = json.dumps(field.default)
        assert f"| `{name}` | `{default}` |" in page, name


# A learning rate at which the tiny model forgets, in two updates, to write anything that could be right.
FAR_TOO_HIGH = {
    "training": {"learning_rate": 3.0, "warmup_updates": 1, "weight_decay": 0.0},
    "verifier": {"kind": "exact", "max_unparseable_rise": 1.0},
    "ratchet": {"protocol": "every_k", "steps": 16, "k": 8},
    "evaluation": {"every": 100, "samples": 2, "report_samples": 2},
}


class Listening(Display):
    def __init__(self):
        self.heard = []

    def alarm(self, alarm, ends_stage):
        self.heard.append((alarm.name, ends_stage))


def collapsing(recipe_data, folder, action="end_stage"):
    alarms = {"action": action, "patience": 3}
    run = {**recipe_data["run"], "folder": str(folder), "checkpoint_every": 3}
    return build_config({**recipe_data, **FAR_TOO_HIGH, "run": run, "alarms": alarms}, "test")


def read(folder, name):
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_real_collapse_ends_its_stage_and_the_run_goes_on(recipe_data, tmp_path):
    display = Listening()
    finished = train(collapsing(recipe_data, tmp_path / "run"), display=display)
    stages = {number: [m for m in finished.metrics() if m["stage"] == number] for number in (1, 2)}
    alarms = read(finished.folder, "alarms")
    assert alarms[0]["stage"] == 1 and alarms[0]["action"] == "end_stage"
    assert display.heard == [(alarm["alarm"], True) for alarm in alarms]
    assert 3 <= len(stages[1]) < 8
    assert alarms[0]["step"] == len(stages[1])
    without_contrast = [m["all_right_share"] + m["all_wrong_share"] for m in stages[1]]
    assert min(without_contrast[-3:]) > 0.95
    assert any(len(steps) >= 3 for steps in stages.values())
    assert len(stages[2]) >= 1
    assert [m["total_step"] for m in finished.metrics()] == list(range(1, len(finished.metrics()) + 1))
    # An ended stage is evaluated at its end, proposes its weights, and counts by the steps that it was to have.
    ends = [(e["stage"], e["step"]) for e in read(finished.folder, "evaluations")]
    assert ends == [(number, len(steps)) for number, steps in stages.items()]
    for m in finished.metrics():
        if m["active_share"] is not None:
            assert round(16 * m["active_share"]) == round(16 - 15 * (m["step"] - 1) / 7)


def test_an_alarm_that_only_warns_changes_nothing(recipe_data, tmp_path):
    config = collapsing(recipe_data, tmp_path / "run", action="warn")
    display = Listening()
    finished = train(config, display=display)
    assert [m["step"] for m in finished.metrics()] == [*range(1, 9), *range(1, 9)]
    assert {alarm["action"] for alarm in read(finished.folder, "alarms")} == {"warn"}
    assert display.heard[0] == ("max_zero_variance_share", False)
    silent = {name: "off" for name in AlarmsConfig.model_fields if name.startswith(("min_", "max_"))}
    quiet = {**config.model_dump(mode="json"), "alarms": silent}
    quiet["run"] = {**quiet["run"], "folder": str(tmp_path / "quiet")}
    assert train(build_config(quiet, "test")).metrics() == finished.metrics()
    assert (tmp_path / "quiet" / "alarms.jsonl").read_text() == ""


def everything(folder):
    logs = {name: read(folder, name) for name in ("metrics", "rollouts", "evaluations", "lineage", "alarms")}
    manifest = json.loads((folder / "checkpoints" / "manifest.json").read_text())["checkpoints"][-1]
    return logs, manifest["progress"], manifest["sha256"]["model.safetensors"]


def test_a_stop_at_any_look_after_an_alarm_changes_nothing(recipe_data, tmp_path, monkeypatch):
    """SIGTERM at the first look, the second, ... once the alarm is in the log: in the evaluation that ends the stage,
    and in the stage after it. The checkpoints lie before the alarm and at the stop."""
    whole = train(collapsing(recipe_data, tmp_path / "whole"))
    real_check = StopSignal.check
    for look in range(1, 6):
        folder = tmp_path / f"look-{look}"
        left = look

        def check(self, *args, folder=folder):
            nonlocal left
            alarms = folder / "alarms.jsonl"
            left -= alarms.exists() and alarms.stat().st_size > 0
            if left <= 0:
                self.received = "SIGTERM"
            real_check(self, *args)

        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(StopSignal, "check", check)
            train(collapsing(recipe_data, folder))
        assert resume(folder).rows == whole.rows
        assert everything(folder) == everything(whole.folder)


@pytest.mark.parametrize("place", ["raise_alarms", "evaluate_and_keep_best"])
def test_a_kill_between_the_alarm_and_the_end_of_its_stage_changes_nothing(
    recipe_data, tmp_path, monkeypatch, place
):
    """Nothing is saved any more after it: once just before the alarm's step is complete, once just after."""
    whole = train(collapsing(recipe_data, tmp_path / "whole"))
    last = read(whole.folder, "alarms")[0]["step"]
    assert last % 3 != 0, "the newest checkpoint must lie before the alarm"
    real = getattr(stage, place)

    def killed(session, *args):
        real(session, *args)
        if session.progress.step == last:
            raise KeyboardInterrupt("killed")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, place, killed)
        train(collapsing(recipe_data, tmp_path / "killed"))
    assert len(read(tmp_path / "killed", "alarms")) == 1
    assert resume(tmp_path / "killed").rows == whole.rows
    assert everything(tmp_path / "killed") == everything(whole.folder)


def test_the_terminal_shows_alarms(recipe_data, tmp_path):
    screen = io.StringIO()
    train(collapsing(recipe_data, tmp_path / "run"), display=Terminal(Console(file=screen, width=300)))
    assert (
        "alarm: the share of groups without contrast is 1, above 0.95 for 3 steps in a row "
        "(alarms.max_zero_variance_share = 0.95); the stage ends here\n"
    ) in screen.getvalue()
