"""Measuring models: the run's own numbers again, exactly; interruptions; comparisons; wrong input."""

import json
import re
import subprocess
import sys

import pytest
from conftest import as_toml, write_byte_model, write_problems, write_tiny_model

import owpo
from owpo.cli import main
from owpo.errors import InputError, Interrupted
from owpo.evaluation import samples as samples_module
from owpo.recipes import build_config
from owpo.run import train
from owpo.scores import compare, evaluate
from owpo.stop import StopSignal


def row_of(run, version):
    return next(row for row in run.rows if row["version"] == version)


def test_the_runs_own_numbers_to_the_digit(finished, tmp_path):
    for row in finished.rows:
        model = finished.version_folder(row["version"])
        scores = evaluate(model, like=finished.folder, out=tmp_path / f"eval-{row['version']}")
        told = scores.sets["report"].to_json()
        assert told == {key: row[key] for key in told}
        mine = (scores.folder / "report.jsonl").read_bytes()
        assert mine == (finished.folder / "report" / row["version"] / "report.jsonl").read_bytes()


def test_another_seed_gives_other_samples_inside_the_interval(finished, tmp_path):
    model = finished.version_folder("base")
    row = row_of(finished, "base")
    scores = evaluate(model, like=finished.folder, seed=99, out=tmp_path / "other")
    mine = (scores.folder / "report.jsonl").read_bytes()
    assert mine != (finished.folder / "report" / "base" / "report.jsonl").read_bytes()
    assert row["low"] <= scores.sets["report"].accuracy.mean <= row["high"]


