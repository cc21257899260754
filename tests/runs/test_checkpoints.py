"""Checkpoints are complete or not there; a damaged one costs the steps since the one before."""

import json

import pytest
import torch

from owpo.disk.logs import LogMark
from owpo.errors import InputError
from owpo.runs import checkpoints
from owpo.runs.checkpoints import Checkpoint, CheckpointStore, load_optimizer_tensors, optimizer_tensors
from owpo.runs.progress import Progress


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        weights={"w": torch.full((3,), float(step))},
        optimizer={"0.exp_avg": torch.full((3,), step / 2), "0.step": torch.tensor(float(step))},
        progress=Progress(total_steps=step, stage_best={"1": "stage1-step4"}),
        log_marks={"metrics": LogMark(step * 10, "ab" * 32)},
    )


@pytest.fixture
def store(tmp_path):
    return CheckpointStore.create(tmp_path / "checkpoints")


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_what_is_saved_comes_back(store):
    assert store.load_newest() is None
    store.save(checkpoint(3), keep=2)
    loaded = store.load_newest()
    assert torch.equal(loaded.weights["w"], torch.full((3,), 3.0))
    assert torch.equal(loaded.optimizer["0.exp_avg"], torch.full((3,), 1.5))
    assert loaded.progress == checkpoint(3).progress
    assert loaded.log_marks == {"metrics": LogMark(30, "ab" * 32)}


def test_only_the_last_ones_are_kept(store):
    for step in (1, 2, 3):
        store.save(checkpoint(step), keep=2)
    names = [entry["name"] for entry in store.listed()]
    assert names == ["000002", "000003"]
    assert sorted(p.name for p in store.folder.iterdir() if p.is_dir()) == names


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_byte_is_noticed_and_the_one_before_is_used(store, caplog, file):
    for step in (1, 2):
        store.save(checkpoint(step), keep=2)
    flip_a_byte(store.folder / "000002" / file)
    assert store.load_newest().progress.total_steps == 1
    assert "000002 is damaged" in caplog.text
    assert "using the one before it" in caplog.text


def test_a_damaged_one_does_not_push_out_the_last_good_one(store):
    for step in (1, 2):
        store.save(checkpoint(step), keep=2)
    flip_a_byte(store.folder / "000002" / "model.safetensors")
    assert store.load_newest().progress.total_steps == 1
    store.save(checkpoint(3), keep=2)
    flip_a_byte(store.folder / store.listed()[-1]["name"] / "model.safetensors")
    assert CheckpointStore(store.folder).load_newest().progress.total_steps == 1


def test_nothing_intact_is_an_error_and_not_a_fresh_start(store):
    store.save(checkpoint(1), keep=2)
    (store.folder / "000001" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no checkpoint .* is intact"):
        store.load_newest()


def test_a_damaged_or_lost_manifest_is_an_error_and_not_a_fresh_start(store):
    store.save(checkpoint(1), keep=2)
    text = store.manifest.read_text(encoding="utf-8")
    for damaged in ("{", text.replace('"total_steps": 1', '"total_steps": 2')):
        store.manifest.write_text(damaged, encoding="utf-8")
        with pytest.raises(InputError, match=r"manifest\.json is damaged"):
            store.load_newest()
    store.manifest.unlink()
    with pytest.raises(InputError, match=r"manifest\.json cannot be read.*restore it"):
        store.load_newest()


def test_a_crash_before_the_manifest_leaves_the_one_before(store, monkeypatch):
    store.save(checkpoint(1), keep=1)

    def crash(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_sealed", crash)
        with pytest.raises(KeyboardInterrupt):
            store.save(checkpoint(2), keep=1)
    assert store.load_newest().progress.total_steps == 1
    store.save(checkpoint(3), keep=1)
    assert store.load_newest().progress.total_steps == 3
    assert [p.name for p in store.folder.iterdir() if p.is_dir()] == ["000002"]


def test_a_checkpoint_of_another_format_is_refused_by_name(store, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 0)
    store.save(checkpoint(1), keep=1)
    monkeypatch.undo()
    with pytest.raises(InputError, match="format 0"):
        store.load_newest()


def test_the_optimiser_goes_on_exactly():
    """Three steps, save, load, three steps = six steps, bit for bit."""

    def weights_after(saved_at: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(4, 4))
        gradients = torch.randn(6, 4, 4)
        optimizer = torch.optim.AdamW([weight], lr=0.1)
        for step, gradient in enumerate(gradients):
            if step == saved_at:
                tensors = {k: v.clone() for k, v in optimizer_tensors(optimizer).items()}
                optimizer = torch.optim.AdamW([weight], lr=0.1)
                load_optimizer_tensors(optimizer, tensors)
            weight.grad = gradient
            optimizer.step()
        return weight.detach()

    assert torch.equal(weights_after(saved_at=3), weights_after(saved_at=None))


def test_progress_of_a_newer_version_is_refused():
    data = json.loads(json.dumps(Progress().to_json())) | {"gate": 1}
    with pytest.raises(ValueError, match="another version of owpo.*gate"):
        Progress.from_json(data)
