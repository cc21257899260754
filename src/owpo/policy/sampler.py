"""Sampling responses with a decoding loop of our own.

A prompt is computed once for all its responses; rows that have finished leave, and rows of the next prompts take their
place; the log-prob of every token comes from the very distribution it was drawn from.

Shape legend: P prompts, G responses per prompt, n rows in all, T response tokens, H hidden width, V vocabulary. R rows
that are being decoded; they come and go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from owpo.policy.choose import choose, uniform
from owpo.policy.decoding import Decoder
from owpo.policy.model import Policy
from owpo.policy.padded_decoding import PaddedDecoder
from owpo.policy.passes import decoding
from owpo.policy.responses import Responses
from owpo.policy.stopping import StopStrings

# Decoded tokens between two looks for stop strings: a look costs a text per row, a late one a few idle rows.
_STOP_EVERY = 16
# New prompts come in when there is room for this share of the slots: a few prompts cost nearly as many calls as many.
_REFILL_SHARE = 1 / 8
PREFILL_TOKENS = 16384  # of prompts computed in one pass


def sample_batches(
    policy: Policy,
    prompts: list[list[int]],
    *,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch_size: int = 256,
    stop: tuple[str, ...] = (),
    skip: int = 0,
    pool_batches: int | None = None,
) -> Iterator[Responses]:
    """`group_size` responses to every prompt, in the prompts' order, `batch_size` at a time.

    A response ends with an EOS, with the token that completes one of the `stop` texts, or at max_new_tokens.

    The distribution is softmax(logits / temperature), cut to the smallest set of tokens with a mass of at
    least top_p (the most likely token always stays) and renormalised; sampler_logp is its log-prob.
    Temperature 0 takes the most likely token, whose log-prob is then 0.

    A row's random numbers depend on the seed, its place among all rows and the position alone. So the same seed and
    prompts give the same tokens, whatever the batch size, up to the last bits in which a machine's matrix products
    differ with the number of their rows; with the same batch_size and pool_batches they are the same bit for bit.

    Args:
        batch_size: responses decoded together, and given out together.
        stop: texts that end a response.
        skip: batches that are known already, and are not given out again.
        pool_batches: rows take the places of others within so many batches, and not beyond, so that a sampling that
            skips begins at such a boundary; None: within all of them.

    Raises:
        ValueError: a setting is out of bounds, or a prompt is empty or leaves too little of the context.
        FloatingPointError: the policy's logits are not finite.
    """
    _check_settings(group_size, max_new_tokens, temperature, top_p, batch_size)
    _check_prompts(prompts, max_new_tokens, policy.context_length)
    num_rows = len(prompts) * group_size
    pool_rows = num_rows if pool_batches is None else pool_batches * batch_size
    settings = _Settings(
        max_new_tokens, temperature, top_p, seed, batch_size, StopStrings(stop) if stop else None
    )
    for start in range(skip * batch_size // pool_rows * pool_rows, num_rows, pool_rows):
        rows = range(start, min(start + pool_rows, num_rows))
        pool = _Pool(policy, [prompts[row // group_size] for row in rows], start, settings)
        for number in range(start // batch_size, -(-rows.stop // batch_size)):
            batch = pool.next_batch()
            if number >= skip:
                yield batch


def _check_settings(
    group_size: int, max_new_tokens: int, temperature: float, top_p: float, batch_size: int
) -> None:
    counts = {"group_size": group_size, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be 0 (greedy) or positive, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}; 1 samples from every token")


def _check_prompts(prompts: list[list[int]], max_new_tokens: int, context_length: int) -> None:
    if not prompts:
        raise ValueError("there is no prompt to sample from")
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(
                f"prompt {index} has no tokens, so nothing predicts its response; add a BOS token or text"
            )
        if len(prompt) + max_new_tokens > context_length:
            room = context_length - len(prompt)
            fix = (
                f"lower max_new_tokens to {room} or shorten the prompt" if room > 0 else "shorten the prompt"
            )
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens; with max_new_tokens = {max_new_tokens} that is "
                f"more than the model's context of {context_length}; {fix}"
            )


@dataclass(frozen=True)
class _Settings:
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    batch_size: int
    stop: StopStrings | None


class _Pool:
    """Rows 0 to n - 1, decoded in their order as slots become free, and given out in it.

    Args:
        prompts: of every row; rows of one group have the same object.
        first_row: the place of row 0 among all rows, by which random numbers go.
    """

    def __init__(self, policy: Policy, prompts: list[list[int]], first_row: int, settings: _Settings) -> None:
        self.policy, self.prompts, self.first_row, self.settings = policy, prompts, first_row, settings
        device = policy.device
        self.num_slots = min(settings.batch_size, len(prompts))
        self.waiting = _units(prompts, self.num_slots)
        self.decoder: Decoder | PaddedDecoder = (
            Decoder(
                policy, self.num_slots, max(size for _, size in self.waiting), max(map(len, prompts)),
                settings.max_new_tokens,
            )
            if policy.takes_layouts
            else PaddedDecoder(policy, self.num_slots)
        )  # fmt: skip
        self.eos_E = torch.tensor(policy.eos_ids, device=device)
        shape = (len(prompts), settings.max_new_tokens)
        self.tokens_nT = torch.full(shape, policy.pad_id, device=device)
        logp_dtype = torch.promote_types(policy.compute_dtype, torch.float32)
        self.logp_nT = torch.zeros(shape, device=device, dtype=logp_dtype)
        self.is_done_n = torch.zeros(len(prompts), dtype=torch.bool)
        self.num_given = self.num_admitted = self.num_steps = 0
        # By slot: the row, its tokens so far, whether it has finished, and what predicts its next token.
        self.row_R = torch.zeros(0, dtype=torch.int64, device=device)
        self.length_R = torch.zeros_like(self.row_R)
        self.finished_R = torch.zeros_like(self.row_R, dtype=torch.bool)
        self.hidden_RH: Tensor | None = None

    def next_batch(self) -> Responses:
        """The next rows, at most batch_size; decodes until they are done."""
        start, end = self.num_given, min(self.num_given + self.settings.batch_size, len(self.prompts))
        # Not in inference mode, in which autocast would convert every weight anew for every token.
        with torch.no_grad(), self.policy.autocast(), decoding(self.policy.model):
            while not self.is_done_n[start:end].all():
                self._refill()
                self._step()
        self.num_given = end
        tokens_nT, logp_nT = self.tokens_nT[start:end], self.logp_nT[start:end]
        last_n, truncated_n = _ends(self.policy, tokens_nT, self.eos_E, self.settings.stop)
        return _cut(self.prompts[start:end], tokens_nT, logp_nT, last_n, truncated_n, self.policy.pad_id)

    def _refill(self) -> None:
        """Take in prompts where enough slots are free for them."""
        prompts: list[list[int]] = []
        sizes: list[int] = []
        for prompt, size in self.waiting:
            num_tokens = sum(map(len, prompts)) + len(prompt)
            if not self.decoder.has_room(sum(sizes) + size, len(sizes) + 1) or (
                prompts and num_tokens > PREFILL_TOKENS
            ):
                break
            prompts.append(prompt)
            sizes.append(size)
        may_wait = self.decoder.num_rows > 0 and len(self.waiting) > len(sizes)
        if not prompts or (may_wait and sum(sizes) < _REFILL_SHARE * self.num_slots):
            return
        for _ in prompts:
            self.waiting.popleft()
        hidden_RH = self.decoder.admit(prompts, sizes)
        self.hidden_RH = hidden_RH if self.hidden_RH is None else torch.cat([self.hidden_RH, hidden_RH])
        new_R = torch.arange(self.num_admitted, self.num_admitted + sum(sizes), device=self.row_R.device)
        self.num_admitted += len(new_R)
        self.row_R = torch.cat([self.row_R, new_R])
        self.length_R = torch.cat([self.length_R, torch.zeros_like(new_R)])
        self.finished_R = torch.cat([self.finished_R, torch.zeros_like(new_R, dtype=torch.bool)])

    def _step(self) -> None:
        """One token of every row; then those that have finished leave."""
        assert self.hidden_RH is not None
        settings = self.settings
        uniform_R = uniform(settings.seed, self.first_row + self.row_R, self.length_R)
        logits_RV = self.policy.head.logits(self.hidden_RH)
        token_R, logp_R = choose(logits_RV, settings.temperature, settings.top_p, uniform_R)
        self.tokens_nT[self.row_R, self.length_R] = token_R
        self.logp_nT[self.row_R, self.length_R] = logp_R
        self.length_R = self.length_R + 1
        self.num_steps += 1
        self.finished_R = self.finished_R | torch.isin(token_R, self.eos_E)
        if settings.stop is not None and self.num_steps % _STOP_EVERY == 0:
            self.finished_R = self.finished_R | self._stopped(settings.stop)
        is_full_R = self.length_R == settings.max_new_tokens
        leaving_R = self.finished_R | is_full_R
        # A row that has finished may go on for a while, but not beyond its buffer.
        num_leaving, num_full = torch.stack([leaving_R.sum(), is_full_R.sum()]).tolist()
        if (
            num_full
            or num_leaving > self.decoder.leaving_share * len(leaving_R)
            or num_leaving == len(leaving_R)
        ):
            self.is_done_n[self.row_R[leaving_R].cpu()] = True
            order_R = self.decoder.leave(leaving_R)
            self.row_R, self.length_R, self.finished_R, token_R = (
                value[order_R] for value in (self.row_R, self.length_R, self.finished_R, token_R)
            )
        self.hidden_RH = self.decoder.step(token_R) if len(token_R) else None

    def _stopped(self, stop: StopStrings) -> Tensor:
        """Which rows have written a stop string since the last look, [R] bool."""
        lengths = self.length_R.tolist()
        tokens_RT = self.tokens_nT[self.row_R, : max(lengths)].tolist()
        rows = [
            stop.found_in_tail(self.policy.decode, tokens[:length], _STOP_EVERY)
            for tokens, length in zip(tokens_RT, lengths, strict=True)
        ]
        return torch.tensor(rows, device=self.row_R.device)


def _units(prompts: list[list[int]], most: int) -> deque[tuple[list[int], int]]:
    """Each prompt with the number of rows that come in with it: all of its rows, or as many as there are slots."""
    units: deque[tuple[list[int], int]] = deque()
    for prompt in prompts:
        if units and units[-1][0] is prompt and units[-1][1] < most:
            prompt, size = units.pop()
            units.append((prompt, size + 1))
        else:
            units.append((prompt, 1))
    return units


def _ends(
    policy: Policy, tokens_nT: Tensor, eos_E: Tensor, stop: StopStrings | None
) -> tuple[Tensor, Tensor]:
    """The place of every row's last token, [n] int64, and whether it just ran out of room there, [n] bool."""
    is_eos_nT = torch.isin(tokens_nT, eos_E)
    # Only columns that were decoded can hold a row's first EOS: a row is decoded until it has one or a stop
    # string, also where the padding that fills the rest is an EOS itself.
    truncated_n = ~is_eos_nT.any(dim=1)
    last_n = torch.where(truncated_n, tokens_nT.shape[1] - 1, is_eos_nT.int().argmax(dim=1))
    if stop is not None:
        for row, (tokens, last) in enumerate(zip(tokens_nT.tolist(), last_n.tolist(), strict=True)):
            length = stop.length(policy.decode, tokens[: last + 1])
            if length is not None:
                last_n[row], truncated_n[row] = length - 1, False
    return last_n, truncated_n


def _cut(
    prompts: list[list[int]],
    tokens_nT: Tensor,
    logp_nT: Tensor,
    last_n: Tensor,
    truncated_n: Tensor,
    pad_id: int,
) -> Responses:
    """Responses up to each row's last token, that one included."""
    mask_nT = torch.arange(tokens_nT.shape[1], device=tokens_nT.device) <= last_n.unsqueeze(1)
    logp_nT = logp_nT.masked_fill(~mask_nT, 0.0)
    if not logp_nT.isfinite().all():
        raise FloatingPointError(
            "the policy's logits are NaN or infinite, so nothing can be sampled from it; "
            "go back to a checkpoint from before its weights broke"
        )
    longest = int(last_n.max()) + 1
    return Responses(
        prompts=prompts,
        tokens=tokens_nT.masked_fill(~mask_nT, pad_id)[:, :longest],
        mask=mask_nT[:, :longest],
        sampler_logp=logp_nT[:, :longest],
        truncated=truncated_n,
    )