def test_an_interrupted_evaluation_goes_on(finished, tmp_path, monkeypatch):
    model = finished.version_folder("base")
    whole = evaluate(model, like=finished.folder, out=tmp_path / "whole")
    checks = []

    def check(self, *_):
        checks.append(1)
        if len(checks) == 3:
            raise Interrupted("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "check", check)
        with pytest.raises(Interrupted):
            evaluate(model, like=finished.folder, out=tmp_path / "stopped")
    assert 0 < len(samples_module.read_samples(tmp_path / "stopped" / "report.jsonl")) < 54
    with pytest.raises(InputError, match="is not finished; go on with it"):
        compare(tmp_path / "whole", tmp_path / "stopped")
    again = evaluate(model, like=finished.folder, out=tmp_path / "stopped")
    assert again.sets["report"].to_json() == whole.sets["report"].to_json()
    for name in ("report.jsonl", "result.json", "evaluation.json"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_an_interrupted_closing_table_goes_on(recipe_data, tmp_path, monkeypatch):
    """The stop comes while the second model is measured; what is sampled already is not sampled again."""
    whole = train(build_config(recipe_data, "test"))
    recipe_data["run"]["folder"] = str(tmp_path / "stopped")
    real, measured = samples_module.draw_samples, []

    def draw(path, *args, **kwargs):
        measured.append(path.parent.name)
        if len(measured) == 2:
            raise Interrupted("SIGTERM")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("owpo.training.session.draw_samples", draw)
        with pytest.raises(Interrupted):
            train(build_config(recipe_data, "test"))
    base = tmp_path / "stopped" / "report" / "base" / "report.jsonl"
    before = base.stat().st_mtime_ns
    assert owpo.resume(tmp_path / "stopped").rows == whole.rows
    assert base.stat().st_mtime_ns == before


def test_several_sets_presets_and_every_number(tmp_path, capsys, byte_model):
    one = write_problems(tmp_path / "one.jsonl", [{"prompt": f"{n}?", "answer": str(n)} for n in range(3)])
    two = write_problems(
        tmp_path / "two.jsonl", [{"prompt": f"is it {n}", "answer": str(n)} for n in range(4)]
    )
    words = ["eval", str(byte_model), "--data", str(one), str(two), "-k", "4", "--max-new-tokens", "4"]
    words += ["--out", str(tmp_path / "out"), "--pass-at", "1", "3"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["sets"]) == ["one", "two"]
    for found, count in zip(told["sets"].values(), (3, 4), strict=True):
        assert (found["num_problems"], found["samples_per_problem"]) == (count, 4)
        assert list(found["pass_at"]) == ["1", "3"]
        assert set(found["verdicts"]) == {"correct", "wrong", "unparseable", "timeout", "error"}
        assert found["sampling_low"] <= found["accuracy"] <= found["sampling_high"]
    assert main(words) == 0
    out = capsys.readouterr().out
    for label in ("avg@4", "over problems", "sampling only", "pass@3", "maj@4", "unparseable", "truncated"):
        assert label in out


def test_the_papers_protocol_is_the_default(byte_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1+1=", "answer": "2"}])
    scores = evaluate(byte_model, str(path), max_new_tokens=2)
    sampling = json.loads((scores.folder / "evaluation.json").read_text())["sets"]["p"]["sampling"]
    assert (sampling["group_size"], sampling["temperature"], sampling["top_p"]) == (32, 1.0, 0.7)
    assert scores.folder.parent.name == "evals"


def test_an_unlimited_response_fills_the_context(tmp_path):
    model = write_byte_model(tmp_path / "model", context=40)
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1+1=", "answer": "2"}])
    scores = evaluate(model, str(path), k=2, out=tmp_path / "out")
    sampling = json.loads((scores.folder / "evaluation.json").read_text())["sets"]["p"]["sampling"]
    assert sampling["max_new_tokens"] == 40 - len("1+1=")


def test_a_folder_of_another_evaluation_is_refused(byte_model, tmp_path):
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1+1=", "answer": "2"}])
    settings = {"k": 2, "max_new_tokens": 2, "out": tmp_path / "out"}
    evaluate(byte_model, str(path), **settings)
    with pytest.raises(InputError, match=r"other settings .*group_size was 2, is now 3"):
        evaluate(byte_model, str(path), **settings | {"k": 3})
    other = write_byte_model(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"model_hash was"):
        evaluate(other, str(path), **settings)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no problem set; name one by --data"),
        (["--data", "aime42"], r"no problem set 'aime42'.*Did you mean 'aime2[45]'"),
        (["--data", "missing.jsonl"], "missing.jsonl"),
        (["--data", "P", "P"], "two sets are called 'p'"),
        (["--data", "P", "-k", "4", "--pass-at", "8"], "pass@8 needs 1 <= j <= k, and k = 4; sample more"),
        (["--data", "P", "-k", "0"], "k = 0 must be greater than or equal to 1"),
        (["--data", "P", "--temperature", "-1"], "temperature = -1.0 must be greater than or equal to 0"),
        (["--data", "P", "--top-p", "1.5"], "top_p = 1.5 must be less than or equal to 1"),
        (["--data", "P", "--max-new-tokens", "0"], "max_new_tokens = 0 must be greater than or equal to 1"),
        (["--data", "P", "--temperature", "1e-40", "-k", "1"], "temperature = 1e-40 is as good as greedy"),
        (["--data", "P", "--temperature", "0"], "temperature 0 gives the same response every time"),
        (["--data", "P", "--template", "chta"], "unknown prompt template 'chta'.*Did you mean 'chat'"),
        (["--data", "P", "--verifier", "maths"], "is not a verifier"),
        (["--data", "P", "--protocol", "papr"], "unknown protocol 'papr'. Did you mean 'paper'"),
        (["--data", "{ kind = 'dataset', preset = 'aime2' }"], "preset = 'aime2' is unknown"),
        (["--data", "P", "--max-new-tokens", "5000"], "leaves .* beside the response"),
        (["--data", "EMPTY"], "holds no row"),
        (
            ["--data", "NOGOLD"],
            "no column 'prompt'; those found are 'question', 'gold'. Name the right one by columns",
        ),
        (["--like", "nowhere"], "no recipe 'nowhere'"),
    ],
)
def test_wrong_input_is_a_sentence_and_leaves_nothing_behind(
    byte_model, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    write_problems(tmp_path / "p.jsonl", [{"prompt": "1+1=", "answer": "2"}])
    write_problems(tmp_path / "empty.jsonl", [])
    write_problems(tmp_path / "nogold.jsonl", [{"question": "1+1=", "gold": "2"}])
    names = {"P": "p.jsonl", "EMPTY": "empty.jsonl", "NOGOLD": "nogold.jsonl"}
    assert main(["eval", str(byte_model), *(names.get(word, word) for word in words)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "evals").exists()


def test_a_chat_template_that_is_not_there(tiny_model, tmp_path, capsys):
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1+1=", "answer": "2"}])
    words = ["eval", str(tiny_model), "--data", str(path), "--template", "chat", "--max-new-tokens", "4"]
    assert main(words) == 2
    assert re.search(
        "'chat' needs a tokenizer that has a chat template; choose another", capsys.readouterr().err
    )


def test_a_chat_template_is_encoded_as_it_stands(byte_model, tmp_path, monkeypatch):
    """The special tokens of the template become tokens, once each."""
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1+1=", "answer": "2"}])
    seen = []
    real = samples_module.answer_batches

    def watch(sampler, problems, *args, **kwargs):
        seen.extend(sampler.policy.encode(p.prompt, special_tokens=not p.is_chat) for p in problems)
        return real(sampler, problems, *args, **kwargs)

    monkeypatch.setattr(samples_module, "answer_batches", watch)
    evaluate(byte_model, str(path), template="chat", k=1, max_new_tokens=2, out=tmp_path / "out")
    assert seen[0][0] == 1  # <|user|>
    assert seen[0][-1] == 2  # <|assistant|>
    assert len(seen[0]) == len("1+1=") + 2


def test_unreadable_answers_are_left_out_or_refused(byte_model, tmp_path, caplog):
    lines = [{"id": f"p{n}", "prompt": f"{n}?", "answer": str(n)} for n in range(200)]
    lines[7]["answer"] = "seven"
    path = write_problems(tmp_path / "p.jsonl", lines)
    scores = evaluate(byte_model, str(path), k=1, max_new_tokens=1, out=tmp_path / "out")
    assert scores.sets["p"].accuracy.num_problems == 199
    assert "p7" not in scores.sets["p"].problems
    lines[8]["answer"] = lines[9]["answer"] = "nine"
    path = write_problems(tmp_path / "q.jsonl", lines)
    with pytest.raises(
        InputError, match=r"3 of 200 problems have an answer that .*'p7' has the answer 'seven'"
    ):
        evaluate(byte_model, str(path), k=1, max_new_tokens=1, out=tmp_path / "more")


def test_the_command_is_stopped_and_told_to_go_on(tmp_path, byte_model, monkeypatch, capsys):
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1+1=", "answer": "2"}])

    def check(self, *_):
        raise Interrupted("SIGTERM")

    monkeypatch.setattr(StopSignal, "check", check)
    words = ["eval", str(byte_model), "--data", str(path), "-k", "2", "--max-new-tokens", "2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 75
    assert "go on by the same command" in capsys.readouterr().err


def test_the_public_face():
    done = subprocess.run(
        [sys.executable, "-c", "import owpo; print(owpo.evaluate.__name__, owpo.compare.__name__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["evaluate", "compare"]


def test_a_tiny_model_of_another_vocabulary(tmp_path):
    model = write_tiny_model(tmp_path / "model")
    path = write_problems(tmp_path / "p.jsonl", [{"id": "odd", "prompt": "x=", "answer": "2"}])
    with pytest.raises(InputError, match=r"problem 'odd' of p: .*cannot encode 'x='"):
        evaluate(model, str(path), k=1, out=tmp_path / "out")


def test_a_damaged_file_of_samples_is_told(byte_model, tmp_path):
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1+1=", "answer": "2"}])
    settings = {"k": 4, "max_new_tokens": 2, "out": tmp_path / "out"}
    evaluate(byte_model, str(path), **settings)
    lines = (tmp_path / "out" / "p.jsonl").read_text().splitlines()
    for damaged in (
        "{broken",
        json.dumps({"problem": "x"}),
        json.dumps({**json.loads(lines[1]), "verdict": "good"}),
        json.dumps({**json.loads(lines[1]), "verdict": "correct"}),
        lines[1].replace('"tokens": 2', '"tokens": 3'),
        json.dumps({key: value for key, value in json.loads(lines[1]).items() if key != "seal"}),
        lines[2],
    ):
        (tmp_path / "out" / "p.jsonl").write_text("\n".join([lines[0], damaged, lines[2]]) + "\n")
        with pytest.raises(
            InputError, match=r"p.jsonl is damaged .*remove it, and its samples are drawn again"
        ):
            evaluate(byte_model, str(path), **settings)


def test_a_folder_that_cannot_be_made(byte_model, tmp_path):
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1+1=", "answer": "2"}])
    with pytest.raises(InputError, match=r"cannot be made: .*choose another by --out"):
        evaluate(byte_model, str(path), k=1, max_new_tokens=2, out=path / "inside")


def test_an_edited_grader_judges_again_what_was_sampled(byte_model, tmp_path):
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": f"{n}=", "answer": str(n)} for n in range(4)])
    grader = tmp_path / "grader.py"
    grader.write_text("def grade(response, answer): return False\n")
    settings = {"k": 4, "max_new_tokens": 2, "batch_size": 4, "out": tmp_path / "out"}
    settings["verifier"] = f'{{ kind = "function", path = "{grader}:grade" }}'
    first = evaluate(byte_model, str(path), **settings)
    texts = [s.response for s in samples_module.read_samples(first.folder / "p.jsonl")]
    lines = (first.folder / "p.jsonl").read_text().splitlines(keepends=True)
    (first.folder / "p.jsonl").write_text("".join(lines[:9]))  # as after a kill
    grader.write_text("def grade(response, answer): return True\n")
    again = evaluate(byte_model, str(path), **settings)
    assert (first.sets["p"].accuracy.mean, again.sets["p"].accuracy.mean) == (0.0, 1.0)
    assert [s.response for s in samples_module.read_samples(again.folder / "p.jsonl")] == texts
    assert evaluate(byte_model, str(path), **settings).sets["p"].accuracy.mean == 1.0


def test_a_grader_that_is_edited_there_and_back_around_a_kill_mixes_nothing(
    byte_model, tmp_path, monkeypatch
):
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": f"{n}=", "answer": str(n)} for n in range(4)])
    grader = tmp_path / "grader.py"
    wrong, right = (f"def grade(response, answer): return {verdict}\n" for verdict in (False, True))
    grader.write_text(wrong)
    settings = {"k": 4, "max_new_tokens": 2, "out": tmp_path / "out"}
    settings["verifier"] = f'{{ kind = "function", path = "{grader}:grade" }}'
    evaluate(byte_model, str(path), **settings)
    grader.write_text(right)
    with monkeypatch.context() as patch:  # stopped when all is judged again, before that is noted

        def stopped(*_):
            raise Interrupted("SIGTERM")

        patch.setattr("owpo.scores.evaluation_of", stopped)
        with pytest.raises(Interrupted):
            evaluate(byte_model, str(path), **settings)
    with pytest.raises(InputError, match="is not finished"):
        compare(tmp_path / "out", tmp_path / "out")
    grader.write_text(wrong)
    assert evaluate(byte_model, str(path), **settings).sets["p"].accuracy.mean == 0.0


def test_like_a_run_with_another_template_has_that_templates_stops(recipe_data, tmp_path, byte_model):
    recipe_data["model"]["path"] = str(byte_model)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(recipe_data), encoding="utf-8")
    evaluate(byte_model, like=recipe, template="boxed", out=tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert settings["sets"]["report"]["sampling"]["stop"] == ["\nQuestion:"]
    with pytest.raises(InputError, match="protocol 'greedy' and like each say how to sample"):
        evaluate(byte_model, like=recipe, protocol="greedy")


def test_another_name_of_the_same_weights_goes_on(byte_model, tmp_path):
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1=", "answer": "1"}])
    settings = {"k": 2, "max_new_tokens": 2, "out": tmp_path / "out"}
    first = evaluate(byte_model, str(path), **settings)
    assert evaluate(f"{byte_model}/", path, **settings).sets["p"].to_json() == first.sets["p"].to_json()


def test_a_kill_before_the_settings_were_written_blocks_nothing(byte_model, tmp_path):
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1=", "answer": "1"}])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".evaluation.json.tmp").write_text("{")
    evaluate(byte_model, str(path), k=2, max_new_tokens=2, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": "4"}, "k = '4' must be a valid integer"),
        ({"k": 2.5}, "k = 2.5 must be a valid integer"),
        ({"tempereture": 1.0}, "tempereture is unknown"),
        ({"stop": "ab"}, "stop = 'ab' must be a valid list"),
        ({"seed": "x"}, "seed = 'x' must be a valid integer"),
    ],
)
def test_wrong_types_are_refused_before_anything_is_written(byte_model, tmp_path, changes, message):
    path = write_problems(tmp_path / "p.jsonl", [{"prompt": "1=", "answer": "1"}])
    with pytest.raises(InputError, match=message):
        evaluate(byte_model, path, out=tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()
