"""A model's shape from its configuration alone; no weight is read or made."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from owpo.bases.making import base_config, build_tokenizer
from owpo.config import ModelConfig
from owpo.policy.folder import looks_local


class NoEstimate(ValueError):
    """Why there is none; a sentence's end, after "because"."""


@dataclass(frozen=True)
class ModelShape:
    """`config` is the language model's own, where a model has parts beside it."""

    config: PreTrainedConfig
    parameters: int
    vocabulary: int
    hidden: int
    layers: int
    kv_heads: int
    head_dim: int

    @property
    def context(self) -> int | None:
        return getattr(self.config, "max_position_embeddings", None)


def shape_of(config: PreTrainedConfig) -> ModelShape:
    """
    Raises:
        NoEstimate: transformers has no causal language model for it, or it names its sizes in its own way.
    """
    try:
        with torch.device("meta"):
            model = build(config)
        text = config.get_text_config(decoder=True)
        return ModelShape(
            config=text,
            # Tied weights are one parameter, and stand once in it.
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            vocabulary=text.vocab_size,
            hidden=text.hidden_size,
            layers=text.num_hidden_layers,
            kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        )
    except (ValueError, AttributeError, ImportError) as error:
        raise NoEstimate(f"the shape of a {type(config).__name__} is not known here ({error})") from error


def build(config: PreTrainedConfig, layers: int | None = None) -> PreTrainedModel:
    """A model with new weights, float32, on the device in force; of fewer layers where `layers` says so."""
    if layers is not None:
        config = deepcopy(config)
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def model_config(model: ModelConfig) -> PreTrainedConfig:
    """The configuration of the model that a recipe names, or of the base that it makes.

    Raises:
        NoEstimate: it cannot be had.
    """
    path = Path(model.path).expanduser()
    if model.make is not None and not path.exists():
        return base_config(model.make, len(build_tokenizer(model.make.problems)))
    return config_at(model.path, model.revision, trust_remote_code=model.trust_remote_code)


def config_at(path: str, revision: str | None = None, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """
    Raises:
        NoEstimate: there is no configuration at the path or hub id, or it cannot be read.
    """
    is_local = looks_local(path)
    if is_local and not (Path(path).expanduser() / "config.json").is_file():
        raise NoEstimate(f"there is no {Path(path) / 'config.json'} yet")
    try:
        return AutoConfig.from_pretrained(
            str(Path(path).expanduser()) if is_local else path,
            revision=revision or "main",
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise NoEstimate(f"the configuration of {path!r} cannot be read ({reason})") from error
