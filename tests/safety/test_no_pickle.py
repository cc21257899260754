"""A pickle runs code when it is read. None is: not where one is planted, and no line of the package could."""

import ast
import gzip
import json
import pickle
from pathlib import Path

import pytest
import torch
from bombs import pickled_bomb
from conftest import as_toml, write_tiny_model

import owpo
from owpo.cli import main
from owpo.disk.files import file_hashes
from owpo.disk.sealed import read_sealed, write_sealed
from owpo.recipes import build_config
from owpo.run import resume, train

PACKAGE = Path(owpo.__file__).parent
UNPICKLING_MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "multiprocessing", "yaml",
}  # fmt: skip
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "numpy.load",
    "np.load",
    "os.system",
    "os.popen",
}


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.fixture
def model(tmp_path):
    return write_tiny_model(tmp_path / "model")


def run_words(recipe_data, tmp_path, model):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml({**recipe_data, "model": {"path": str(model)}}), encoding="utf-8")
    return ["train", str(recipe), "--ratchet.steps", "1"]


def test_the_bomb_works(marker):
    pickle.loads(pickled_bomb(marker))
    assert marker.exists()


def test_no_line_of_the_package_can_read_a_pickle_or_run_a_text():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                found += [
                    f"{place} {a.name}" for a in node.names if a.name.split(".")[0] in UNPICKLING_MODULES
                ]
            elif isinstance(node, ast.ImportFrom):
                if node.module.split(".")[0] in UNPICKLING_MODULES:
                    found.append(f"{place} {node.module}")
            elif isinstance(node, ast.Call):
                found += [f"{place} {ast.unparse(node.func)}()"] * (ast.unparse(node.func) in FORBIDDEN_CALLS)
                for keyword in node.keywords:
                    told = f"{keyword.arg}={ast.unparse(keyword.value)}"
                    if told in (
                        "trust_remote_code=True", "weights_only=False", "allow_pickle=True", "shell=True",
                        "use_safetensors=False",
                    ):  # fmt: skip
                        found.append(f"{place} {told}")
    assert found == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00001.bin"])
def test_weights_that_are_a_pickle_are_refused(recipe_data, tmp_path, model, marker, capsys, name):
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickled_bomb(marker))
    assert main(run_words(recipe_data, tmp_path, model)) == 2
    assert (
        "holds its weights as pickle (pytorch_model.bin), which can run code when read"
        in capsys.readouterr().err
    )
    assert main(["eval", str(model), "--data", recipe_data["problems"]["train"]["path"]]) == 2
    assert not marker.exists()
    assert not (tmp_path / "run").exists()


def test_pickles_beside_the_weights_are_left_alone(recipe_data, tmp_path, model, marker):
    names = (
        "pytorch_model.bin",
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "vocab.pkl",
    )
    for name in names:
        (model / name).write_bytes(pickled_bomb(marker))
    assert main(run_words(recipe_data, tmp_path, model)) == 0
    assert not marker.exists()
    kept = {file.name for file in (tmp_path / "run").rglob("*")}
    assert kept.isdisjoint(names)


def test_weights_whose_file_is_a_pickle_under_another_name_are_refused(
    recipe_data, tmp_path, model, marker, capsys
):
    (model / "model.safetensors").write_bytes(pickled_bomb(marker))
    assert main(run_words(recipe_data, tmp_path, model)) == 2
    assert "the file is damaged, get it again" in capsys.readouterr().err
    torch.save({"w": torch.zeros(1)}, model / "model.safetensors")
    assert main(run_words(recipe_data, tmp_path, model)) == 2
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_checkpoint_exchanged_for_a_pickle_is_passed_over(recipe_data, tmp_path, marker, caplog, name):
    folder = train(build_config(recipe_data, "test")).folder
    (folder / "result.json").unlink()
    newest = max((folder / "checkpoints").glob("0*"))
    (newest / name).write_bytes(pickled_bomb(marker))
    resume(folder)
    assert f"checkpoint {newest.name} is damaged ({name} has other bytes than were written)" in caplog.text
    assert not marker.exists()


def test_a_pickle_with_a_fitting_hash_is_refused_too(recipe_data, tmp_path, marker, capsys):
    folder = train(build_config(recipe_data, "test")).folder
    (folder / "result.json").unlink()
    manifest = folder / "checkpoints" / "manifest.json"
    listed = read_sealed(manifest)
    newest = folder / "checkpoints" / listed["checkpoints"][-1]["name"]
    (newest / "optimizer.safetensors").write_bytes(pickled_bomb(marker))
    listed["checkpoints"][-1]["sha256"] = file_hashes(newest)
    write_sealed(manifest, listed)
    assert main(["resume", str(folder)]) == 2
    assert f"{newest}/optimizer.safetensors is no safetensors file" in capsys.readouterr().err
    assert not marker.exists()


def test_a_pickle_among_the_versions_is_refused(recipe_data, marker, capsys):
    folder = train(build_config(recipe_data, "test")).folder
    (folder / "result.json").unlink()
    (folder / "versions" / "base" / "pytorch_model.bin").write_bytes(pickled_bomb(marker))
    assert main(["resume", str(folder)]) == 2
    assert "pytorch_model.bin was put into it" in capsys.readouterr().err
    assert not marker.exists()


def test_what_a_run_keeps_is_safetensors_and_json(recipe_data):
    """Nothing that a run writes could be a pickle, so nobody after it has to trust one."""
    folder = train(build_config(recipe_data, "test")).folder
    names = {file.name for file in folder.rglob("*") if file.is_file()}
    assert {name.rsplit(".", 1)[1] for name in names} == {"json", "jsonl", "gz", "safetensors", "lock"}
    for file in folder.rglob("*.json"):
        json.loads(file.read_text(encoding="utf-8"))
    for file in folder.rglob("*.gz"):
        assert all(
            isinstance(json.loads(line), dict) for line in gzip.decompress(file.read_bytes()).splitlines()
        )
