"""What each engine honours of a recipe, and what it is told about the rest."""

import re

import pytest

from owpo.errors import InputError
from owpo.recipes import load_recipe

DEMO = "recipes/demo.toml"
TRL = ["--run.engine", "trl"]
VERL = ["--run.engine", "verl", "--verl.gpus_per_node", "2"]


@pytest.mark.parametrize("engine", [[], TRL, VERL], ids=["local", "trl", "verl"])
def test_the_demo_is_one_recipe_for_three_engines(engine):
    assert load_recipe(DEMO, engine).run.engine == (engine[1] if engine else "local")


@pytest.mark.parametrize("engine", [TRL, VERL], ids=["trl", "verl"])
@pytest.mark.parametrize(
    ("override", "told"),
    [
        (["--objective.name", "shuffled"], "'shuffled' prepares weights over a whole step"),
        (["--model.lora", "{ rank = 4 }"], "model.lora is not passed on"),
        (["--rollout.stop", '["\\n"]'], "rollout.stop"),
        (["--problems.template", "boxed"], "rollout.stop"),
        (["--alarms.action", "end_stage"], "alarms.action = 'end_stage' cannot end a stage"),
        (["--verifier.flip_wrong", "0.1"], "noise (flip_correct, flip_wrong) is not passed on"),
        (["--training.compile", "true"], "training.compile has no effect"),
        (["--run.token_rollouts", "3"], "run.token_rollouts has no effect"),
        (["--training.advantage", "batch_mean"], "advantage 'batch_mean' is not one of"),
    ],
)
def test_what_no_host_honours_is_refused_by_name(engine, override, told):
    with pytest.raises(InputError, match=re.escape(told)):
        load_recipe(DEMO, [*engine, *override])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*TRL, "--trl.micro_batch", "7"], "is no multiple of training.updates_per_batch * trl.processes"),
        ([*TRL, "--trl.processes", "64", "--trl.micro_batch", "4"], "does not give every process whole groups"),
        ([*TRL, "--rollout.overlong_cache", "8"], "rollout.overlong_cache is not passed on"),
        ([*TRL, "--training.advantage", "leave_one_out"], "is not one of TRL's"),
        ([*VERL, "--training.updates_per_batch", "5"], "rollout.prompts = 32 is no multiple of"),
        ([*VERL, "--verl.gpus_per_node", "3"], "256 responses"),
        ([*VERL, "--rollout.max_rounds", "2"], "rollout.max_rounds has no effect"),
        (["--run.engine", "ray"], "run.engine = 'ray' must be 'local', 'trl' or 'verl'"),
    ],
)  # fmt: skip
def test_what_an_engine_cannot_do_is_refused(words, told):
    with pytest.raises(InputError, match=re.escape(told)):
        load_recipe(DEMO, words)
