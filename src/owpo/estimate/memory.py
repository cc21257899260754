"""Bytes of a training run by phase and item; docs/memory.md explains each.

Shape legend: P prompts, G responses per prompt, B = P * G, T response tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from owpo.config import FixedProtocol, RunConfig
from owpo.estimate.shape import ModelShape, NoEstimate, config_at, model_config, shape_of
from owpo.estimate.tracing import PassBytes, decoding_bytes, scoring_bytes, training_bytes
from owpo.policy.decoding import cache_bytes
from owpo.policy.load import DTYPES
from owpo.policy.sampler import PREFILL_TOKENS

ASSUMED_PROMPT_TOKENS = 256
# A response token of a step: in the sampler's buffers (int64 token, float32 log-prob), in its batches and again where
# they are joined (with a mask).
_TOKEN_BYTES = 12 + 13 + 13
_KEPT_TOKEN_BYTES = 13 + 8  # of the joined rows and two log-probs, while they are trained on


@dataclass(frozen=True)
class Phase:
    """What is in memory at the fullest moment of one part of a step: bytes by item."""

    name: str
    items: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.items.values())


@dataclass(frozen=True)
class MemoryEstimate:
    phases: tuple[Phase, ...]
    parameters: int
    prompt_tokens: int

    @property
    def fullest(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)


@dataclass(frozen=True)
class Models:
    """The shapes of a run's policy, and of its reference where there is one."""

    policy: ModelShape
    config: PreTrainedConfig
    reference: ModelShape | None

    @property
    def parameters(self) -> int:
        return self.policy.parameters


def models_of(config: RunConfig) -> Models:
    """
    Raises:
        NoEstimate: a model's configuration cannot be had or says nothing that is known here, or an adapter is trained.
    """
    if config.model.lora is not None:
        raise NoEstimate(
            "what an adapter takes (model.lora) is not known; it is far below what whole weights do"
        )
    own = model_config(config.model)
    policy = shape_of(own)
    reference = policy if config.objective.build().needs.reference else None
    given = config.ratchet.reference if isinstance(config.ratchet, FixedProtocol) else None
    if given not in (None, "base"):
        assert given is not None
        reference = shape_of(config_at(given, trust_remote_code=config.model.trust_remote_code))
    return Models(policy, own, reference)


def prompt_tokens_of(config: RunConfig, models: Models, prompt_tokens: int | None) -> int:
    """The longest prompt: as given, else the longest allowed, else assumed; no longer than the context leaves.

    Raises:
        NoEstimate: the context holds no prompt beside it.
    """
    tokens = prompt_tokens or config.problems.max_prompt_tokens or ASSUMED_PROMPT_TOKENS
    if models.policy.context is None:
        return tokens
    room = models.policy.context - config.rollout.max_new_tokens
    if room < 1:
        raise NoEstimate(
            f"rollout.max_new_tokens = {config.rollout.max_new_tokens} leaves no prompt in the model's context of "
            f"{models.policy.context} tokens"
        )
    return min(tokens, room)


def estimate_memory(
    config: RunConfig, models: Models, *, prompt_tokens: int, process: int = 0
) -> MemoryEstimate:
    """
    Args:
        prompt_tokens: of the longest prompt.
        process: bytes that the process takes before any model is loaded; 0 on a device.

    Raises:
        NoEstimate: the architecture's attention is not known.
    """
    weights = 4 * models.parameters
    reference = 0 if models.reference is None else 4 * models.reference.parameters
    always = {
        "process": process,
        "policy": weights,
        # Two moments; they are there from the first update on.
        "optimiser": 2 * weights,
        "reference": reference,
    }
    phases = (
        Phase("sampling", {**always, **_sampling(config, models, prompt_tokens)}),
        Phase("scoring", {**always, **_scoring(config, models, prompt_tokens)}),
        Phase("update", {**always, **_update(config, models, prompt_tokens)}),
    )
    return MemoryEstimate(
        tuple(Phase(phase.name, {k: v for k, v in phase.items.items() if v}) for phase in phases),
        models.parameters,
        prompt_tokens,
    )


