"""`evaluation.share`: what several runs would sample alike is sampled by the first of them."""

import pytest

from owpo.errors import InputError
from owpo.evaluation import samples
from owpo.recipes import build_config
from owpo.run import train


@pytest.fixture
def sampled(monkeypatch) -> list[int]:
    """How many problems each evaluation on the report set had to answer; empty after a look."""
    calls, real = [], samples.answer_batches

    def counted(sampler, problems, *args, **kwargs):
        calls.append(len(problems))
        return real(sampler, problems, *args, **kwargs)

    monkeypatch.setattr(samples, "answer_batches", counted)
    return calls


@pytest.fixture
def run(recipe_data, tmp_path, sampled):
    """A run with these settings of its evaluation: its rows, and how many models it sampled from."""

    def run(name: str, **evaluation):
        sampled.clear()
        data = {**recipe_data, "run": {**recipe_data["run"], "folder": str(tmp_path / name)}}
        data["evaluation"] = {**recipe_data["evaluation"], **evaluation}
        return train(build_config(data, "test")).rows, len(sampled)

    return run


def test_a_second_run_samples_nothing_that_the_first_has(run, tmp_path):
    alone, models = run("alone")
    assert models == len(alone) == 2  # base and best
    share = str(tmp_path / "shared" / "here")
    assert run("first", share=share) == (alone, 2)
    assert run("second", share=share) == (alone, 0)
    files = [tmp_path / name / "report" / "base" / "report.jsonl" for name in ("alone", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_other_settings_are_another_evaluation(run, tmp_path):
    share = str(tmp_path / "shared")
    run("first", share=share)
    assert run("warmer", share=share, temperature=1.5)[1] == 2
    assert run("more", share=share, report_samples=9)[1] == 2
    assert len(list((tmp_path / "shared").iterdir())) == 6


def test_damaged_samples_are_not_taken_and_replaced(run, tmp_path):
    share = tmp_path / "shared"
    rows, _ = run("first", share=str(share))
    whole = {file.name: file.read_bytes() for file in share.iterdir()}
    for file in share.iterdir():
        file.write_bytes(file.read_bytes().replace(b'"sample"', b'"simple"', 1))
    assert run("second", share=str(share)) == (rows, 2)
    assert {file.name: file.read_bytes() for file in share.iterdir()} == whole


def test_a_place_that_is_none_is_refused_before_anything_is_done(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"evaluation.share '.*file' cannot be made: .*; choose another"):
        run("first", share=str(tmp_path / "file"))
    assert not (tmp_path / "first").exists()
