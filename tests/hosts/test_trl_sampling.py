"""Dynamic sampling in TRL: groups without contrast give way to others, and nothing is sampled or rewarded twice."""

import json
import re
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import write_tiny_model
from datasets import Dataset
from fixed_batch import GROUP, in_two_processes
from trl import GRPOTrainer
from trl_batches import digits, trainer_of
from trl_problems import is_right
from trl_scripted import EASY, HARD, MIXED, Scripted

from owpo.core.deviation import top_active
from owpo.errors import InputError
from owpo.hosts.trl import OWPOConfig
from owpo.hosts.trl_sampling import contrast, other_rows
from owpo.policy.weights import content_hash

NONE = float("nan")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("trl") / "model")


@pytest.fixture
def scripted(monkeypatch) -> Scripted:
    return Scripted().into(monkeypatch)


def groups_of(asked: str) -> list[dict]:
    """A batch as TRL's sampler makes it."""
    return [row for row in digits(asked) for _ in range(GROUP)]


def collected(trainer, asked: str) -> tuple[dict, list[str], dict]:
    """The batch of three groups that training gets for these prompts, its groups' digits, and the metrics."""
    trainer.model.train()
    output = trainer._generate_and_score_completions(groups_of(asked))
    texts = trainer.processing_class.batch_decode(output["prompt_ids"], skip_special_tokens=True)
    assert all(len(set(texts[start : start + GROUP])) == 1 for start in range(0, len(texts), GROUP))
    return output, [text[0] for text in texts[::GROUP]], trainer._metrics["train"]


def by_length(completions: list[str], **_) -> list[float]:
    return [-0.1 * len(text) for text in completions]


def test_groups_without_contrast_give_way_to_other_prompts(model, tmp_path, scripted):
    trainer = trainer_of(model, tmp_path, rows=digits("0123456789"))
    output, asked, metrics = collected(trainer, "037")
    assert asked[0] == "7"
    assert len(set(asked)) == 3
    assert set(asked) < set(MIXED)
    assert (output["advantages"].view(-1, GROUP).std(dim=1) > 0.5).all()
    assert metrics["groups_without_contrast"] == [0]
    assert metrics["groups_sampled"] == [3 * len(scripted.calls)]
    drawn = [call[::GROUP] for call in scripted.calls]
    assert len(drawn) > 1
    assert len({prompt for call in drawn for prompt in call}) == 3 * len(drawn)  # none is drawn twice
    share = [1.0 if p[0] in EASY else 0.0 if p[0] in HARD else 0.5 for call in drawn for p in call]
    assert metrics["accuracy"] == [pytest.approx(sum(share) / len(share))]


