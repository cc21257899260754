"""Loading, saving and comparing policies.

Weights are float32 (or float64), whatever the dtype asked for: at a learning rate of 1e-6 most updates are
smaller than bfloat16's spacing and would vanish in bfloat16 weights. bfloat16 is a compute dtype, under
autocast.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from owpo.core.registry import did_you_mean
from owpo.policy.folder import check_folder, has_tokenizer, load_failure, looks_local
from owpo.policy.logprobs import check_logit_path
from owpo.policy.lora import (
    add_adapter,
    is_adapter_folder,
    on_same_base,
    read_adapter,
    require_peft,
    save_adapter,
)
from owpo.policy.model import Policy, generation_eos
from owpo.policy.tokenizer import check_equal_tokenizers, load_tokenizer, read_tokenizer
from owpo.policy.weights import content_hash, copy_state, load_state, policy_state

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def load_policy(
    path: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Policy:
    """A decoder model from a local folder or a hub id, with all dropout off.

    Dropout would make the policy of the update another than the policy that sampled; with every rate at 0,
    `model.train()` (which gradient checkpointing needs) and `model.eval()` compute the same.

    Args:
        path: a folder with config.json, *.safetensors and a tokenizer, `owner/name` on the hub, or a folder with a LoRA
            adapter in PEFT's form, whose base is loaded with it.
        device: "cpu", "cuda" or "cuda:1".
        dtype: "float32", "bfloat16" (float32 weights, bfloat16 products) or "float64".
        revision: of a hub id: branch, tag or commit.
        trust_remote_code: whether code that comes with the model may run on this machine.

    Raises:
        ValueError: any of these cannot be had; the sentence says which, and what to do.
    """
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}.{did_you_mean(dtype, DTYPES)} Known: {', '.join(DTYPES)}")
    torch_device = _checked_device(device)
    if looks_local(path):
        folder = Path(path).expanduser()
        if is_adapter_folder(folder):
            return _load_adapter_policy(
                folder, device=device, dtype=dtype, trust_remote_code=trust_remote_code
            )
        check_folder(folder)
        path = str(folder)
    weight_dtype = torch.float64 if dtype == "float64" else torch.float32
    try:
        tokenizer = load_tokenizer(path, revision=revision, trust_remote_code=trust_remote_code)
        model = _read_model(
            path, weight_dtype, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    except OSError as error:
        raise ValueError(load_failure(path, error)) from error
    model.to(torch_device).eval()
    _disable_dropout(model)
    policy = Policy(model, tokenizer, DTYPES[dtype])
    _check_tokens(policy, path)
    check_logit_path(policy)
    return policy


def _load_adapter_policy(folder: Path, *, device: str, dtype: str, trust_remote_code: bool) -> Policy:
    """An adapter on its base; the tokenizer is the adapter's where it has one.

    Raises:
        ValueError: the base is not there, or not the one that the adapter was trained on.
    """
    if dtype == "float64":
        raise ValueError(
            f"{folder} holds an adapter, whose base is known by the hash of its float32 weights; use another dtype"
        )
    require_peft()
    saved = read_adapter(folder)
    if looks_local(saved.base) and not Path(saved.base).is_dir():
        raise ValueError(
            f"the adapter in {folder} stands on the base {saved.base!r}, and there is no such folder; put it back there"
        )
    policy = load_policy(saved.base, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    base_hash = content_hash(policy.model)
    if saved.base_hash not in (None, base_hash):
        raise ValueError(
            f"the adapter in {folder} was trained on a base with hash {saved.base_hash}, and {saved.base} has "
            f"{base_hash}; put that base back"
        )
    policy = add_adapter(
        policy, rank=saved.rank, alpha=saved.alpha, targets=saved.targets, seed=0, base=saved.base,
        base_hash=base_hash,
    )  # fmt: skip
    load_state(policy_state(policy), saved.tensors)
    if has_tokenizer(folder):
        tokenizer = load_tokenizer(str(folder), trust_remote_code=trust_remote_code)
        policy = replace(policy, tokenizer=tokenizer)
        _check_tokens(policy, str(folder))
    return policy


def _checked_device(name: str) -> torch.device:
    known = ("cpu", "cuda")
    kind, _, index = name.partition(":")
    if kind not in known or (index and not index.isdecimal()):
        raise ValueError(
            f"unknown device {name!r}.{did_you_mean(kind, known)} Known: cpu, cuda, cuda:0, cuda:1, ..."
        )
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise ValueError(
                f"device {name!r} asked for, but torch {torch.__version__} sees no CUDA GPU; use 'cpu'"
            )
        if index and int(index) >= count:
            raise ValueError(
                f"device {name!r} asked for, but there are only {count}: cuda:0 to cuda:{count - 1}"
            )
    return torch.device(name)


def _read_model(
    path: str, dtype: torch.dtype, model_class: Any = AutoModelForCausalLM, **options: Any
) -> PreTrainedModel:
    """Safetensors only; every weight must come from the file."""
    try:
        with _no_progress_bar():
            model, info = model_class.from_pretrained(
                path, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
    except SafetensorError as error:
        raise ValueError(
            f"the weights of {path} cannot be read ({error}); the file is damaged, get it again"
        ) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"{path} lacks {len(missing)} of its model's weights, {missing[0]} first; they would be random "
            "numbers. Give a complete checkpoint of a causal language model"
        )
    if getattr(model, "_hf_peft_config_loaded", False):  # transformers puts adapters in, where it finds any
        raise ValueError(
            f"{path} holds an adapter that is not read from there; give a folder with nothing but the adapter and its "
            "tokenizer, or merge it into its base"
        )
    return model


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws a bar for every load and save; a run does many, and shows its own progress."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def _disable_dropout(model: nn.Module) -> None:
    """Dropout modules have a rate `p`; attention keeps a number of its own, under names such as
    attention_dropout."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _check_tokens(policy: Policy, path: str) -> None:
    """Refuse a model whose responses could not end, or whose tokenizer has tokens that it has not."""
    if not policy.eos_ids:
        raise ValueError(
            f"the tokenizer of {path} has no EOS token, so no response could end; "
            "set eos_token in its tokenizer_config.json"
        )
    ordinary = [token for token in generation_eos(policy.model) if token not in policy.eos_ids]
    if ordinary:
        warnings.warn(
            f"the generation configuration of {path} names {ordinary} as EOS, which the tokenizer does not "
            f"have as special tokens; responses end at {list(policy.eos_ids)} alone",
            stacklevel=3,
        )
    token, largest = max(policy.tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= policy.vocab_size:
        raise ValueError(
            f"the tokenizer of {path} is larger than its model: token {token!r} has id {largest}, the "
            f"output layer has {policy.vocab_size} rows; resize the embeddings, or save its own tokenizer"
        )


def save_policy(policy: Policy, folder: Path) -> None:
    """config.json, safetensors weights, generation configuration and tokenizer, in a form `load_policy`
    reads; of a policy with an adapter the adapter and the tokenizer.

    Raises:
        ValueError: the tokenizer does not read back as what it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if policy.adapter is not None:
        save_adapter(policy.adapter, folder)
    else:
        with _no_progress_bar():
            policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    read_back, _ = read_tokenizer(str(folder))
    check_equal_tokenizers(policy.tokenizer, read_back, str(folder))


def copy_weights(source: Policy, target: Policy) -> None:
    """Make target's weights equal to source's, in place.

    Raises:
        ValueError: they do not have the same weights by name, shape and dtype.
    """
    copy_state(source.model, target.model)


def load_weights(policy: Policy, folder: Path) -> None:
    """Replace the policy's weights, in place, by those saved in a folder.

    Raises:
        ValueError: the folder holds no complete weights, or other ones than the policy's by name or shape.
    """
    if policy.adapter is not None:
        load_state(policy_state(policy), read_adapter(folder).tensors)
        return
    check_folder(folder)
    saved = _read_model(str(folder), policy.model.dtype, type(policy.model))
    copy_state(saved, policy.model)


def load_beside(policy: Policy, folder: Path | None) -> Policy:
    """The adapter in a folder, or with None no adapter, on the base that a policy stands on.

    Raises:
        ValueError: the folder holds no adapter, or none that fits.
    """
    return on_same_base(policy, None if folder is None else read_adapter(folder).tensors)


def check_same_vocabulary(policy: Policy, reference: Policy) -> None:
    """A deviation compares the two models' log-probs of one token id, so an id must mean the same to both.

    The reference's output layer may have more rows (models of one family pad it differently), not fewer.

    Raises:
        ValueError: a token has different ids, or the reference has no logit for some token of the policy.
    """
    ours, theirs = policy.tokenizer.get_vocab(), reference.tokenizer.get_vocab()
    if ours != theirs:
        tokens = sorted(ours, key=ours.__getitem__) + sorted(
            theirs.keys() - ours.keys(), key=theirs.__getitem__
        )
        differing = [token for token in tokens if ours.get(token) != theirs.get(token)][:3]
        examples = ", ".join(f"{token!r} is {ours.get(token)} and {theirs.get(token)}" for token in differing)
        raise ValueError(
            f"policy and reference have different vocabularies, of {len(ours)} and {len(theirs)} tokens: "
            f"{examples}; take a reference of the same model family"
        )
    if reference.vocab_size < policy.vocab_size:
        raise ValueError(
            f"the reference has logits for {reference.vocab_size} tokens, the policy for "
            f"{policy.vocab_size}, so it could not score every response; take one with as many rows, or more"
        )
