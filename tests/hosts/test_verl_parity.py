"""owpo inside verl: the same losses and gradients in any micro-batches and processes, through verl's own engine."""

from pathlib import Path

import pytest
import torch
from conftest import write_tiny_model
from fixed_batch import CASES, assert_close, fixed_rows, in_two_processes, local_gradients

pytest.importorskip("verl")
pytest.importorskip("verl_on_cpu", reason="make test-verl sets what verl needs without an accelerator")

from verl_batches import as_verl, engine_of, verl_gradients

from owpo.core.reduce import MODES
from owpo.core.registry import entries, objective

OBJECTIVES = [entry.name for entry in entries() if not objective(entry.name).needs.prepared]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("verl")
    return write_tiny_model(folder / "model"), write_tiny_model(folder / "reference", seed=1)


@pytest.fixture(scope="module")
def engine(models):
    return engine_of(models[0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_the_local_engines_in_any_micro_batches(models, engine, name):
    rows, chosen = fixed_rows(*models), objective(name)
    expected_loss, expected = local_gradients(models[0], rows, chosen, None)
    for split in (1, 2, 4):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(split)).tolist()
        loss, found = verl_gradients(engine, as_verl(rows, order, 12 // split), chosen, None)
        assert loss == pytest.approx(expected_loss, rel=1e-5, abs=1e-7)
        assert_close(found, expected)


@pytest.mark.parametrize("reduction", MODES)
def test_every_reduction_counts_the_whole_step(models, engine, reduction):
    rows, chosen = fixed_rows(*models), objective("owpo")
    _, found = verl_gradients(engine, as_verl(rows, range(12), 3), chosen, reduction)
    _, expected = local_gradients(models[0], rows, chosen, reduction)
    assert_close(found, expected)


@pytest.fixture(scope="module")
def gradients_of_two(models, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    in_two_processes("verl_two_processes.py", *models, folder)
    return folder


@pytest.mark.parametrize(("name", "reduction"), CASES)
def test_two_processes_take_the_step_of_one(models, gradients_of_two, name, reduction):
    _, expected = local_gradients(models[0], fixed_rows(*models), objective(name), reduction)
    assert_close(torch.load(gradients_of_two / f"{name}.pt", weights_only=True), expected)
