"""One ordinary model folder of what a run has made: `owpo.export`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from owpo.disk.files import atomic_folder
from owpo.errors import InputError, RunFailed, input_errors
from owpo.policy.load import load_policy, save_policy
from owpo.policy.logprobs import reference_logprobs
from owpo.policy.lora import is_adapter_folder, merged, require_peft
from owpo.policy.model import Policy
from owpo.policy.responses import Responses
from owpo.runs.folder import RunFolder

_TOLERANCE = 1e-4  # in nats a token


@dataclass(frozen=True)
class Exported:
    """
    folder      what was written, an ordinary Hugging Face folder
    source      the version or adapter folder that it is made of
    merged      whether an adapter went into its base; a whole model is copied
    difference  largest |difference| of log-probs between adapter and folder on some tokens, in nats; None for a copy
    """

    folder: str
    source: str
    merged: bool
    difference: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def export(
    source: str | Path, to: str | Path, *, version: str | None = None, trust_remote_code: bool = False
) -> Exported:
    """Write a version of a run, or an adapter, as a model folder that needs neither base nor adapter.

    Args:
        source: a run folder, or a folder with an adapter.
        to: the folder to be made.
        version: of a run; None: the best of its last stage.
        trust_remote_code: whether code that comes with an adapter's base may run; for a run its recipe says so.

    Raises:
        InputError: there is nothing to export, `to` exists, or something of the source is damaged.
        RunFailed: the folder would not give the adapter's log-probs; nothing is left of it.
    """
    path, target = Path(source), Path(to)
    if target.exists():
        raise InputError(f"{str(target)!r} exists; name another folder by --to, or remove it")
    if (path / "versions").is_dir():
        return _export_version(path, target, version)
    if version is not None:
        raise InputError(
            f"--version names a version of a run, and {str(path)!r} is no run folder; leave it out"
        )
    if not is_adapter_folder(path):
        raise InputError(
            f"{str(path)!r} is neither a run folder nor an adapter; a model folder needs no export"
            if path.is_dir()
            else f"there is no folder {str(path)!r}"
        )
    with input_errors():
        policy = load_policy(str(path), trust_remote_code=trust_remote_code)
    return _write_merged(policy, str(path), target, trust_remote_code)


def _export_version(run: Path, target: Path, id: str | None) -> Exported:
    folder = RunFolder(run)
    trust_remote_code = RunFolder.read_config(run).model.trust_remote_code
    if id is None:
        id = _last_version(folder)
    source = str(folder.versions.folder / id)
    if folder.versions.describe(id).base is not None:
        with input_errors():
            require_peft()
        policy = folder.versions.load(id, device="cpu", dtype="float32", trust_remote_code=trust_remote_code)
        return _write_merged(policy, source, target, trust_remote_code)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as temporary:
        folder.versions.copy(id, temporary)
    return Exported(str(target), source, merged=False, difference=None)


def _last_version(folder: RunFolder) -> str:
    """The best of the last stage."""
    result = folder.result()
    if result is not None:
        return [row["version"] for row in result["rows"] if "stage" in row][-1]
    names = sorted(path.name for path in folder.versions.folder.iterdir() if path.is_dir())
    raise InputError(
        f"the run in {folder.path} is not done; name one of its versions by --version: {', '.join(names)}"
    )


def _write_merged(policy: Policy, source: str, target: Path, trust_remote_code: bool) -> Exported:
    responses = _some_tokens(policy)
    before = _logp(policy, responses)
    whole = merged(policy)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as temporary:
        save_policy(whole, temporary)
        del policy, whole  # before there are two of them in memory
        written = load_policy(str(temporary), trust_remote_code=trust_remote_code)
        difference = (before - _logp(written, responses)).abs().max().item()
        if not difference <= _TOLERANCE:
            raise RunFailed(
                f"the merged model would not be the adapter: log-probs differ by {difference:.2g} nats a token, more "
                f"than {_TOLERANCE:g}; nothing was written"
            )
    return Exported(str(target), source, merged=True, difference=difference)


def _some_tokens(policy: Policy) -> Responses:
    """Two responses of random tokens."""
    tokens = torch.randint(policy.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
    tokens = tokens[:, : policy.context_length].to(policy.device)
    mask = torch.ones_like(tokens[:, 1:], dtype=torch.bool)
    return Responses(
        prompts=tokens[:, :1].tolist(),
        tokens=tokens[:, 1:],
        mask=mask,
        sampler_logp=torch.zeros(mask.shape, device=policy.device),
        truncated=torch.zeros(2, dtype=torch.bool, device=policy.device),
    )


def _logp(policy: Policy, responses: Responses) -> Tensor:
    return reference_logprobs(policy, responses, 1.0, micro_batch_tokens=1024)
