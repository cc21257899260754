"""An evaluation is a folder.

evaluation.json  what is measured: the model with the hash of its weights, the settings, the problems; sealed
SET.jsonl        every sample of a problem set, a line each, sealed one by one
result.json      accuracies with intervals, once every set is done; sealed
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from owpo.disk.logs import JSONLLog
from owpo.disk.sealed import read_sealed, write_sealed
from owpo.disk.settings import differences
from owpo.disk.trouble import writing
from owpo.errors import InputError
from owpo.evaluation.answers import Sampling
from owpo.problems.problem import Problem, digest
from owpo.verify.graders import fingerprint


def set_settings(
    problems: list[Problem], template: str, verifier: dict[str, Any], sampling: Sampling
) -> dict[str, Any]:
    """What decides the samples of one set, as plain data; the problems are those that the model is given.

    `grader` is what the verdicts depend on beside the verifier's settings: where it has changed, the responses stand
    and are judged again.
    """
    return {
        "problems": digest(problems),
        "num_problems": len(problems),
        "template": template,
        "verifier": verifier,
        "grader": fingerprint(verifier),
        "sampling": {**asdict(sampling), "stop": list(sampling.stop)},
    }


class OtherSettings(InputError):
    """The folder holds an evaluation with other settings than the one that is asked for."""


class EvaluationFolder:
    """An evaluation on disk. Making this object writes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_file = path / "evaluation.json"
        self.result_file = path / "result.json"

    @classmethod
    def open(cls, path: Path, settings: dict[str, Any]) -> EvaluationFolder:
        """The folder for an evaluation with these settings (plain data): a new one, or one to go on with.

        Raises:
            OtherSettings: it holds an evaluation with other settings; names what differs.
            InputError: it cannot be made.
            DiskFailed: the disk is full, read-only or failing.
        """
        try:
            with writing(path):
                return cls._open(path, settings)
        except OSError as error:
            raise InputError(
                f"the evaluation folder {path} cannot be made: {error.strerror}; choose another by --out"
            ) from error

    @classmethod
    def _open(cls, path: Path, settings: dict[str, Any]) -> EvaluationFolder:
        folder = cls(path)
        if folder.settings_file.is_file():
            different = differences(decisive_settings(folder.settings), decisive_settings(settings))
            if different:
                raise OtherSettings(
                    f"{path} holds an evaluation with other settings ({'; '.join(different[:5])}); choose another "
                    "folder by --out, or remove this one"
                )
            return folder
        if path.exists() and any(not file.name.startswith(".") for file in path.iterdir()):
            raise InputError(f"{path} holds something that is no evaluation; choose another folder by --out")
        path.mkdir(parents=True, exist_ok=True)
        write_sealed(folder.settings_file, settings)
        return folder

    def begin(self, set_name: str, problems: list[Problem], grader: dict[str, str]) -> bool:
        """Write down what a set asks; whether verdicts that are known come from another grader than `grader`.

        If so, no grader is named until `finish`: whatever stops the work in between, all verdicts are made anew.
        """
        records = [{"id": p.id, "prompt": p.prompt, "answer": p.answer} for p in problems]
        with writing(self.path):
            self.problems_file(set_name).parent.mkdir(exist_ok=True)
        JSONLLog(self.problems_file(set_name)).replace(*records)
        settings = self.settings
        if settings["sets"][set_name]["grader"] == grader:
            return False
        settings["sets"][set_name]["grader"] = None
        with writing(self.result_file):
            self.result_file.unlink(missing_ok=True)
        write_sealed(self.settings_file, settings)
        return True

    @classmethod
    def read(cls, path: Path) -> EvaluationFolder:
        """A folder with a finished evaluation.

        Raises:
            InputError: it is none, or is not finished.
        """
        folder = cls(path)
        if not folder.settings_file.is_file():
            raise InputError(
                f"{str(path)!r} is no evaluation folder (it has no evaluation.json); make one by owpo eval"
            )
        if folder.result is None:
            raise InputError(
                f"the evaluation {str(path)!r} is not finished; go on with it by the same owpo eval command"
            )
        return folder

    def problems_file(self, set_name: str) -> Path:
        return self.path / "problems" / f"{set_name}.jsonl"

    def problems(self, set_name: str) -> list[Problem]:
        """What was asked, as the model was given it."""
        return [Problem(**record) for record in JSONLLog(self.problems_file(set_name)).records()]

    def samples_file(self, set_name: str) -> Path:
        return self.path / f"{set_name}.jsonl"

    @property
    def settings(self) -> dict[str, Any]:
        return read_sealed(
            self.settings_file, f"remove {self.path}, and do the same again: it is measured anew"
        )

    @property
    def result(self) -> dict[str, Any] | None:
        """Plain data by set; None while samples are missing."""
        if not self.result_file.is_file():
            return None
        return read_sealed(self.result_file, "remove it, and do the same again: its samples are kept")

    def finish(self, settings: dict[str, Any], result: dict[str, Any]) -> None:
        write_sealed(self.settings_file, settings)
        write_sealed(self.result_file, result)


def decisive_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what may differ: the path by which the weights are named, and the grader, which can judge again."""
    sets = {name: {**entry, "grader": None} for name, entry in settings["sets"].items()}
    return {**settings, "model": None, "sets": sets}
