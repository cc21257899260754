"""Tiny models, and engines on them: the real vLLM, and a second policy that plays one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

from owpo.engines.engine import LocalSampler
from owpo.engines.fingerprint import Fingerprint, make_probe, weight_digest
from owpo.engines.vllm_engine import VLLMEngine, open_vllm
from owpo.policy import Policy, Responses, copy_weights, reference_logprobs, response_logprobs

CHARACTERS = "0123456789+=,"
PAD, EOS = 0, 1
PROMPTS = [[2, 3, 4], [5, 6, 7, 8, 9], [10]]
SETTINGS = {
    "group_size": 20, "max_new_tokens": 24, "temperature": 0.7, "top_p": 1.0, "seed": 1, "batch_size": 25,
}  # fmt: skip
CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def write_model(folder: Path, kind: str = "llama", **changes: object) -> Path:
    """Two layers over single characters, with heads as wide as vLLM's CPU kernels need, and logits far from equal."""
    vocabulary = {"<pad>": PAD, "<eos>": EOS, **{c: i for i, c in enumerate(CHARACTERS, start=2)}}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<none>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>")
    settings = {
        "vocab_size": len(vocabulary), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256,
        "initializer_range": 0.1, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[kind](**(settings | changes))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def change_weights(policy: Policy, size: float, seed: int = 0) -> None:
    """Every weight by a random amount of this size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += size * torch.randn(weight.shape, generator=generator)


class TwinEngine:
    """An engine that is a second policy: its log-probs are real, of whatever weights it really holds.

    Takes weights over as `take(policy, twin)` does; rounds them to its dtype, as an engine in bfloat16 does."""

    def __init__(
        self,
        policy: Policy,
        take: Callable[[Policy, Policy], None] = copy_weights,
        *,
        dtype: torch.dtype | None = None,
        shows_weights: bool = False,
    ) -> None:
        dtype = dtype or policy.compute_dtype
        self.take, self.shows_weights = take, shows_weights
        self.twin = Policy(copy.deepcopy(policy.model), policy.tokenizer, dtype)
        change_weights(self.twin, 0.1, seed=9)
        self.fingerprint = Fingerprint(make_probe(policy, 0, 48), dtype)
        self.names: list[str] = []

    def sampler(self, policy: Policy, name: str) -> LocalSampler:
        self.names.append(name)
        dtype = self.fingerprint.dtype
        if weight_digest(policy.model.parameters(), dtype) == self.fingerprint.holds:
            return LocalSampler(self.twin)
        self.take(policy, self.twin)
        with torch.no_grad():
            for weight in self.twin.model.parameters():
                weight.copy_(weight.to(dtype))
        digests = [weight_digest(p.model.parameters(), dtype) for p in (policy, self.twin)]
        self.fingerprint.check(
            policy, name, self.scores(), digests[0], digests[1] if self.shows_weights else 0
        )
        return LocalSampler(self.twin)

    def scores(self) -> torch.Tensor:
        probe = self.fingerprint.probe
        return reference_logprobs(self.twin, probe, 1.0, 10**6)[probe.mask]


def open_tiny_vllm(policy: Policy, folder: Path) -> AbstractContextManager[VLLMEngine]:
    return open_vllm(
        policy, folder, max_model_len=250, max_num_seqs=64, cache_gib=0.25, eager=True, trust_remote_code=False,
        seed=3,
    )  # fmt: skip


def largest_gap(policy: Policy, responses: Responses, temperature: float = 0.7) -> float:
    """The largest |log-prob of the sampler - log-prob of the policy|."""
    with torch.no_grad():
        own_BT, _ = response_logprobs(policy, responses, temperature)
    return (own_BT - responses.sampler_logp).abs().max().item()
