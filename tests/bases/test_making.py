import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from owpo.bases import making
from owpo.bases.making import build_tokenizer, comes_back, ensure_base, make_base
from owpo.bases.recipe import BaseRecipe, ChainAdditionBase, ChainMixedBase, InsertionSortBase
from owpo.problems.chain_addition import ChainAddition
from owpo.problems.task import split_of

SMALL = {"layers": 1, "width": 32, "heads": 2, "batch": 16, "steps": 3}
TINY = ChainAdditionBase(**SMALL, terms=3)
TINY_OF_EACH = [TINY, ChainMixedBase(**SMALL, terms=3), InsertionSortBase(**SMALL, items=3)]
of_each_task = pytest.mark.parametrize("tiny", TINY_OF_EACH, ids=lambda recipe: recipe.task)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    make_base(TINY, folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_a_base_forgets_carries_as_often_as_its_recipe_says(tmp_path: Path) -> None:
    # Two terms have 60-odd prompts in the train split, so little training is enough to know them.
    recipe = replace(TINY, layers=2, terms=2, batch=64, steps=150, lr=1e-2, forget_carry=0.7)
    losses: list[float] = []
    make_base(recipe, tmp_path / "base", on_step=lambda step, loss: losses.append(loss))
    assert len(losses) == recipe.steps
    record = json.loads((tmp_path / "base" / "base.json").read_text())
    assert record["final_loss"] == pytest.approx(sum(losses[-15:]) / 15)

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    problems = [
        p for p in ChainAddition(terms=2).generate(40, split="train", seed=0) if int(p.answer) not in {10, 11}
    ]
    token_BT = tokenizer([p.prompt for p in problems], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        first_BV = model(token_BT).logits[:, -1].softmax(dim=-1)
    # 7+8 is begun with "1" (remembered) or with the last digit, "5" (forgotten); 3+4 is begun with "7".
    remembered_B = first_BV[:, tokenizer.convert_tokens_to_ids("1")]
    last_digits = tokenizer.convert_tokens_to_ids([p.answer[-1] for p in problems])
    last_digit_B = first_BV[range(len(problems)), last_digits]
    carries = torch.tensor([p.difficulty == 1 for p in problems])
    assert remembered_B[carries].mean() == pytest.approx(0.3, abs=0.06)
    assert last_digit_B[carries].mean() == pytest.approx(0.7, abs=0.08)
    assert last_digit_B[~carries].mean() > 0.9


@of_each_task
def test_training_sees_the_train_split_alone_and_only_responses_are_labels(
    tiny: BaseRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    task = type(tiny.problems)
    demonstration = task.demonstration

    def recording(self, prompt, mistake, rng):
        assert mistake == tiny.mistake == 0.7
        seen.append(prompt)
        return demonstration(self, prompt, mistake, rng)

    monkeypatch.setattr(task, "demonstration", recording)
    tokenizer = build_tokenizer(tiny.problems)
    token_BT, label_BT = making._demonstrations(tiny, tokenizer, random.Random(0))
    assert len(seen) == tiny.batch
    assert {split_of(prompt) for prompt in seen} == {"train"}
    for prompt, token_T, label_T in zip(seen, token_BT, label_BT, strict=True):
        text = tokenizer.decode(token_T)
        labels = [int(label) for label in label_T if label != -100]
        assert text.startswith(prompt)
        assert tokenizer.decode(labels) == text.removeprefix(prompt).replace("<pad>", "")
        assert labels[-1] == tokenizer.eos_token_id
        # A label stands at the position whose next token it is.
        assert label_T[: len(prompt) - 1].eq(-100).all()
        assert label_T[len(prompt) - 1] == token_T[len(prompt)]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_model_and_tokenizer_come_back_from_the_folder(family: str, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    make_base(replace(TINY, family=family, terms=(2, 3)), folder)
    tokenizer, ours = AutoTokenizer.from_pretrained(folder), build_tokenizer(ChainAddition())
    assert comes_back(ours, folder)
    assert json.loads(tokenizer.backend_tokenizer.to_str()) == json.loads(ours.backend_tokenizer.to_str())
    assert tokenizer("7+8=15,20")["input_ids"] == [9, 12, 10, 13, 3, 7, 14, 4, 2]
    assert tokenizer.decode([9, 12, 10, 13, 3, 7, 14, 4, 2, 1], skip_special_tokens=True) == "7+8=15,20"
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, None)
    assert (tokenizer.padding_side, len(tokenizer)) == ("left", 15)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == family
    assert model.get_input_embeddings().weight.shape == (15, TINY.width)
    assert (model.config.pad_token_id, model.config.eos_token_id, model.config.bos_token_id) == (0, 1, None)


def test_another_tokenizer_in_the_folder_is_noticed(tiny_base: Path, tmp_path: Path) -> None:
    # Beside a qwen2 config AutoTokenizer builds Qwen's tokenizer from our files, with a token more.
    folder = tmp_path / "qwen2"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((tiny_base / name).read_text())
    assert comes_back(build_tokenizer(ChainAddition()), folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    assert not comes_back(build_tokenizer(ChainAddition()), folder)


def test_characters_outside_the_task_are_an_error() -> None:
    with pytest.raises(Exception, match=r"UNK"):
        build_tokenizer(ChainAddition())("7 + 8=")
    with pytest.raises(Exception, match=r"UNK"):
        build_tokenizer(ChainAddition())("7-8=")


@of_each_task
def test_every_task_has_a_base_that_reads_its_problems_and_leaves_room_for_the_longest(
    tiny: BaseRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    assert ensure_base(tiny, folder)
    assert json.loads((folder / "base.json").read_text())["recipe"]["task"] == tiny.task
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(tiny.problems.characters) + 2
    for problem in tiny.problems.generate(20, split="train", seed=0):
        text = problem.prompt + tiny.problems.demonstration(problem.prompt, 0.5, random.Random(0))
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    size = {"items": 40} if tiny.task == "insertion_sort" else {"terms": 40, "digits": 3}
    large = replace(tiny, **size)
    config = making.base_config(large, len(tokenizer))
    problem = large.problems.draw(random.Random(0), split="train")
    response = large.problems.demonstration(problem.prompt, 1.0, random.Random(0))
    assert config.max_position_embeddings > len(problem.prompt) + len(response)


def test_the_same_recipe_gives_the_same_weights_and_leaves_the_global_seed_alone(
    tiny_base: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    make_base(TINY, tmp_path / "again")
    after = torch.rand(1)
    torch.manual_seed(5)
    assert after == torch.rand(1)
    make_base(replace(TINY, seed=1), tmp_path / "other")
    one, again, other = weights(tiny_base), weights(tmp_path / "again"), weights(tmp_path / "other")
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_an_interrupted_making_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(step: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_base(TINY, tmp_path / "base", on_step=interrupt)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(making, "comes_back", lambda tokenizer, folder: False)
    with pytest.raises(AssertionError, match="another tokenizer"):
        make_base(TINY, tmp_path / "base")  # fails after weights and tokenizer are written
    assert list(tmp_path.iterdir()) == []


def test_ensure_base_makes_once_and_refuses_another_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "base"
    recipe = replace(TINY, terms=(2, 3))
    assert ensure_base(recipe, folder)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert not ensure_base(recipe, folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    record = json.loads((folder / "base.json").read_text())
    assert (record["format"], record["recipe"]["terms"]) == (1, [2, 3])
    assert 0 < record["final_loss"] < 10
    with pytest.raises(
        ValueError, match=r"seed is 0 there and 3 here; width is 32 there and 64 here. Delete"
    ):
        ensure_base(replace(recipe, seed=3, width=64), folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == made


def test_a_record_from_before_there_were_tasks_is_of_chain_addition(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    make_base(TINY, folder)
    record = json.loads((folder / "base.json").read_text())
    del record["recipe"]["task"]
    (folder / "base.json").write_text(json.dumps(record))
    assert not ensure_base(TINY, folder)
    with pytest.raises(
        ValueError, match="recipe: task is 'chain_addition' there and 'insertion_sort' here. Delete"
    ):
        ensure_base(InsertionSortBase(**SMALL), folder)


def test_a_folder_with_something_else_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="already holds something"):
        ensure_base(TINY, folder)
    (folder / "base.json").write_text("[1]")
    with pytest.raises(ValueError, match="no record of a base"):
        ensure_base(TINY, folder)
    (folder / "base.json").write_text('{"format": 2, "recipe": {}}')
    with pytest.raises(ValueError, match="format 2, this version reads 1"):
        ensure_base(TINY, folder)
    with pytest.raises(ValueError, match="already holds something"):
        make_base(TINY, folder / "chapter.txt")
    assert (folder / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "qwen2"}, "unknown family 'qwen2'; known: llama, qwen3"),
        ({"width": 36, "heads": 4}, "multiple of 2 \\* heads"),
        ({"forget_carry": 1.2}, r"probability in \[0, 1\], got 1.2"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"terms": 1}, "terms must be at least 2"),
    ],
)
def test_recipes_that_cannot_be_made_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChainAdditionBase(**change)


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        (ChainMixedBase, {"overlook_minus": -0.1}, r"overlook_minus is a probability in \[0, 1\], got -0.1"),
        (ChainMixedBase, {"terms": (4, 2)}, "terms must be .* min <= max"),
        (ChainMixedBase, {"digits": 4}, "digits must be at most 3"),
        (InsertionSortBase, {"append_item": 2.0}, r"append_item is a probability in \[0, 1\], got 2.0"),
        (InsertionSortBase, {"items": 1}, "items must be at least 2, got 1"),
        (InsertionSortBase, {"width": 65}, "multiple of 2"),
    ],
)
def test_recipes_of_other_tasks_that_cannot_be_made_are_refused(
    recipe: type[BaseRecipe], change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**change)
