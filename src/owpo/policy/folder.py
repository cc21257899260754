"""Where a model is to come from: checked before anything large is read, explained where it cannot be had."""

from __future__ import annotations

import difflib
from pathlib import Path

from huggingface_hub import errors as hub_errors

_CONVERSION = (
    "convert them once, where you trust their source: "
    'python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('{path}', use_safetensors=False).save_pretrained('{path}')\""
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def looks_local(path: str) -> bool:
    """Whether a path can only be a folder: it exists, or no hub id is written like it."""
    return (
        Path(path).expanduser().exists()
        or path.startswith((".", "/", "~"))
        or path.count("/") > 1
        or "\\" in path
    )


def _nearest_sibling(folder: Path) -> str:
    """' Did you mean ...?' for the folder beside it with the nearest name, or nothing."""
    if not folder.parent.is_dir():
        return ""
    names = [sibling.name for sibling in folder.parent.iterdir() if sibling.is_dir()]
    near = difflib.get_close_matches(folder.name, names, n=1, cutoff=0.5)
    return f" Did you mean {str(folder.parent / near[0])!r}?" if near else ""


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot hold a policy.

    Raises:
        ValueError: no folder, no config.json, no safetensors weights or no tokenizer.
    """
    if not folder.is_dir():
        what = "is a file, not a model folder" if folder.exists() else "does not exist"
        raise ValueError(f"model folder {str(folder)!r} {what}.{_nearest_sibling(folder)}")
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no config.json, so it is no model folder; give the folder save_policy wrote"
        )
    if not any(folder.glob("*.safetensors")):
        if any(folder.glob("pytorch_model*.bin")):
            raise ValueError(
                f"{folder} holds its weights as pickle (pytorch_model.bin), which can run code when read; "
                + _CONVERSION.format(path=folder)
            )
        raise ValueError(
            f"{folder} holds no weights; model.safetensors (or its shards) must stand beside config.json"
        )
    if not has_tokenizer(folder):
        raise ValueError(
            f"{folder} holds no tokenizer; save it there with tokenizer.save_pretrained({str(folder)!r})"
        )


def load_failure(path: str, error: BaseException) -> str:
    """One sentence for what the hub (or transformers on its behalf) ran into."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    reasons: list[tuple[type | tuple[type, ...], str]] = [
        (hub_errors.GatedRepoError, "is gated; accept its terms on the hub and log in with `hf auth login`"),
        (hub_errors.RevisionNotFoundError, "has no such revision on the hub; check `revision`"),
        (
            hub_errors.RepositoryNotFoundError,
            "is neither a folder here nor a model on the hub (or it is private: log in with `hf auth login`)",
        ),
        (
            (hub_errors.OfflineModeIsEnabled, hub_errors.LocalEntryNotFoundError, ConnectionError),
            "is not a folder here, is not in the local cache, and the hub cannot be reached; "
            "go online, or give the path of a downloaded folder",
        ),
    ]
    hint = "" if looks_local(path) else _nearest_sibling(Path(path))
    for kind, sentence in reasons:
        if any(isinstance(link, kind) for link in chain):
            return f"model {path!r} {sentence}.{hint}"
    if "safetensors" in str(error):
        return f"model {path!r} has no safetensors weights; " + _CONVERSION.format(path=path)
    return f"model {path!r} cannot be loaded: {str(error).splitlines()[0]}{hint}"
