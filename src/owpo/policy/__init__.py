"""A causal LM and what we ask of it: answers, their log-probs, its weights on disk."""

from owpo.policy.head import selected_logprobs
from owpo.policy.load import (
    check_same_vocabulary,
    copy_weights,
    load_beside,
    load_policy,
    load_weights,
    save_policy,
)
from owpo.policy.logprobs import micro_batches, reference_logprobs, response_logprobs
from owpo.policy.lora import add_adapter, merged
from owpo.policy.model import Policy
from owpo.policy.responses import Responses
from owpo.policy.sampler import sample_batches
from owpo.policy.weights import content_hash, policy_hash

__all__ = [
    "Policy",
    "Responses",
    "add_adapter",
    "check_same_vocabulary",
    "content_hash",
    "copy_weights",
    "load_beside",
    "load_policy",
    "load_weights",
    "merged",
    "micro_batches",
    "policy_hash",
    "reference_logprobs",
    "response_logprobs",
    "sample_batches",
    "save_policy",
    "selected_logprobs",
]