def test_responses_and_rewards_stay_with_their_prompts(model, tmp_path, scripted):
    trainer = trainer_of(model, tmp_path, rows=digits("0123456789"))
    output, asked, _ = collected(trainer, "037")
    texts = trainer.processing_class.batch_decode(output["completion_ids"], skip_special_tokens=True)
    right = torch.tensor([text.startswith(asked[row // GROUP]) for row, text in enumerate(texts)])
    assert right.tolist() == [False, True] * 6
    assert torch.equal(output["advantages"] > 0, right)
    assert [text.count(",") for text in texts] == [
        call_row % 3 for call in scripted.calls for call_row, prompt in enumerate(call) if prompt[0] in asked
    ][:12]


def test_groups_are_whole_where_active_samples_are_chosen(model, tmp_path, scripted):
    trainer = trainer_of(model, tmp_path, rows=digits("0123456789"), move_every=4)
    trainer.state.global_step = 2
    output, *_ = collected(trainer, "037")
    assert output["group"].tolist() == [0] * GROUP + [1] * GROUP + [2] * GROUP
    assert torch.equal(output["active"], top_active(output["advantages"].view(-1, GROUP), 2).flatten())


def test_what_is_still_missing_is_filled_and_has_no_advantage(model, tmp_path, scripted):
    """Lengths differ within a group that is all right; only the first reward function tells contrast."""
    rows = digits([*"0123457", "00", "11"])
    trainer = trainer_of(
        model, tmp_path, rows=rows, given={"reward_funcs": [is_right, by_length]}, max_rounds=3
    )
    output, asked, metrics = collected(trainer, "012")
    assert len(scripted.calls) == 3
    assert asked == ["7", "0", "1"]
    assert metrics["groups_without_contrast"] == [2]
    advantage = output["advantages"].view(-1, GROUP)
    assert (advantage[0] != 0).all()
    assert (advantage[1:] == 0).all()


def test_a_batch_with_contrast_takes_one_round(model, tmp_path, scripted):
    trainer = trainer_of(model, tmp_path)
    _, asked, metrics = collected(trainer, "678")
    assert asked == ["6", "7", "8"]
    assert len(scripted.calls) == 1
    assert metrics["groups_sampled"] == [3]


def test_every_response_is_rewarded_once(model, tmp_path, scripted):
    """A reward that is never the same twice: what TRL trains on is what the group was kept for."""
    given = []

    def numbered(completions, log_extra, log_metric, **_):
        rewards = [float(len(given) + place) for place in range(len(completions))]
        given.extend(rewards)
        log_extra("text", list(completions))
        log_metric("calls", 1.0)
        return rewards

    trainer = trainer_of(
        model, tmp_path, rows=digits("0123456789"), given={"reward_funcs": [is_right, numbered]}, max_rounds=4
    )
    collected(trainer, "037")
    assert len(given) == sum(map(len, scripted.calls))
    logs = trainer._logs
    assert list(logs["extra"]["text"]) == list(logs["completion"])
    kept = [
        row
        for row, prompt in enumerate(prompt for call in scripted.calls for prompt in call)
        if prompt[0] in {text[0] for text in logs["prompt"]}
    ]
    assert list(logs["rewards"]["numbered"]) == kept[:12]


@pytest.mark.parametrize(("name", "wants"), [("owpo", True), ("dapo", True), ("grpo", False)])
def test_the_paper_decides_unless_told(tmp_path, name, wants):
    given = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "objective": name}
    assert OWPOConfig(**given).samples_for_contrast is wants
    assert OWPOConfig(**given, dynamic_sampling=not wants).samples_for_contrast is not wants


@pytest.mark.parametrize("settings", [{"dynamic_sampling": False}, {"objective": "grpo"}])
def test_without_it_a_batch_stays_as_it_is(model, tmp_path, scripted, settings):
    trainer = trainer_of(model, tmp_path, **settings)
    _, asked, metrics = collected(trainer, "037")
    assert asked == ["0", "3", "7"]
    assert len(scripted.calls) == 1
    assert "groups_sampled" not in metrics


def test_an_evaluation_asks_what_it_was_given(model, tmp_path, scripted):
    trainer = trainer_of(model, tmp_path, per_device_eval_batch_size=GROUP)
    trainer.evaluate()
    assert [set(call) for call in scripted.calls] == [{"0="}, {"1="}]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 1, 1, 1], False),
        ([0, 0, 0, 0], False),
        ([0, 0, 1, 0], True),
        ([1, NONE, 1, 1], False),
        ([NONE, 0, NONE, 0], False),
        ([NONE, 0, NONE, 1], True),
        ([NONE, NONE, NONE, NONE], False),
        ([-1, NONE, -1, -1], False),
    ],
)
def test_the_first_rewards_that_are_there_decide(rewards, expected):
    other = torch.tensor([1.0, 2.0, 3.0, 4.0])
    mixed = torch.tensor([0.0, 1.0, 0.0, 1.0])
    columns = torch.stack([torch.cat([torch.tensor(rewards).float(), mixed]), other.repeat(2)], dim=1)
    assert contrast(columns, 4).tolist() == [expected, True]


def asked_of(rows, count) -> list[str]:
    return [row["digit"] for row in islice(rows, count)]


