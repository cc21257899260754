"""Sampling from a vLLM engine, whichever weights it holds.

Prompts and responses are token ids; vLLM has no tokenizer here. What ends a response is our own rule: the policy's
EOS tokens, and stop strings looked for in the policy's own text.

Shape legend: P prompts, G responses per prompt, n rows of one batch, T response tokens (padded on the right).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from owpo.errors import InputError, RunFailed
from owpo.policy.model import Policy
from owpo.policy.responses import Responses
from owpo.policy.stopping import StopStrings
from owpo.seeds import derive_seed

_STOP_EVERY = 16  # tokens between two looks for stop strings, as in our own decoding loop


_LONGEST_REASON = 400  # characters; vLLM's errors may go on for pages


def reason(error: BaseException) -> str:
    """What vLLM says, on one line."""
    return " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__


@contextmanager
def failures_told(doing: str) -> Iterator[None]:
    """
    Raises:
        RunFailed: instead of whatever vLLM fails with.
    """
    try:
        yield
    except (RunFailed, InputError):
        raise
    except (ValueError, RuntimeError, NotImplementedError, KeyError) as error:
        raise RunFailed(f"vLLM failed while it {doing}: {reason(error)}") from error


class Requests:
    """Requests to vLLM under keys of ours. Closing gives up those that are not finished."""

    _count = 0  # vLLM wants names that it has not seen

    def __init__(self, llm: Any) -> None:
        self._engine, self._renderer = llm.llm_engine, llm.renderer
        self._keys: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def add(self, key: int, tokens: list[int], settings: Any) -> None:
        Requests._count += 1
        name = str(Requests._count)
        (prompt,) = self._renderer.render_cmpl([{"prompt_token_ids": tokens}])
        self._engine.add_request(name, prompt, settings)
        self._keys[name], self._names[key] = key, name

    def step(self) -> list[tuple[int, Any]]:
        """One forward pass; what vLLM has to tell of each request."""
        outputs = [(self._keys[output.request_id], output) for output in self._engine.step()]
        for key, output in outputs:
            if output.finished:
                del self._keys[self._names.pop(key)]
        return outputs

    def drop(self, key: int) -> None:
        name = self._names.pop(key)
        del self._keys[name]
        self._engine.abort_request([name])

    def close(self) -> None:
        self._engine.abort_request(list(self._keys))


@dataclass
class _Row:
    """A response as far as it has come."""

    tokens: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    is_done: bool = False


@dataclass(frozen=True)
class VLLMSampler:
    """Draws from vLLM, until its engine is asked for other weights.

    Each row has a seed of its own, so its response does not depend on what else is asked, but for the rounding that
    comes with how many rows are computed together.
    """

    policy: Policy
    _llm: Any
    _is_current: Callable[[], bool]

    def batches(
        self,
        prompts: list[list[int]],
        *,
        group_size: int,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        batch_size: int,
        stop: tuple[str, ...] = (),
        skip: int = 0,
        pool_batches: int | None = None,
    ) -> Iterator[Responses]:
        """See `Sampler.batches`. All rows are asked for at once and decoded as vLLM has room; `batch_size` of them
        are given out at a time, in order. Pools, which make a sampling that skips the same bit for bit, have no
        meaning where the engine does not repeat itself.

        Raises:
            ValueError: a prompt leaves too little of the context.
            RunFailed: vLLM failed.
            FloatingPointError: a log-prob is not finite.
        """
        self._check_prompts(prompts, max_new_tokens)
        ending = StopStrings(stop) if stop else None
        num_rows = len(prompts) * group_size
        rows = {row: _Row() for row in range(skip * batch_size, num_rows)}
        settings = _Settings(max_new_tokens, temperature, top_p, self.policy.eos_ids, streams=bool(stop))
        with failures_told("sampled"), closing(Requests(self._llm)) as requests:
            for row in rows:
                requests.add(row, prompts[row // group_size], settings.of(derive_seed(seed, "row", row)))
            for start in range(skip * batch_size, num_rows, batch_size):
                batch = range(start, min(start + batch_size, num_rows))
                while not all(rows[row].is_done for row in batch):
                    assert self._is_current(), "vLLM has been given other weights meanwhile"
                    self._step(requests, rows, ending)
                batch_prompts = [prompts[row // group_size] for row in batch]
                yield self._responses(batch_prompts, [rows.pop(row) for row in batch], ending)

    def _check_prompts(self, prompts: list[list[int]], max_new_tokens: int) -> None:
        length = self._llm.model_config.max_model_len
        longest = max(map(len, prompts))
        if longest + max_new_tokens > length:
            raise ValueError(
                f"a prompt has {longest} tokens; with max_new_tokens = {max_new_tokens} that is more than the context "
                f"of {length} that vLLM was started with"
            )

    def _step(self, requests: Requests, rows: dict[int, _Row], stop: StopStrings | None) -> None:
        for key, output in requests.step():
            row, (new,) = rows[key], output.outputs
            row.tokens += new.token_ids
            if new.logprobs is not None:
                places = zip(new.logprobs, new.token_ids, strict=True)
                row.logp += [found[token].logprob for found, token in places]
            row.is_done = output.finished
            if stop is None or row.is_done or len(row.tokens) % _STOP_EVERY:
                continue
            if stop.found_in_tail(self.policy.decode, row.tokens, _STOP_EVERY):
                row.is_done = True
                requests.drop(key)

    def _responses(self, prompts: list[list[int]], rows: list[_Row], stop: StopStrings | None) -> Responses:
        """The rows up to the token that ends each, that one included."""
        policy = self.policy
        length_n, truncated_n = [], []
        for row in rows:
            length = stop.length(policy.decode, row.tokens) if stop is not None else None
            truncated_n.append(length is None and row.tokens[-1] not in policy.eos_ids)
            length_n.append(len(row.tokens) if length is None else length)
        longest = max(length_n)
        tokens_nT = torch.full((len(rows), longest), policy.pad_id)
        logp_nT = torch.zeros(len(rows), longest)
        for number, (row, length) in enumerate(zip(rows, length_n, strict=True)):
            tokens_nT[number, :length] = torch.tensor(row.tokens[:length])
            if row.logp:  # greedy responses have none: they are certain
                logp_nT[number, :length] = torch.tensor(row.logp[:length])
        if not logp_nT.isfinite().all():
            raise FloatingPointError("vLLM sampled from logits that are NaN or infinite")
        return Responses(
            prompts=prompts,
            tokens=tokens_nT.to(policy.device),
            mask=(torch.arange(longest) < torch.tensor(length_n).unsqueeze(1)).to(policy.device),
            sampler_logp=logp_nT.to(policy.device),
            truncated=torch.tensor(truncated_n, device=policy.device),
        )


@dataclass(frozen=True)
class _Settings:
    """What all rows of a call share; `streams`: every token is told, and not the whole at the end."""

    max_new_tokens: int
    temperature: float
    top_p: float
    eos_ids: tuple[int, ...]
    streams: bool

    def of(self, seed: int) -> Any:
        """vLLM's settings for one row. EOS is what the policy calls so, and nothing that a configuration names."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            max_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=seed,
            logprobs=0 if self.temperature > 0 else None,  # of the sampled token alone
            ignore_eos=True,
            stop_token_ids=list(self.eos_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if self.streams else RequestOutputKind.FINAL_ONLY,
        )
