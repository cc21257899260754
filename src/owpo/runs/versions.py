"""Versions: named, hashed, immutable weights that a stage starts from, learns against or is reported by.

Each is an ordinary Hugging Face folder with a `version.json` beside the weights:

    {"id", "hash", "parent", "stage", "step", "reason", "score", "files": {name: sha256}}

A reference is one of them. Whenever one is loaded, version.json is checked against its seal, every file of the folder
against `files`, and the weights in memory against `hash`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from owpo.disk.files import atomic_folder, damage, file_hashes, file_names
from owpo.disk.sealed import read_sealed, write_sealed
from owpo.disk.trouble import writing
from owpo.errors import InputError
from owpo.policy.load import load_policy, load_weights, save_policy
from owpo.policy.model import Policy
from owpo.policy.weights import content_hash

_DESCRIPTION = "version.json"
_FIX = "restore that folder from a backup"


@dataclass(frozen=True, kw_only=True)
class Version:
    """
    hash      of the weights' content
    parent    the version it was trained from, None for one that was given
    stage     1-based stage that made it, 0 for one that was given
    step      rollout step of that stage
    reason    why it was kept
    score     avg@k on the selection set when it was kept, or None
    """

    id: str
    hash: str
    parent: str | None
    stage: int
    step: int
    reason: str
    score: float | None


class VersionStore:
    """The folder `versions` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self, policy: Policy, id: str, *, parent: str | None, stage: int, step: int, reason: str,
        score: float | None = None,
    ) -> Version:  # fmt: skip
        """Keep a copy of the policy's weights. Nothing is written again where the same content is already kept."""
        version = Version(
            id=id, hash=content_hash(policy.model), parent=parent, stage=stage, step=step,
            reason=reason, score=score,
        )  # fmt: skip
        if self._has(version):
            return version
        with atomic_folder(self.folder / id) as folder:
            save_policy(policy, folder)
            write_sealed(folder / _DESCRIPTION, {**asdict(version), "files": file_hashes(folder)})
        return version

    def _has(self, version: Version) -> bool:
        """Whether it is there, whole: one that is damaged is written again."""
        try:
            return self._read(version.id) == version and self._damage(version.id) is None
        except InputError:
            return False

    def describe(self, id: str) -> Version:
        """What is known of a version.

        Raises:
            InputError: it is not there.
        """
        if not (self.folder / id / _DESCRIPTION).is_file():
            raise InputError(
                f"the run needs the weights {str(self.folder / id)!r}, and they are gone; restore that folder"
            )
        return self._read(id)

    def load(self, id: str, *, device: str, dtype: str, trust_remote_code: bool) -> Policy:
        """A version as a policy of its own.

        Raises:
            InputError: it is not there, or some byte of it has changed since it was written.
        """
        with self._checked(id):
            policy = load_policy(
                str(self.folder / id), device=device, dtype=dtype, trust_remote_code=trust_remote_code
            )
        self._check_weights(id, policy)
        return policy

    def load_into(self, policy: Policy, id: str) -> None:
        """A version's weights, in place of the policy's.

        Raises:
            InputError: it is not there, or some byte of it has changed since it was written.
        """
        with self._checked(id):
            load_weights(policy, self.folder / id)
        self._check_weights(id, policy)

    def _read(self, id: str) -> Version:
        description = read_sealed(self.folder / id / _DESCRIPTION, _FIX)
        del description["files"]
        return Version(**description)

    def _damage(self, id: str) -> str | None:
        """What of the folder is not as it was written. Foreign files count: transformers may read them."""
        folder = self.folder / id
        files = read_sealed(folder / _DESCRIPTION, _FIX)["files"]
        found = damage(folder, files)
        if found is not None:
            return found
        foreign = file_names(folder) - files.keys() - {_DESCRIPTION}
        return f"{min(foreign)} was put into it" if foreign else None

    @contextmanager
    def _checked(self, id: str) -> Iterator[None]:
        """Every byte is checked before it is read. What still cannot be read is damage too: we wrote these files."""
        self.describe(id)
        path, found = str(self.folder / id), self._damage(id)
        if found is not None:
            raise InputError(
                f"{path!r} is damaged: its files are not those that were written ({found}); {_FIX}"
            )
        try:
            yield
        except ValueError as error:
            raise InputError(f"{path!r} is damaged ({error}); {_FIX}") from error

    def _check_weights(self, id: str, policy: Policy) -> None:
        if content_hash(policy.model) != self.describe(id).hash:
            raise InputError(
                f"the weights in {str(self.folder / id)!r} load as others than were written (their hash differs); "
                "go on with the version of transformers that environment.jsonl names"
            )

    def keep_only(self, ids: set[str]) -> None:
        """Remove every version that nothing points to any more."""
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in ids:
                with writing(path):
                    shutil.rmtree(path)
