"""What passes hold in memory: the real code, run on tensors that have shapes and no data.

torch's fake tensors let every operation of a pass happen but its arithmetic, also those of its backward pass. We watch
which storages are alive. So what is told is what the code does, whatever the architecture, and a model of 7B is
"run" in a second on any machine. Layers are alike: two of them and three give the bytes of all by a straight line.

Shape legend: B rows, N tokens of a packed row, R rows that are decoded, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import PreTrainedConfig

from owpo.estimate.shape import NoEstimate, build
from owpo.policy.attention import UnknownAttention, hidden_states
from owpo.policy.choose import choose
from owpo.policy.decoding import KeyValues, Step
from owpo.policy.head import chunk_size
from owpo.policy.model import Policy
from owpo.policy.packing import Packed, pack, pack_prompts
from owpo.policy.passes import recomputing

_Held = TypeVar("_Held")


@dataclass(frozen=True)
class PassBytes:
    """Above weights, gradients and cache: `kept` stays for the backward pass, `peak` is the most at one time."""

    kept: int
    peak: int

    def line_to(self, longer: PassBytes, layers: int) -> PassBytes:
        """The straight line through two layers (self) and three, at `layers`."""
        by_layers = (
            round(here + (there - here) * (layers - 2))
            for here, there in ((self.kept, longer.kept), (self.peak, longer.peak))
        )
        return PassBytes(*by_layers)


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations inside it have made, and that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What comes in and was not made in here (a weight, of which a view or an update in place comes out) is not new.
        foreign = {id(storage) for storage in _storages((args, kwargs))} - self._seen.keys()
        output = func(*args, **(kwargs or {}))
        for storage in _storages(output):
            if id(storage) not in foreign:
                self._see(storage)
        return output

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_iter(values) if isinstance(value, Tensor)]


def training_bytes(
    config: PreTrainedConfig,
    prompts: int,
    group: int,
    prompt_tokens: int,
    response_tokens: int,
    *,
    dtype: torch.dtype,
    gradient_checkpointing: bool,
    has_gradients: bool,
) -> PassBytes:
    """Forward and backward pass of a micro-batch: log-probs with their entropies (`accumulate_gradients`).

    Args:
        has_gradients: from an earlier micro-batch; then they are not counted, else they are, as they come.
    """
    sizes = (prompts, group, prompt_tokens, response_tokens)
    return _of_all_layers("train", config, sizes, dtype, gradient_checkpointing, has_gradients)


def scoring_bytes(
    config: PreTrainedConfig,
    prompts: int,
    group: int,
    prompt_tokens: int,
    response_tokens: int,
    *,
    dtype: torch.dtype,
) -> PassBytes:
    """Forward pass without gradient of a micro-batch (`reference_logprobs`)."""
    return _of_all_layers(
        "score", config, (prompts, group, prompt_tokens, response_tokens), dtype, False, False
    )


def decoding_bytes(
    config: PreTrainedConfig, rows: int, context: int, prefill: int, *, dtype: torch.dtype, top_p: float
) -> tuple[PassBytes, PassBytes]:
    """Prompts of `prefill` tokens in all; then a token of every row. Kept are converted weights (`sampler._Pool`)."""
    prompts, step = (
        _of_all_layers(kind, config, (rows, context, prefill), dtype, False, False, top_p)
        for kind in ("prefill", "decode")
    )
    return prompts, step


def _of_all_layers(kind: str, config: PreTrainedConfig, *settings: Any) -> PassBytes:
    # A configuration has no hash; its JSON does.
    key = config.to_json_string(use_diff=False)
    layers = config.num_hidden_layers
    _CONFIGS[key] = config
    if layers <= 3:
        return _traced(kind, key, layers, *settings)
    return _traced(kind, key, 2, *settings).line_to(_traced(kind, key, 3, *settings), layers)


_CONFIGS: dict[str, PreTrainedConfig] = {}


@lru_cache(maxsize=256)
def _traced(
    kind: str,
    key: str,
    layers: int,
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    gradient_checkpointing: bool,
    has_gradients: bool,
    top_p: float = 1.0,
) -> PassBytes:
    mode = FakeTensorMode()
    with mode:
        policy = Policy(build(_CONFIGS[key], layers), None, dtype)
        if any(kind != "full_attention" for kind in getattr(policy.model.config, "layer_types", None) or ()):
            raise NoEstimate(f"{type(policy.model).__name__} has attention of several kinds")
    try:
        if kind in ("prefill", "decode"):
            return _trace_decoding(mode, policy, *sizes, top_p=top_p, is_prefill=kind == "prefill")
        return _trace_micro_batch(
            mode, policy, *sizes,
            is_training=kind == "train",
            gradient_checkpointing=gradient_checkpointing,
            has_gradients=has_gradients,
        )  # fmt: skip
    except UnknownAttention as error:
        raise NoEstimate(f"{error}, and only attention that is taken over is known") from error


def _trace_micro_batch(
    mode: FakeTensorMode,
    policy: Policy,
    prompts: int,
    group: int,
    prompt_tokens: int,
    response_tokens: int,
    *,
    is_training: bool,
    gradient_checkpointing: bool,
    has_gradients: bool,
) -> PassBytes:
    tokens_BT = torch.ones(prompts * group, response_tokens, dtype=torch.int64)
    packed = pack(
        [[1] * prompt_tokens for _ in range(prompts)],
        [row // group for row in range(prompts * group)],
        tokens_BT,
        torch.full((len(tokens_BT),), response_tokens),
    )
    indices = sum(part.untyped_storage().nbytes() for part in _tensors(packed))
    packed = _faked(mode, packed)
    with mode:
        if has_gradients:
            for parameter in policy.model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        target_N = torch.ones(tokens_BT.numel(), dtype=torch.int64)
    recompute = recomputing(policy.model, gradient_checkpointing)
    with mode, LiveBytes() as live, torch.set_grad_enabled(is_training), recompute:
        with policy.autocast():
            hidden_NH = hidden_states(policy.model, packed.tokens_N, packed.position_N, packed)
            hidden_NH = hidden_NH[packed.predictor]
        kept = live.now
        logp_N, _ = policy.head.selected_logprobs(
            hidden_NH, target_N, 1.0, with_entropy=is_training, chunk_tokens=chunk_size(policy.vocab_size)
        )
        if is_training:
            logp_N.sum().backward()
    return PassBytes(kept + indices, live.most + indices)


def _trace_decoding(
    mode: FakeTensorMode,
    policy: Policy,
    rows: int,
    context: int,
    prefill: int,
    *,
    top_p: float,
    is_prefill: bool,
) -> PassBytes:
    packed = _faked(mode, pack_prompts([[1] * prefill], torch.device("cpu")))
    with mode:
        token_R = torch.ones(rows, dtype=torch.int64)
        kept_R = torch.full((rows,), context - 1)
        own = KeyValues(rows, context)
        layout = Step(
            own=own, prompts=None, kept_R=kept_R, most_kept=context - 1, is_level=False,
            prompt_R=token_R, length_P=token_R[:1],
        )  # fmt: skip
        config = policy.model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        for layer in range(config.num_hidden_layers):  # made before, and counted by `cache_bytes`
            own.of(layer, torch.zeros(1, kv_heads, width, dtype=policy.compute_dtype), context)
    with mode, LiveBytes() as live, torch.no_grad(), policy.autocast():
        hidden_states(policy.model, packed.tokens_N, packed.position_N, packed)
        kept = live.now
        if is_prefill:
            return PassBytes(kept, live.most)
        live.most = live.now
        hidden_RH = hidden_states(policy.model, token_R, kept_R, layout)
        logits_RV = policy.head.logits(hidden_RH)
        choose(logits_RV, 1.0, top_p, torch.zeros(rows, dtype=torch.float64))
    return PassBytes(kept, live.most)


def _faked(mode: FakeTensorMode, held: _Held) -> _Held:
    """The same dataclass, its tensors without data."""

    def fake(value: Any) -> Any:
        if isinstance(value, Tensor):
            return mode.from_tensor(value)
        if isinstance(value, tuple):
            return tuple(fake(each) for each in value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{f.name: fake(getattr(value, f.name)) for f in fields(value)})
        return value

    return fake(held)


def _tensors(packed: Packed) -> Iterator[Tensor]:
    yield from (value for value in vars(packed).values() if isinstance(value, Tensor))
    for bucket in packed.buckets:
        yield from (value for value in vars(bucket).values() if isinstance(value, Tensor))
