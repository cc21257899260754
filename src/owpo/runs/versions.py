"""Versions: named, hashed, immutable weights that a stage starts from, learns against or is reported by.

Each is an ordinary Hugging Face folder with a `version.json` beside the weights:

    {"id", "hash", "parent", "stage", "step", "reason", "score", "base", "files": {name: sha256}}

Where the learner is an adapter on a frozen base (docs/lora.md), the versions that it makes are adapters in PEFT's form,
and `base` names the version that they stand on, with its hash.

A reference is one of them. Whenever one is loaded, version.json is checked against its seal, every file of the folder
against `files`, and the weights in memory against `hash`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from owpo.disk.files import atomic_folder, damage, file_hashes, file_names
from owpo.disk.sealed import read_sealed, write_sealed
from owpo.disk.trouble import writing
from owpo.errors import InputError
from owpo.policy.load import load_beside, load_policy, load_weights, save_policy
from owpo.policy.lora import reset_adapter
from owpo.policy.model import Policy
from owpo.policy.weights import policy_hash

_DESCRIPTION = "version.json"
_BASE = "base"  # the version that a run starts from, and that its adapters stand on
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
    base      version and hash of what an adapter stands on; None for whole weights
    """

    id: str
    hash: str
    parent: str | None
    stage: int
    step: int
    reason: str
    score: float | None
    base: dict[str, str] | None = None


class VersionStore:
    """The folder `versions` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self, policy: Policy, id: str, *, parent: str | None, stage: int, step: int, reason: str,
        score: float | None = None,
    ) -> Version:  # fmt: skip
        """Keep a copy of the policy's weights. Nothing is written again where the same content is already kept."""
        adapter = policy.adapter
        version = Version(
            id=id, hash=policy_hash(policy), parent=parent, stage=stage, step=step, reason=reason, score=score,
            base={"version": _BASE, "hash": adapter.base_hash} if adapter is not None else None,
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

    def load(
        self, id: str, *, device: str, dtype: str, trust_remote_code: bool, beside: Policy | None = None
    ) -> Policy:
        """A version as a policy of its own.

        Args:
            beside: where the version differs from this policy by an adapter alone, it shares its base, and costs the
                adapter's memory.

        Raises:
            InputError: it is not there, or some byte of it has changed since it was written.
        """
        version = self.describe(id)
        is_adapter = version.base is not None
        if (
            beside is not None
            and beside.adapter is not None
            and self._base_hash(id) == beside.adapter.base_hash
        ):
            with self._checked(id):
                policy = load_beside(beside, self.folder / id if is_adapter else None)
        else:
            with self._checked(_BASE) if is_adapter else nullcontext(), self._checked(id):
                policy = load_policy(
                    str(self.folder / id), device=device, dtype=dtype, trust_remote_code=trust_remote_code
                )
        self._check_weights(id, policy)
        return policy

    def load_into(self, policy: Policy, id: str) -> None:
        """A version's weights, in place of the policy's. An adapter becomes its base by beginning anew.

        Raises:
            InputError: it is not there, or some byte of it has changed since it was written.
        """
        adapter = policy.adapter
        with self._checked(id):
            if adapter is not None and self.describe(id).hash == adapter.base_hash:
                reset_adapter(adapter)
                return
            load_weights(policy, self.folder / id)
        self._check_weights(id, policy)

    def copy(self, id: str, folder: Path) -> None:
        """A version's files into an empty folder, without what a run adds to them.

        Raises:
            InputError: it is not there, or some byte of it has changed since it was written.
        """
        with self._checked(id):
            for name in read_sealed(self.folder / id / _DESCRIPTION, _FIX)["files"]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / id / name, folder / name)

    def _base_hash(self, id: str) -> str:
        """Of the whole weights that a version is, or stands on."""
        version = self.describe(id)
        return version.hash if version.base is None else version.base["hash"]

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
        if policy_hash(policy) != self.describe(id).hash:
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
