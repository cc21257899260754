"""LoRA: a policy that is an adapter on a frozen base; its files, and its merging into the base.

The layers are PEFT's, put into the model in place, so that the model stays the one that transformers made. There is no
dropout, which would make the policy of the update another than the policy that sampled, and the output layer and the
embeddings stay as they are: log-probs are computed from the output layer's plain weights.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from owpo.core.registry import did_you_mean
from owpo.policy.adapter import Adapter, AdapterSlot
from owpo.policy.model import Policy
from owpo.policy.weights import check_fit

_CONFIG, _WEIGHTS, _BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
_SLOT = "policy"  # PEFT's name of the adapter in the model; its files leave it out


def require_peft() -> None:
    """
    Raises:
        ValueError: the package that has the LoRA layers is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ValueError("LoRA needs the package peft: pip install 'owpo[lora]'")


def target_names(model: PreTrainedModel, targets: Literal["all-linear"] | list[str]) -> list[str]:
    """The modules that these targets mean, by their full names.

    Args:
        targets: ends of module names, such as "q_proj", or "all-linear": every linear layer of the decoder.

    Raises:
        ValueError: a name is no linear layer of the decoder, or is the output layer or an embedding.
    """
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    kept = {id(model.get_output_embeddings()), id(model.get_input_embeddings())}
    named = dict(model.named_modules())
    linear = [
        name
        for name, module in named.items()
        if isinstance(module, nn.Linear) and id(module) in inside and id(module) not in kept
    ]
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no linear layers in its decoder, so LoRA has no place in it"
        )
    if targets == "all-linear":
        return linear
    for target in targets:
        meant = [name for name in named if _ends_in(name, target)]
        if any(id(named[name]) in kept for name in meant):
            raise ValueError(
                f"{target!r} is the output layer or an embedding, which stay as they are with LoRA: log-probs are "
                "computed from their plain weights; leave it out"
            )
        wrong = next((name for name in meant if name not in linear), None)
        if not meant or wrong is not None:
            known = sorted({name.rpartition(".")[2] for name in linear})
            found = "names no module" if wrong is None else f"is no linear layer ({wrong})"
            raise ValueError(f"{target!r} {found}.{did_you_mean(target, known)} Known: {', '.join(known)}")
    return [name for name in linear if any(_ends_in(name, target) for target in targets)]


def _ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _shortest(names: list[str], all_names: list[str]) -> tuple[str, ...]:
    """The ends of the names where these mean the same modules, else the names."""
    ends = {name.rpartition(".")[2] for name in names}
    meant = {name for name in all_names if name.rpartition(".")[2] in ends}
    return tuple(sorted(ends if meant == set(names) else names))


def add_adapter(
    policy: Policy,
    *,
    rank: int,
    alpha: int,
    targets: Literal["all-linear"] | list[str],
    seed: int,
    base: str,
    base_hash: str,
) -> Policy:
    """An adapter on a policy's model, whose weights are frozen from here on; it begins as the policy does.

    A is uniform in +-1 / sqrt(in), from the seed alone, and B is 0.

    Args:
        base, base_hash: where the policy comes from, and the content hash of its weights.

    Raises:
        ValueError: the package peft is missing, or the targets are not this model's; see `target_names`.
    """
    require_peft()
    import peft

    names = target_names(policy.model, targets)
    short = _shortest(names, [name for name, _ in policy.model.named_modules()])
    policy.model.requires_grad_(False)
    # A pattern must fit the whole of a name; PEFT would take names in a list for ends of names.
    pattern = "|".join(re.escape(name) for name in names)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=pattern)
    peft.inject_adapter_in_model(config, policy.model, _SLOT)
    layers = {name: policy.model.get_submodule(name) for name in names}
    parameters = {
        f"base_model.model.{name}.{part}.weight": getattr(layer, part)[_SLOT].weight
        for name, layer in layers.items()
        for part in ("lora_A", "lora_B")
    }
    slot = AdapterSlot(layers, dict(sorted(parameters.items())))
    adapter = Adapter(
        slot=slot,
        tensors=slot.at_rest,
        rank=rank,
        alpha=alpha,
        targets=short,
        base=base,
        base_hash=base_hash,
        seed=seed,
    )
    reset_adapter(adapter)
    _keep_frozen_in(policy.compute_dtype, policy.model)
    return replace(policy, adapter=adapter)


def _keep_frozen_in(compute_dtype: torch.dtype, model: PreTrainedModel) -> None:
    """Frozen linear layers in the dtype of their products, which is what autocast would make of them in every pass.

    It keeps its conversions only of weights that are trained.
    """
    for module in model.get_decoder().modules():
        # A class of its own may do its product in another dtype.
        if type(module) is nn.Linear and not module.weight.requires_grad:
            module.to(compute_dtype)


