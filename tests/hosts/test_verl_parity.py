"""owpo inside verl: the same losses and gradients in any micro-batches and processes, through verl's own engine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_tiny_model
from fixed_batch import assert_close, fixed_rows, local_gradients

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


@pytest.mark.parametrize(
    ("name", "reduction"), [("owpo", None), ("grpo", "prompt-mean"), ("dr_grpo", None), ("mopd", None)]
)
def test_two_processes_take_the_step_of_one(models, tmp_path, name, reduction):
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv_backend", "c10d",
            "--rdzv_endpoint", "localhost:0", str(here / "verl_two_processes.py"), *map(str, models),
            str(tmp_path), name, str(reduction),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    _, expected = local_gradients(models[0], fixed_rows(*models), objective(name), reduction)
    assert_close(torch.load(tmp_path / "gradients.pt", weights_only=True), expected)
