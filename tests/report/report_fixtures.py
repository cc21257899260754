"""A run that learns a little, in three stages, by a model that writes markup; and a browser to look at its report."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import write_problems, write_tiny_model

from owpo.recipes import build_config
from owpo.report.page import write_report
from owpo.report.record import RunRecord, read_run, read_runs
from owpo.run import train

MARKUP = [
    "<script>window.hacked=1</script>",
    "</template>",
    "<!--",
    "</script>",
    '<img src=x onerror="window.hacked=1">',
]
NO_BROWSER = (
    "no Chromium: the tests that look at a report in a browser are skipped; to run them, install it "
    "(apt-get install chromium, or .venv/bin/playwright install chromium)"
)


def recipe(folder: Path, name: str, **changes) -> dict:
    """Three stages; the problems' names hold markup too."""
    sets = {}
    for part, before in (("train", ""), ("selection", "0"), ("report", "00")):
        lines = [{"id": f"{part}-<b>{d}", "prompt": f"{before}{d}=", "answer": d} for d in "0123456"]
        sets[part] = {"kind": "jsonl", "path": str(write_problems(folder / f"{part}.jsonl", lines))}
    return {
        "seed": 1,
        "run": {
            "folder": str(folder / name), "checkpoint_every": 4, "threads": 1, "token_every": 3, "watched_problems": 3,
        },
        "model": {"path": str(folder / "model")},
        "problems": sets,
        "rollout": {"prompts": 7, "group_size": 16, "max_new_tokens": 4, "max_rounds": 2},
        "objective": {"name": "owpo"},
        "training": {"learning_rate": 1e-2, "warmup_updates": 1, "weight_decay": 0.0},
        "ratchet": {"protocol": "leapfrog", "stages": 3, "first_steps": 8, "steps": 12},
        "evaluation": {"every": 4, "samples": 4, "report_samples": 4},
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_tiny_model(folder / "model", words=MARKUP)
    return folder


@pytest.fixture(scope="session")
def run(workplace) -> RunRecord:
    return read_run(train(build_config(recipe(workplace, "one"), "test")).folder)


@pytest.fixture(scope="session")
def another(workplace) -> RunRecord:
    return read_run(train(build_config(recipe(workplace, "two", seed=2), "test")).folder)


@pytest.fixture(scope="session")
def report_file(run, workplace) -> Path:
    write_report([run], workplace / "one.html")
    return workplace / "one.html"


@pytest.fixture(scope="session")
def both_file(run, another, workplace) -> Path:
    write_report(read_runs([run.folder, another.folder]), workplace / "both.html")
    return workplace / "both.html"


@pytest.fixture(scope="session")
def browser():
    """Chromium: the system's, or the one that Playwright has installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as driver:
        if found is None and not Path(driver.chromium.executable_path).exists():
            if "OWPO_NEEDS_BROWSER" in os.environ:
                pytest.fail(NO_BROWSER)
            pytest.skip(NO_BROWSER)
        # Without a sandbox, for it has none where root runs it; the pages are our own, and offline.
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