def _sampling(config: RunConfig, models: Models, prompt_tokens: int) -> dict[str, int]:
    rollout, shape = config.rollout, models.policy
    slots, group, longest = _decoded(config)
    token_bytes = 2 * shape.kv_heads * shape.head_dim * _dtype(config).itemsize

    def cache_with(response_tokens: int) -> int:
        of_prompt = min(group, slots)
        return cache_bytes(
            slots, of_prompt, prompt_tokens, response_tokens, layers=shape.layers, token_bytes=token_bytes
        )

    prefill = min(max(PREFILL_TOKENS, prompt_tokens), prompt_tokens * -(-slots // group))
    of_prompts, of_step = decoding_bytes(
        shape.config,
        slots,
        prompt_tokens + longest,
        prefill,
        dtype=_dtype(config),
        top_p=config.evaluation.top_p,
    )
    cache, passed = cache_with(longest), of_step
    comes_at_once = slots == rollout.prompts * rollout.group_size
    # Prompts that come in later meet the others' full cache, those that come first an empty one.
    before = cache_with(0) if comes_at_once else cache
    if before + of_prompts.peak > cache + of_step.peak:
        cache, passed = before, of_prompts
    rows = rollout.prompts * rollout.group_size * _rounds(config)
    return {
        "cache": cache,
        **_pass_items(passed),
        "responses": rows * longest * _TOKEN_BYTES,
    }


def _decoded(config: RunConfig) -> tuple[int, int, int]:
    """Rows decoded at a time, rows of a prompt, and the longest response."""
    rollout = config.rollout
    slots = min(rollout.batch_size, rollout.prompts * rollout.group_size)
    return slots, rollout.group_size, rollout.max_new_tokens


def _rounds(config: RunConfig) -> int:
    wants = config.rollout.dynamic_sampling
    if wants is None:
        wants = config.objective.build().scaffold.dynamic_sampling
    return config.rollout.max_rounds if wants else 1


def _scoring(config: RunConfig, models: Models, prompt_tokens: int) -> dict[str, int]:
    (prompts, group), _ = micro_batch_of(config, prompt_tokens)
    longest = config.rollout.max_new_tokens
    passed = scoring_bytes(models.policy.config, prompts, group, prompt_tokens, longest, dtype=_dtype(config))
    has_outgoing = models.reference is not None and not isinstance(config.ratchet, FixedProtocol)
    return {
        # In the first step against a reference that has moved, the one before it is loaded beside it.
        "reference before": 4 * models.parameters if has_outgoing else 0,
        **_pass_items(passed),
        "responses": _kept_rows(config),
    }


def _update(config: RunConfig, models: Models, prompt_tokens: int) -> dict[str, int]:
    (prompts, group), is_all = micro_batch_of(config, prompt_tokens)
    sizes = (models.policy.config, prompts, group, prompt_tokens, config.rollout.max_new_tokens)
    checkpointing = config.training.gradient_checkpointing
    passed = training_bytes(
        *sizes, dtype=_dtype(config), gradient_checkpointing=checkpointing, has_gradients=True
    )
    gradients = 4 * models.parameters
    if is_all:
        # The only micro-batch: gradients come while what was kept goes.
        first = training_bytes(
            *sizes, dtype=_dtype(config), gradient_checkpointing=checkpointing, has_gradients=False
        )
        together = max(first.peak, gradients)
        gradients = max(together - passed.peak, 0)
    return {
        "gradients": gradients,
        **_pass_items(passed),
        "responses": _kept_rows(config),
    }


def _pass_items(passed: PassBytes) -> dict[str, int]:
    """Of what a pass holds above its kept activations, the logits of a chunk or of the slots are the largest part."""
    return {"activations": passed.kept, "logits and other work": passed.peak - passed.kept}


def _kept_rows(config: RunConfig) -> int:
    rollout = config.rollout
    rows = rollout.prompts * rollout.group_size
    return rows * rollout.max_new_tokens * (_KEPT_TOKEN_BYTES + 13 * _rounds(config))


def micro_batch_of(config: RunConfig, prompt_tokens: int) -> tuple[tuple[int, int], bool]:
    """Prompts, and responses to each, in the fullest micro-batch of full length; and whether it is the only one.

    As `policy.logprobs.micro_batches` fills them: a prompt counts once for its rows.
    """
    rollout, budget = config.rollout, config.training.micro_batch_tokens
    prompts = -(-rollout.prompts // config.training.updates_per_batch)
    whole = prompt_tokens + rollout.group_size * rollout.max_new_tokens
    if whole > budget:
        rows = max((budget - prompt_tokens) // rollout.max_new_tokens, 1)
        return (1, rows), False
    fitting = min(budget // whole, prompts)
    return (fitting, rollout.group_size), fitting == prompts


def _dtype(config: RunConfig) -> torch.dtype:
    return DTYPES[config.run.dtype]


def surely_below(config: RunConfig, models: Models, prompt_tokens: int, size: int) -> bool:
    """Whether a bound that is far too high is below `size`: then no pass need be traced."""
    shape, text = models.policy, models.policy.config
    slots, _, longest = _decoded(config)
    (prompts, rows), _ = micro_batch_of(config, prompt_tokens)
    tokens = prompts * (prompt_tokens + rows * longest) + slots + max(PREFILL_TOKENS, prompt_tokens)
    widths = 16 * shape.hidden + 8 * (getattr(text, "intermediate_size", None) or 4 * shape.hidden)
    # Attention may get whole texts of a prompt, each of its responses with it, and a mask of all pairs.
    gathered = prompts * rows * (prompt_tokens + longest)
    heads = 8 * shape.head_dim * (text.num_attention_heads + 2 * shape.kv_heads)
    activations = 4 * shape.layers * (tokens * widths + (tokens + gathered) * heads)
    masks = 16 * gathered * (prompt_tokens + longest)
    logits = 64 * shape.vocabulary * max(slots, 1024)
    cache = 16 * shape.layers * shape.kv_heads * shape.head_dim * slots * (longest + 3 * prompt_tokens)
    responses = 64 * config.rollout.prompts * config.rollout.group_size * longest * _rounds(config)
    models_bytes = 40 * models.parameters
    return models_bytes + activations + masks + logits + cache + responses < size


def gibibytes(size: int) -> str:
    """With three digits."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:,.{0 if size >= 100 * unit else 1 if size >= 10 * unit else 2}f} {name}"
    return f"{size / 2**10:,.0f} KiB"
