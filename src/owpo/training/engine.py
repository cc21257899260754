"""The engine that a run's recipe asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from owpo.config import RunConfig
from owpo.engines.engine import Engine, LocalEngine
from owpo.engines.vllm_engine import open_vllm
from owpo.policy.model import Policy
from owpo.seeds import derive_seed


def open_engine(
    config: RunConfig, policy: Policy, folder: Path, longest_prompt: Callable[[], int]
) -> AbstractContextManager[Engine]:
    """
    Args:
        folder: a model folder of the policy's architecture.
        longest_prompt: tokens of the longest prompt that will be answered.
    """
    rollout = config.rollout
    if rollout.engine == "local":
        return nullcontext(LocalEngine())
    return open_vllm(
        policy,
        folder,
        max_model_len=longest_prompt() + rollout.max_new_tokens,
        max_num_seqs=rollout.batch_size,
        cache_gib=rollout.vllm.cache_gib,
        eager=rollout.vllm.eager,
        trust_remote_code=config.model.trust_remote_code,
        seed=derive_seed(config.seed, "engine"),
    )
