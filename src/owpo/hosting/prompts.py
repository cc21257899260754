"""Prompts in the text that makes a host see the tokens which our own engine sees."""

from __future__ import annotations

from typing import Any

from owpo.errors import InputError
from owpo.policy.model import Policy
from owpo.problems.problem import Problem

# Hosts that take messages are given a chat template which writes the one message as it is.
ADDS_SPECIAL_TOKENS = {"trl": True, "verl": False}


def prompt_as_given(policy: Policy, problem: Problem, engine: str) -> str:
    """
    Raises:
        InputError: no text gives the host the tokens that the prompt has here.
    """
    wanted = policy.encode(problem.prompt, special_tokens=not problem.is_chat)
    tokenizer: Any = policy.tokenizer
    begin = tokenizer.bos_token or ""
    for text in (problem.prompt, begin + problem.prompt, problem.prompt.removeprefix(begin)):
        found = tokenizer(text, add_special_tokens=ADDS_SPECIAL_TOKENS[engine])["input_ids"]
        if list(found) == wanted:
            return text
    raise InputError(
        f"the tokenizer puts special tokens around the prompt of problem {problem.id!r} that run.engine = {engine!r} "
        "does not; use a chat template (problems.template), or train with 'local'"
    )
