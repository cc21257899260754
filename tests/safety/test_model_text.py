"""What a model writes is judged, kept and shown; it is never run, and it cannot drive the terminal."""

import io
import json
import unicodedata

import pytest
from conftest import as_toml, write_problems
from rich.console import Console

from owpo.cli import main
from owpo.policy.model import Policy
from owpo.printable import printable
from owpo.terminal import Terminal

HOSTILE = [
    "<script>fetch('//x')</script><img src=x onerror=alert(1)> 5",
    "\x1b]0;owned\x07\x1b[2J\x1b[31m\\boxed{5}\x1b[8m",
    "\x9b2J\u202e5\r\x08\x00",
    "[link=file:///etc/passwd]x[/link] [/red] [bold \\boxed{[/]}",
    "__import__('os').system('touch MARKER')",
    "\\boxed{__import__('os').system('touch MARKER')}",
    "\\boxed{\\text{__import__('os').system('touch MARKER')}}",
    "Answer: __import__('pathlib').Path('MARKER').touch()",
    "$$().__class__.__base__.__subclasses__()$$ \\boxed{open('MARKER','w')}",
    "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}",
    "5",
]
KINDS = ["exact", "numeric", "math"]


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.fixture
def hostile(marker, monkeypatch):
    """The texts, and a model that writes nothing else."""
    texts = [text.replace("MARKER", str(marker)) for text in HOSTILE]

    def decode_all(self, responses):
        return [texts[i % len(texts)] for i in range(len(responses.lengths))]

    monkeypatch.setattr(Policy, "decode_all", decode_all)
    return texts


def shown(capsys) -> str:
    """All that reached the terminal, as one line; it holds no character that acts."""
    captured = capsys.readouterr()
    told = captured.out + captured.err.replace("\rWriting", "Writing")  # a progress bar of the fixtures
    assert [char for char in told if unicodedata.category(char) in ("Cc", "Cf") and char not in "\n\t"] == []
    assert "Traceback" not in told
    return " ".join(told.split())


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_it(recipe_data, tmp_path, marker, hostile, capsys, kind):
    recipe_data["verifier"] = {"kind": kind}
    recipe_data["ratchet"]["steps"] = 1
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(recipe_data), encoding="utf-8")
    assert main(["train", str(recipe), "--run.rollouts_per_step", "64"]) == 0
    assert "report set" in shown(capsys)
    assert not marker.exists()
    lines = (tmp_path / "run" / "rollouts.jsonl").read_bytes().split(b"\n")[:-1]
    assert {json.loads(line)["response"] for line in lines} == set(hostile)  # as written


def test_a_run_that_it_ends_shows_examples_of_it(recipe_data, tmp_path, hostile, capsys):
    """A grader that fails with the response in its message; the message is part of what the user is told."""
    grader = tmp_path / "grader.py"
    grader.write_text("def grade(response, answer):\n    raise ValueError(response)\n", encoding="utf-8")
    recipe_data["verifier"] = {"kind": "function", "path": f"{grader}:grade", "workers": 1}
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(recipe_data), encoding="utf-8")
    assert main(["train", str(recipe)]) == 1
    told = shown(capsys)
    assert "100% of the verdicts are timeouts or errors" in told
    assert "\\x1b]0;owned" in told
    recipe_data["verifier"]["max_failed_share"] = 1.0
    recipe.write_text(as_toml(recipe_data), encoding="utf-8")
    assert main(["train", str(recipe), "--run.folder", str(tmp_path / "warned")]) == 0
    assert "are timeouts or errors, and count as wrong" in shown(capsys)


def hostile_problems(path):
    """Ids and prompts that a stranger chose."""
    ids = ["\x1b[2Ja", "[/red]b", "<b>c</b>", "d\u202e"]
    return write_problems(
        path, [{"id": id, "prompt": f"{n}={id}", "answer": "5"} for n, id in enumerate(ids)]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_measuring_and_comparing_it(byte_model, tmp_path, marker, hostile, capsys, monkeypatch, kind):
    data = hostile_problems(tmp_path / "p.jsonl")
    words = [str(byte_model), "--data", str(data), "--verifier", kind, "-k", "6", "--max-new-tokens", "2"]
    assert main(["eval", *words, "--out", str(tmp_path / "a")]) == 0
    hostile[:] = ["5"] * len(hostile)
    assert main(["eval", *words, "--out", str(tmp_path / "b")]) == 0
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "gained, the largest change first" in shown(capsys)
    assert not marker.exists()


def test_looking_at_a_strangers_problems(tmp_path, capsys):
    data = hostile_problems(tmp_path / "p.jsonl")
    assert main(["data", "inspect", str(data), "--against", str(data)]) == 0
    assert "\\x1b[2Ja" in shown(capsys)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", HOSTILE[:-1])
def test_verifying_it(marker, capsys, kind, text):
    response = text.replace("MARKER", str(marker))
    assert main(["verify", kind, "--response", response, "--answer", "7"]) == 0
    assert not shown(capsys).startswith("correct")
    assert main(["verify", kind, "--response", response, "--answer", response]) in (0, 2)
    shown(capsys)
    assert not marker.exists()


def test_a_set_whose_name_looks_like_markup_is_shown_as_it_is(byte_model, tmp_path, capsys):
    data = write_problems(tmp_path / "[bold]x[red].jsonl", [{"prompt": "1=", "answer": "1"}])
    words = ["--data", str(data), "-k", "1", "--max-new-tokens", "2", "--out", str(tmp_path / "out")]
    assert main(["eval", str(byte_model), *words]) == 0
    assert "[bold]x[red]: 1 problems x 1 samples" in shown(capsys)


def test_a_progress_bar_shows_a_name_as_it_is():
    file = io.StringIO()
    terminal = Terminal(Console(file=file, force_terminal=True, width=120))
    with terminal.phase("evaluating on [/red]\x1b]0;owned\x07", 2) as advance:
        advance(1)
    assert "evaluating on [/red]\\x1b]0;owned\\x07" in file.getvalue()


def test_printable_keeps_text_and_escapes_what_acts():
    text = "né π 日本語 ± [x]\n\t\\boxed{1}"
    assert printable(text) == text
    assert (
        printable("a\x1b[2Jb\r\x9b\u202e\u200b\x00\ud800") == "a\\x1b[2Jb\\r\\x9b\\u202e\\u200b\\x00\\ud800"
    )
