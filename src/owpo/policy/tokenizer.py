"""The tokenizer that a folder holds, and not another one.

AutoTokenizer chooses a class by the model's type. For some types (qwen2 is one) that class keeps the
vocabulary of tokenizer.json and puts its own splitting rules in place of the file's, without a word: a model
trained on single characters comes back with a byte-level tokenizer. So what comes back is compared with the
file.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

# Where tokenizers part: digits, operators, punctuation, case, contractions, runs of blanks, newlines, accents
# (composed and not), scripts without blanks, emoji, and symbols that a text about mathematics has.
PROBES = (
    "12+34=46",
    "2026 - 1,234.50 * 7 / 3 = ?",
    "a quick brown fox, isn't it? (Yes!)",
    "  two  blanks\tand a tab ",
    "first line\nsecond line\n\n\nlast line\r\n",
    "def f(x_1: int) -> str:\n    return \"{'a': [1, 2]}\"",
    "\\frac{1}{2} \\le \\sqrt{x^2} ≤ ½ π",
    "café cafe\u0301 Straße ΑΒΓ Привет",
    "日本語 العربية हिन्दी 한국어",
    "🙂👩‍🚀 – “quoted” …",
)


def load_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder or hub id, checked against its tokenizer.json where it has one.

    If AutoTokenizer returns another tokenizer than the file's, the file's is loaded and a warning says so.

    Raises:
        ValueError: no way of loading gives what the file holds.
    """
    tokenizer, auto_difference = read_tokenizer(path, revision=revision, trust_remote_code=trust_remote_code)
    if auto_difference is not None:
        warnings.warn(
            f"AutoTokenizer replaces the tokenizer saved in {path} by a {auto_difference}; the saved one is "
            "used. Other programs that load this folder with AutoTokenizer will read other tokens",
            stacklevel=2,
        )
    return tokenizer


def read_tokenizer(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedTokenizerBase, str | None]:
    """The tokenizer, and how AutoTokenizer's differs from the file's (None where it does not)."""
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    saved_file = _file(path, "tokenizer.json", revision)
    if saved_file is None:
        return tokenizer, None
    saved = Tokenizer.from_file(saved_file)
    saved.no_truncation()
    saved.no_padding()
    declared = _declared_tokens(_file(path, "tokenizer_config.json", revision))
    difference = _difference(tokenizer, saved, declared)
    if difference is None:
        return tokenizer, None
    auto_difference = f"{type(tokenizer).__name__} that {difference}"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path, revision=revision)
    difference = _difference(tokenizer, saved, declared)
    if difference is not None:
        raise ValueError(
            f"the tokenizer of {path} cannot be loaded as saved: the loaded one {difference}; "
            "tokenizer.json and tokenizer_config.json contradict each other, so save it again from its source"
        )
    return tokenizer, auto_difference


def _file(path: str, name: str, revision: str | None) -> str | None:
    return cached_file(
        path,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def _declared_tokens(config_file: str | None) -> dict[str, int | None]:
    """Tokens that tokenizer_config.json adds, such as a pad token, and their ids where it gives them."""
    if config_file is None:
        return {}
    config: dict[str, Any] = json.loads(Path(config_file).read_text(encoding="utf-8"))
    added: list[Any] = [value for key, value in config.items() if key.endswith("_token")]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        named = config.get(key) or []
        added += named.values() if isinstance(named, dict) else named
    contents = [token.get("content") if isinstance(token, dict) else token for token in added]
    declared: dict[str, int | None] = {token: None for token in contents if isinstance(token, str)}
    for index, token in config.get("added_tokens_decoder", {}).items():
        declared[token["content"]] = int(index)
    return declared


def _difference(
    tokenizer: PreTrainedTokenizerBase, saved: Tokenizer, declared: dict[str, int | None]
) -> str | None:
    """How the tokenizer differs from the saved one, as the end of a sentence; None where it does not.

    Compared without special tokens around the text: those are tokenizer_config.json's to decide.
    """
    vocabulary, saved_vocabulary = tokenizer.get_vocab(), saved.get_vocab(with_added_tokens=True)
    for token, index in saved_vocabulary.items():
        if vocabulary.get(token) != index:
            return f"gives token {token!r} the id {vocabulary.get(token)}, where tokenizer.json has {index}"
    for token in vocabulary.keys() - saved_vocabulary.keys():
        if token not in declared:
            return f"has a token {token!r} that the saved files do not name"
        if declared[token] not in (None, vocabulary[token]):
            return f"gives token {token!r} the id {vocabulary[token]}, where {declared[token]} was saved"
    for probe in PROBES:
        ids = _ids_or_refusal(lambda text: tokenizer.encode(text, add_special_tokens=False), probe)
        saved_ids = _ids_or_refusal(lambda text: saved.encode(text, add_special_tokens=False).ids, probe)
        if ids != saved_ids:
            return f"encodes {probe!r} as {ids[:8]}..., where tokenizer.json gives {saved_ids[:8]}..."
    return None


def _ids_or_refusal(encode: Callable[[str], list[int]], text: str) -> list[int] | str:
    """The token ids, or why there are none: a tokenizer without an unknown token refuses what it does not know."""
    try:
        return list(encode(text))
    except Exception as error:  # the tokenizers library raises nothing more specific
        return str(error)


def check_equal_tokenizers(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, where: str) -> None:
    """Refuse a saved tokenizer that does not read back as what it was.

    Raises:
        ValueError: vocabulary, EOS, padding or an encoding differ.
    """
    same = (
        one.get_vocab() == other.get_vocab()
        and one.eos_token_id == other.eos_token_id
        and one.pad_token_id == other.pad_token_id
        and all(
            _ids_or_refusal(one.encode, probe) == _ids_or_refusal(other.encode, probe) for probe in PROBES
        )
    )
    if not same:
        raise ValueError(
            f"the tokenizer saved in {where} reads back as another one; nothing trained with it could be used"
        )
