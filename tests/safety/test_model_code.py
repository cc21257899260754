"""What comes with a model is data: its Python files do not run unless asked for, its chat template cannot reach out."""

import json

import pytest
from bombs import source_bomb
from conftest import as_toml, write_byte_model, write_tiny_model
from transformers import dynamic_module_utils

from owpo.cli import main
from owpo.policy.load import load_policy

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}",
    "{{ lipsum.__globals__['os'].popen('touch MARKER').read() }}",
    "{{ self.__init__.__globals__.__builtins__.open('MARKER', 'w') }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('MARKER', 'w') }}",
    "{{ (messages|attr('__class__')|attr('__base__')).__subclasses__() }}",
    "{% include '/etc/passwd' %}",
    "{{ 'x' * 10 ** 3 if raise_exception('no') else '' }}",
]


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.fixture
def model(tmp_path):
    return write_tiny_model(tmp_path / "model")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def run(recipe_data, tmp_path, model, *words):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml({**recipe_data, "model": {"path": str(model)}}), encoding="utf-8")
    return main(["train", str(recipe), "--ratchet.steps", "1", *words])


def test_a_model_whose_class_is_in_its_folder_is_refused_until_asked_for(
    recipe_data, tmp_path, model, marker, capsys, monkeypatch
):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    (model / "modeling_bomb.py").write_text(source_bomb(marker, "Config", "Model"))
    edit(
        model / "config.json",
        model_type="bomb",
        auto_map={"AutoConfig": "modeling_bomb.Config", "AutoModelForCausalLM": "modeling_bomb.Model"},
    )
    assert run(recipe_data, tmp_path, model) == 2
    assert "model" in capsys.readouterr().err
    assert main(["eval", str(model), "--data", recipe_data["problems"]["train"]["path"]]) == 2
    assert main(["data", "inspect", recipe_data["problems"]["train"]["path"], "--model", str(model)]) in (
        0,
        2,
    )
    assert "Traceback" not in capsys.readouterr().err
    assert not marker.exists()
    assert not (tmp_path / "run").exists()
    with pytest.raises(AttributeError):  # the bomb is no real model; but its file was imported
        load_policy(str(model), trust_remote_code=True)
    assert marker.exists()


def test_a_known_model_with_code_beside_it_runs_without_the_code(recipe_data, tmp_path, model, marker):
    """Of a known type, config.json and tokenizer_config.json that name code in the folder are read as data."""
    (model / "bomb.py").write_text(source_bomb(marker, "Config", "Model", "Tokenizer", "TokenizerFast"))
    edit(
        model / "config.json",
        auto_map={"AutoConfig": "bomb.Config", "AutoModelForCausalLM": "bomb.Model"},
        custom_pipelines={"text-generation": {"impl": "bomb.Model"}},
    )
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(source_bomb(marker))
    assert run(recipe_data, tmp_path, model) == 0
    assert not marker.exists()
    assert list((tmp_path / "run").rglob("*.py")) == []
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["trust_remote_code"] is False
    start = json.loads((tmp_path / "run" / "environment.jsonl").read_text())
    assert start["model_code_may_run"] is False


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoTokenizer": ["bomb.Tokenizer", "bomb.TokenizerFast"]}},
        {"auto_map": ["bomb.Tokenizer", None], "tokenizer_class": "Tokenizer"},
        {"tokenizer_class": "bomb.Tokenizer"},
        {"tokenizer_class": "os.system"},
        {"tokenizer_class": "../bomb"},
    ],
    ids=str,
)
def test_a_tokenizer_that_names_a_class_of_its_own_does_not_get_it(
    recipe_data, tmp_path, model, marker, capsys, changes
):
    """It is refused, or the tokenizer that tokenizer.json holds is used."""
    (model / "bomb.py").write_text(source_bomb(marker, "Tokenizer", "TokenizerFast"))
    edit(model / "tokenizer_config.json", **changes)
    assert run(recipe_data, tmp_path, model) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert not marker.exists()


def test_code_that_was_asked_for_is_on_record(recipe_data, tmp_path, model):
    assert run(recipe_data, tmp_path, model, "--model.trust_remote_code", "true") == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["trust_remote_code"] is True
    start = json.loads((tmp_path / "run" / "environment.jsonl").read_text())
    assert start["model_code_may_run"] is True


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_chat_template_cannot_leave_its_sandbox(recipe_data, tmp_path, marker, capsys, monkeypatch, escape):
    monkeypatch.chdir(tmp_path)
    model = write_byte_model(tmp_path / "chat")
    template = escape.replace("MARKER", str(marker)) + "{{ messages[0]['content'] }}"
    (model / "chat_template.jinja").write_text(template)
    recipe_data["problems"]["template"] = "chat"
    assert run(recipe_data, tmp_path, model) == 2
    error = capsys.readouterr().err
    assert "the tokenizer's chat template fails" in error
    assert "Traceback" not in error
    data = recipe_data["problems"]["train"]["path"]
    assert (
        main(["eval", str(model), "--data", data, "--template", "chat", "-k", "1", "--max-new-tokens", "2"])
        == 2
    )
    assert not marker.exists()