def reset_adapter(adapter: Adapter) -> None:
    """The adapter as it was at the start: it changes nothing of the base."""
    assert adapter.tensors is not None
    generator = torch.Generator().manual_seed(adapter.seed)
    for name, tensor in adapter.tensors.items():
        if name.endswith(".lora_B.weight"):
            tensor.zero_()
        else:
            uniform = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_((2 * uniform - 1) / math.sqrt(tensor.shape[1]))


def on_same_base(policy: Policy, tensors: dict[str, Tensor] | None) -> Policy:
    """Another policy on the base of this one: with an adapter of its own, or with None the base itself.

    Raises:
        ValueError: the tensors do not fit.
    """
    adapter = policy.adapter
    assert adapter is not None
    if tensors is not None:
        own = adapter.slot.parameters
        check_fit(own, tensors)
        # A copy: what a file was read to may be the file itself, mapped.
        tensors = {name: tensor.to(own[name], copy=True) for name, tensor in tensors.items()}
    return replace(policy, adapter=replace(adapter, tensors=tensors))


@dataclass(frozen=True)
class SavedAdapter:
    """What a folder of PEFT's form holds. `base_hash` is None where another program wrote it."""

    tensors: dict[str, Tensor]
    rank: int
    alpha: int
    targets: Literal["all-linear"] | list[str]
    base: str
    base_hash: str | None


def is_adapter_folder(folder: Path) -> bool:
    return (folder / _CONFIG).is_file() and not (folder / "config.json").is_file()


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """adapter_model.safetensors and adapter_config.json as PEFT writes them, base.json with the base's hash.

    A base that is a folder is named by its path from this one, so that the two can be moved together.
    """
    assert adapter.tensors is not None, "the base itself is no adapter"
    is_folder = Path(adapter.base).is_dir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": os.path.relpath(adapter.base, folder) if is_folder else adapter.base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(adapter.targets),
        "inference_mode": True,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / _BASE).write_text(json.dumps({"hash": adapter.base_hash}) + "\n", encoding="utf-8")
    save_file(adapter.tensors, folder / _WEIGHTS, metadata={"format": "pt"})


def read_adapter(folder: Path) -> SavedAdapter:
    """
    Raises:
        ValueError: a file is missing or damaged, or the adapter is more than plain LoRA.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        base_file = folder / _BASE
        base_hash = json.loads(base_file.read_text(encoding="utf-8"))["hash"] if base_file.is_file() else None
        tensors = load_file(folder / _WEIGHTS)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"{folder} holds no complete adapter ({error}); it needs {_CONFIG} and {_WEIGHTS}"
        ) from error
    _check_plain(config, folder)
    base = config["base_model_name_or_path"]
    beside = folder / base
    return SavedAdapter(
        tensors=dict(sorted(tensors.items())),
        rank=config["r"],
        alpha=config["lora_alpha"],
        targets=config["target_modules"],
        base=os.path.normpath(beside) if beside.is_dir() else base,
        base_hash=base_hash,
    )


_PLAIN: dict[str, Any] = {"peft_type": "LORA", "bias": "none"}
_NOTHING_ELSE = (
    "modules_to_save", "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias",
    "layers_to_transform", "target_parameters", "trainable_token_indices", "layer_replication", "exclude_modules",
)  # fmt: skip


def _check_plain(config: dict[str, Any], folder: Path) -> None:
    odd = [key for key, plain in _PLAIN.items() if config.get(key) != plain]
    odd += [key for key in _NOTHING_ELSE if config.get(key)]
    targets = config.get("target_modules")
    if not isinstance(targets, list) and targets != "all-linear":
        odd.append("target_modules")
    if odd:
        told = ", ".join(f"{key} = {config.get(key)!r}" for key in odd)
        raise ValueError(
            f"the adapter in {folder} is more than plain LoRA ({told}); merge it into its base with the program that "
            "made it, and give the merged folder"
        )
    missing = [key for key in ("base_model_name_or_path", "r", "lora_alpha") if not config.get(key)]
    if missing:
        raise ValueError(f"{folder / _CONFIG} does not say {' and '.join(missing)}; save the adapter again")


def merged(policy: Policy) -> Policy:
    """The policy as a whole model of its own: its adapter goes into the base's weights, in place.

    Whatever else stood on that base is of no use afterwards.
    """
    adapter = policy.adapter
    assert adapter is not None
    with torch.no_grad(), adapter.slot.holding(adapter.tensors):
        for name, layer in adapter.slot.layers.items():
            base_layer = layer.get_base_layer()
            if adapter.tensors is not None:
                base_layer.weight += layer.get_delta_weight(_SLOT).to(base_layer.weight.dtype)
            parent, _, leaf = name.rpartition(".")
            setattr(policy.model.get_submodule(parent), leaf, base_layer)
    del policy.model.peft_config
    policy.model.requires_grad_(True)
    return replace(policy, adapter=None)
