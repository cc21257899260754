"""owpo export: an ordinary model folder of a run's version or of an adapter."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from owpo import exporting
from owpo.cli import main
from owpo.policy import response_logprobs
from owpo.policy.load import load_policy
from owpo.recipes import build_config
from owpo.run import train


@pytest.fixture
def lora_run(recipe_data):
    recipe_data["model"]["lora"] = {"rank": 4, "alpha": 8}
    recipe_data["ratchet"] = {"protocol": "best_of_stage", "stages": 2, "steps": 2}
    recipe_data["rollout"] |= {"dynamic_sampling": False, "group_size": 32}
    return train(build_config(recipe_data, "test"))


def logp(folder: Path) -> torch.Tensor:
    policy = load_policy(str(folder))
    with torch.no_grad():
        return response_logprobs(policy, exporting._some_tokens(policy), 1.0)[0]


@pytest.mark.parametrize("way", ["run", "version", "adapter"])
def test_an_adapter_becomes_an_ordinary_folder(lora_run, tmp_path, capsys, monkeypatch, way):
    last = lora_run.rows[-1]["version"]
    first = next(row["version"] for row in lora_run.rows[1:])
    id = {"run": last, "version": first, "adapter": last}[way]
    source = lora_run.version_folder(id)
    words = {"run": [lora_run.folder], "version": [lora_run.folder, "--version", first], "adapter": [source]}
    target = tmp_path / "new" / "merged"
    capsys.readouterr()
    assert main(["export", *map(str, words[way]), "--to", str(target), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["merged"] and told["folder"] == str(target) and told["source"] == str(source)
    assert 0 < told["difference"] < 1e-5
    assert not any("adapter" in path.name or path.name == "version.json" for path in target.iterdir())
    torch.testing.assert_close(logp(target), logp(source), atol=1e-5, rtol=0)
    assert (logp(target) - logp(lora_run.version_folder("base"))).abs().max() > 1e-3
    monkeypatch.chdir(source)
    ids = torch.tensor([[2, 3, 4, 5]])
    with torch.no_grad():
        theirs = AutoPeftModelForCausalLM.from_pretrained(".").merge_and_unload()(input_ids=ids).logits
        ours = AutoModelForCausalLM.from_pretrained(target)(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_whole_version_is_copied(finished, tmp_path, capsys):
    version = finished.rows[-1]["version"]
    source, target = finished.version_folder(version), tmp_path / "copy"
    capsys.readouterr()
    assert main(["export", str(finished.folder), "--to", str(target)]) == 0
    assert capsys.readouterr().out == f"{source} copied to {target}\n"
    names = {path.name for path in source.iterdir()} - {"version.json"}
    assert {path.name for path in target.iterdir()} == names
    assert all((target / name).read_bytes() == (source / name).read_bytes() for name in names)


def test_what_cannot_be_exported(lora_run, tmp_path, capsys, tiny_model, monkeypatch):
    run, target = str(lora_run.folder), tmp_path / "merged"

    def refused(*words: str, code: int = 2) -> str:
        assert main(["export", *words, "--to", str(target)]) == code
        return capsys.readouterr().err

    assert "the run needs the weights" in refused(run, "--version", "stage9")
    assert "there is no folder" in refused(str(tmp_path / "nothing"))
    assert "neither a run folder nor an adapter" in refused(str(tiny_model))
    adapter = lora_run.version_folder(lora_run.rows[-1]["version"])
    assert "is no run folder; leave it out" in refused(str(adapter), "--version", "base")
    result = (lora_run.folder / "result.json").rename(tmp_path / "result.json")
    assert "is not done; name one of its versions by --version: base, stage1-step2" in refused(run)
    result.rename(lora_run.folder / "result.json")
    with monkeypatch.context() as patch:
        real = importlib.util.find_spec
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else real(name))
        for source in (run, str(adapter)):
            assert refused(source) == "owpo: LoRA needs the package peft: pip install 'owpo[lora]'\n"
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_TOLERANCE", 1e-12)
        assert "nothing was written" in refused(run, code=1)
    assert not target.exists()
    assert list(tmp_path.glob(".merged*")) == []
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert "is damaged" in refused(run)
    target.mkdir()
    assert "exists; name another folder by --to" in refused(run)