def test_other_prompts_come_once_before_any_comes_again():
    data = Dataset.from_list(digits("0123456789" * 2))
    first = asked_of(other_rows(data, 0, 7, ["3=", "5="]), 8)
    assert sorted(first) == list("01246789")
    more = asked_of(other_rows(data, 0, 7, ["3=", "5="]), 68)
    assert more[:8] == first
    assert set(more[8:28]) == set("0123456789")


def test_other_prompts_depend_on_seed_and_step_alone():
    data = Dataset.from_list(digits("0123456789"))
    orders = {
        tuple(asked_of(other_rows(data, *place, []), 10)) for place in [(0, 1), (0, 2), (1, 1), (10, 1)]
    }
    assert len(orders) == 4
    torch.manual_seed(5)
    assert tuple(asked_of(other_rows(data, 0, 1, []), 10)) in orders


def test_a_resumed_run_draws_the_same_prompts(model, tmp_path, monkeypatch):
    calls = []
    generate = GRPOTrainer._generate

    def noted(trainer, prompts):
        calls.append((trainer.state.global_step, prompts[::GROUP]))
        return generate(trainer, prompts)

    monkeypatch.setattr(GRPOTrainer, "_generate", noted)
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = trainer_of(model, tmp_path / "whole", **saving)
    whole.train()
    drawn = [call for call in calls if call[0] >= 2]
    assert len(drawn) > 2  # more than a round a step
    calls.clear()
    again = trainer_of(model, tmp_path / "again", **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert calls == drawn
    assert content_hash(again.model) == content_hash(whole.model)


def test_two_processes_do_the_same_number_of_rounds(model, tmp_path):
    """The first has its groups at once and samples on for the second; no prompt is drawn by both."""
    in_two_processes("trl_two_samplers.py", model, tmp_path)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert len(one["calls"]) == len(other["calls"]) > 1
    drawn = [
        prompt for calls in zip(one["calls"], other["calls"], strict=True) for c in calls for prompt in c
    ]
    assert len(set(drawn)) == len(drawn)
    assert one["asked"] == ["6=", "7="]
    assert one["filled"] == other["filled"] == 0
    assert len(set(other["asked"])) == 2
    assert set(other["asked"]) <= {"8=", "9=", "66=", "77=", "88=", "99="}


def noop(**_):
    return None


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("tools", [noop], "does not go with tools; set dynamic_sampling=False"),
        ("environment_factories", {None: noop}, "with an environment_factory; set dynamic_sampling=False"),
    ],
)
def test_what_acts_beside_the_model_is_refused(model, tmp_path, name, value, told):
    trainer = trainer_of(model, tmp_path, dynamic_sampling=False)
    setattr(trainer, name, value)
    with pytest.raises(InputError, match=told):
        trainer.sample_for_contrast()


def test_a_rollout_of_ones_own_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="does not go with a rollout_func; set dynamic_sampling=False"):
        trainer_of(model, tmp_path, given={"rollout_func": noop})


def test_a_stream_is_refused(model, tmp_path):
    stream = Dataset.from_list(digits()).to_iterable_dataset()
    with pytest.raises(InputError, match="does not go with an IterableDataset; set dynamic_sampling=False"):
        trainer_of(model, tmp_path, rows=stream)
    trainer_of(model, tmp_path, rows=stream, dynamic_sampling=False)


def test_prompts_with_images_are_refused(model, tmp_path, monkeypatch):
    trainer = trainer_of(model, tmp_path)
    script = Scripted()
    monkeypatch.setattr(
        GRPOTrainer, "_generate", lambda trainer, prompts: (*script(trainer, prompts)[:6], ["an image"], [])
    )
    with pytest.raises(InputError, match="the prompts have images; use TRL's GRPOTrainer"):
        collected(trainer, "037")


def test_a_run_without_rounds_is_refused(tmp_path):
    with pytest.raises(InputError, match=re.escape("max_rounds = 0 must be at least 1")):
        OWPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_rounds=0)
