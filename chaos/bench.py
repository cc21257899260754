"""The bench on which runs are tried: recipes, what they end with undisturbed, half-done runs to be copied."""

from __future__ import annotations

import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from chaos.child import Child, left_behind
from chaos.contents import Contents, contents, differences
from chaos.recipe import NAMES, write_inputs, write_recipe
from chaos.table import End, Try

EXIT_INTERRUPTED = 75


@dataclass
class Bench:
    """
    folder   everything is below it
    recipes  file of each recipe
    whole    what an undisturbed run of each ends with
    seconds  how long such a run takes from start to end
    start_up_s  how much of that is over when its folder appears: imports, mostly
    """

    folder: Path
    seed: int
    recipes: dict[str, Path] = field(default_factory=dict)
    whole: dict[str, Contents] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    start_up_s: float = 0.0
    _cases: list[Path] = field(default_factory=list)
    _failed: set[Path] = field(default_factory=set)

    def prepare(self) -> None:
        """Inputs, and for each recipe two undisturbed runs, a half-done one and one that stands in its closing."""
        inputs = write_inputs(self.folder / "inputs")
        self.recipes = {name: write_recipe(name, inputs, self.folder / f"{name}.toml") for name in NAMES}
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._prepare, NAMES))

    def _prepare(self, recipe: str) -> None:
        cases = [self.case(f"whole-{recipe}"), self.case(f"again-{recipe}")]
        for case in cases:
            child = self.train(case, recipe)
            while child.process.poll() is None and not (case / "run").exists():
                time.sleep(0.01)
            self.start_up_s = time.monotonic() - child.started
            if child.wait() != 0:
                raise RuntimeError(f"an undisturbed run of {recipe} fails: {_last_line(child)}")
            self.seconds[recipe] = time.monotonic() - child.started
        self.whole[recipe], again = (contents(case / "run") for case in cases)
        if told := differences(self.whole[recipe], again):
            raise RuntimeError(f"two undisturbed runs of {recipe} differ: {told}")
        self._stop_half_way(recipe)
        self._stop_in_the_closing(recipe)

    def _stop_half_way(self, recipe: str) -> None:
        """In the second half, where several references lie behind; two checkpoints are there."""
        child = self.train(self.case(f"half-{recipe}"), recipe)
        wait_for_lines(child, child.cwd / "run" / "metrics.jsonl", self.num_steps(recipe) * 3 // 5)
        child.signal(signal.SIGTERM)
        assert child.wait() == EXIT_INTERRUPTED, _last_line(child)

    def _stop_in_the_closing(self, recipe: str) -> None:
        """One version is measured, the second half."""
        child = self.train(self.case(f"closing-{recipe}"), recipe)
        run = child.cwd / "run"
        while child.process.poll() is None and not list(run.glob("report/*/result.json")):
            time.sleep(0.001)
        child.kill()
        assert not (run / "result.json").exists(), f"{run} came to its end before it was killed"

    def num_steps(self, recipe: str) -> int:
        return self.whole[recipe]["metrics.jsonl"].count(b"\n")

    def case(self, name: str) -> Path:
        """A working directory for a try; its run folder will be `run`."""
        folder = self.folder / name
        while folder.exists():  # the try is made again
            folder = folder.with_name(f"{folder.name}-again")
        folder.mkdir(parents=True)
        self._cases.append(folder)
        return folder

    def copy(self, start: str, name: str) -> Path:
        """A working directory with a copy of a run that was stopped: "half-RECIPE" or "closing-RECIPE"."""
        folder = self.case(name)
        shutil.copytree(self.folder / start / "run", folder / "run")
        return folder

    def train(
        self, case: Path, recipe: str, *words: str, notes: Path | None = None, **settings: str
    ) -> Child:
        return Child(["train", str(self.recipes[recipe]), *words], case, notes, **settings)

    def chance(self, name: str) -> random.Random:
        """Random choices of a try, from the seed and its name."""
        return random.Random(f"{self.seed} {name}")

    def finish(self, case: Path, recipe: str, notes: Path | None = None) -> list[str]:
        """Let the run go on to its end; what is then not as in the undisturbed one, nothing if all is well."""
        child = self.train(case, recipe, "--resume", notes=notes)
        if child.wait() != 0:
            return [f"it does not go on, exit code {child.process.returncode}: {_last_line(child)}"]
        return self.compare(case, recipe)

    def compare(self, case: Path, recipe: str) -> list[str]:
        try:
            told = differences(self.whole[recipe], contents(case / "run"))
        except (ValueError, KeyError, OSError) as error:
            told = [str(error)]
        if processes := left_behind(case):
            told.append(f"processes left behind: {processes}")
        return told

    def outcome(self, row: str, case: Path, told: list[str], good: End = End.same, badly: str = "") -> Try:
        """A try, by what differs in the end and by what was said badly. A case that ended badly is not tidied away."""
        if told or badly:
            self._failed.add(case)
        if told:
            return Try(row, End.lost, f"{case}: {'; '.join(told[:5])}")
        if badly:
            return Try(row, End.badly, f"{case}: {badly}")
        return Try(row, good)

    def tidy(self) -> None:
        """Remove the cases that ended well; everything, if all did."""
        for case in self._cases if self._failed else [self.folder]:
            if case not in self._failed:
                shutil.rmtree(case)


def unclear(child: Child) -> str:
    """What is wrong with how an ended child refused; nothing where it did so in one sentence."""
    code, printed = child.process.returncode, child.printed()
    sentences = [line for line in printed.splitlines() if line.startswith("owpo: ")]
    if "Traceback" in printed:
        return f"a traceback, exit code {code}: {_last_line(child)}"
    if code not in (1, 2) or len(sentences) != 1:
        return f"exit code {code} with {len(sentences)} sentences: {_last_line(child)}"
    return ""


def wait_for_lines(child: Child, log: Path, number: int) -> None:
    """Until a log of the child has so many lines, or the child has ended."""
    while child.process.poll() is None and lines(log) < number:
        time.sleep(0.002)


def lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _last_line(child: Child) -> str:
    printed = child.printed().strip().splitlines()
    return printed[-1][:300] if printed else "(nothing printed)"
