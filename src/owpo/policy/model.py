"""A policy: a causal LM with its tokenizer, and what we ask of the two together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from owpo.policy.adapter import Adapter
from owpo.policy.attention import takes_layouts
from owpo.policy.head import LogitHead, LogitTransform
from owpo.policy.passes import eagerly
from owpo.policy.responses import Responses


@dataclass(frozen=True)
class Policy:
    """A causal LM with its tokenizer; `compute_dtype` is the matrix products', the weights keep their own.

    With an adapter the model is the frozen base, which other policies may share.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    compute_dtype: torch.dtype
    adapter: Adapter | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def head(self) -> LogitHead:
        """The output layer, and what the architecture does to the logits afterwards.

        Raises:
            ValueError: the output layer is not a plain linear one.
        """
        layer = self.model.get_output_embeddings()
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"{type(self.model).__name__} has no linear output layer (found {type(layer).__name__}), which "
                "the log-prob path needs; merge adapters into the weights, or use another architecture"
            )
        config = self.model.config.get_text_config(decoder=True)
        # Cohere multiplies by logit_scale, Granite divides by logits_scaling, Gemma-2 caps. `check_logit_path`
        # finds the architectures that mean something else by these names, or have others.
        scale = (getattr(config, "logit_scale", None) or 1.0) / (
            getattr(config, "logits_scaling", None) or 1.0
        )
        softcap = getattr(config, "final_logit_softcapping", None)
        return LogitHead(layer.weight, layer.bias, LogitTransform(scale, softcap), self.compute_dtype)

    @property
    def vocab_size(self) -> int:
        """Rows of the output layer; some models have more of them than their tokenizer has tokens."""
        return self.head.weight_VH.shape[0]

    @cached_property
    def context_length(self) -> int:
        """Tokens of prompt and response together that the model was made for.

        Raises:
            ValueError: neither the model's nor the tokenizer's configuration says.
        """
        config = self.model.config.get_text_config(decoder=True)
        length = getattr(config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        if length > 10**9:  # what transformers writes for "unknown" is far above it
            raise ValueError(
                f"{type(self.model).__name__} does not say how long its context is; "
                "set model_max_length in its tokenizer_config.json"
            )
        return int(length)

    @cached_property
    def takes_layouts(self) -> bool:
        """Whether texts may stand in one row, their attention ours (`owpo.policy.attention`)."""
        with eagerly(self.model):
            return takes_layouts(self.model)

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a response: the tokenizer's EOS, then those of the generation configuration.

        The latter count only where the tokenizer has them as special tokens. A configuration class brings a
        default (Llama's is 2), which may be an ordinary character in a tokenizer of one's own.
        """
        own = self.tokenizer.eos_token_id
        configured = generation_eos(self.model)
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        ids = [] if own is None else [own]
        return tuple(dict.fromkeys(ids + [token for token in configured if token in special]))

    @cached_property
    def pad_id(self) -> int:
        """What fills a row; never read, so EOS serves where there is no padding token."""
        pad = self.tokenizer.pad_token_id
        return self.eos_ids[0] if pad is None else pad

    def encode(self, prompt: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids with the special tokens the tokenizer adds in front, never with an EOS that it adds at the end.

        A tokenizer that closes every text with EOS would have the model answer after the end. Where a chat template
        has written the text (`special_tokens=False`) nothing is added, and nothing taken away.

        Raises:
            ValueError: the prompt holds something that the tokenizer has no token for.
        """
        try:
            ids = list(self.tokenizer(prompt, add_special_tokens=special_tokens)["input_ids"])
        except Exception as error:  # the tokenizers library raises nothing more specific
            raise ValueError(f"the tokenizer cannot encode {prompt[:80]!r}: {error}") from error
        while special_tokens and len(ids) > 1 and ids[-1] in self.eos_ids:
            ids.pop()
        return ids

    def decode(self, tokens: Sequence[int] | Tensor) -> str:
        """Text of the tokens without the special ones, blanks left as they are."""
        ids = tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def decode_all(self, responses: Responses) -> list[str]:
        """Text of every response, B strings; one transfer from the device, not one a row."""
        rows = zip(responses.tokens.tolist(), responses.lengths.tolist(), strict=True)
        return [self.decode(tokens[:length]) for tokens, length in rows]

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """What each token adds to the text, special tokens by their names.

        A character that several tokens make up stands at the last of them, and the others are empty; joined, the pieces
        are the text, but for a character that the last tokens leave incomplete.
        """
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        try:
            stream = DecodeStream(skip_special_tokens=False)
            return [stream.step(backend, token) or "" for token in tokens]
        except Exception:  # a tokenizer in Python, or one whose decoder does not go token by token
            return [self.tokenizer.decode([token]) for token in tokens]

    def trained_parameters(self) -> list[nn.Parameter]:
        """What an optimiser is to change: the adapter's parameters, or all of the model's."""
        if self.adapter is None:
            return list(self.model.parameters())
        return list(self.adapter.slot.parameters.values())

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """For a forward pass: the compute dtype, whatever autocast stands around it, and this policy's adapter.

        Enter it anew for every forward pass that needs a gradient: autocast keeps its converted weights until
        the outermost one is left, also those converted without gradient. No two policies on one base can be inside
        at a time, so a generator must not stop here.
        """
        is_mixed = self.compute_dtype != self.model.dtype
        adapter = self.adapter
        in_place = nullcontext() if adapter is None else adapter.slot.holding(adapter.tensors)
        with (
            in_place,
            torch.autocast(
                self.device.type, dtype=self.compute_dtype if is_mixed else None, enabled=is_mixed
            ),
        ):
            yield


def generation_eos(model: PreTrainedModel) -> list[int]:
    """What the generation configuration names as EOS, whether the tokenizer knows it or not."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    if configured is None:
        return []
    return [configured] if isinstance(configured, int) else list(configured)
