"""Prompt templates: what is put around a question before a model reads it, and where its answer then ends.

A set of problems holds bare questions, so that one set serves every model and any two sets can be compared. A base
model needs a text that asks for an answer in a form which the verifier reads; a chat model needs its own chat template
around the same text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from owpo.core.registry import did_you_mean

PLACE = "{question}"


class ChatTokenizer(Protocol):
    """What a chat template is taken from: a tokenizer of the transformers library."""

    chat_template: Any

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Template:
    """A text with a place for the question.

    name     as in `TEMPLATES`; "custom" for a user's own text
    text     holds "{question}"; nothing else in it is replaced, so the braces of LaTeX need no doubling
    stop     texts that end a response: a base model which has answered goes on to pose the next question in the same
             frame, and what it writes there would be read as its answer
    is_chat  whether `render` puts the tokenizer's chat template around the text. The result then begins with the
             special tokens that the model expects: encode it with add_special_tokens=False
    """

    name: str
    text: str
    stop: tuple[str, ...] = ()
    is_chat: bool = False

    def render(self, question: str, tokenizer: ChatTokenizer | None = None) -> str:
        """The prompt that asks `question`; a chat template needs the tokenizer.

        Raises:
            ValueError: a chat template without a tokenizer, or with one that has none, or that fails.
        """
        text = self.text.replace(PLACE, question)
        if not self.is_chat:
            return text
        if tokenizer is None or not tokenizer.chat_template:
            lack = "needs a tokenizer" if tokenizer is None else "needs a tokenizer that has a chat template"
            other = self.name.removeprefix("chat-") if self.name != "chat" else "boxed"
            raise ValueError(
                f"the prompt template {self.name!r} {lack}; choose another, for example {other!r}, "
                "or set tokenizer.chat_template"
            )
        message = {"role": "user", "content": text}
        try:
            return str(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a program that came with the model, in a sandbox: it may raise anything
            raise ValueError(
                f"the tokenizer's chat template fails ({type(error).__name__}: {error}); mend tokenizer.chat_template, "
                f"or choose another prompt template than {self.name!r}"
            ) from error


# The prompts of BytedTsinghua-SIA/DAPO-Math-17k have this text around the problem, word for word.
_DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
    "{question}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
# The instruction that the Qwen2.5-Math model card gives for problems in English.
_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
_CHOICE = (
    "Answer the following multiple-choice question. Think step by step. The last line of your response should be "
    'of the form "Answer: X" (without quotes), where X is the letter of the right option.\n\n'
    "{question}"
)

TEMPLATES: dict[str, Template] = {
    known.name: known
    for known in (
        Template(name="plain", text=PLACE),
        # The cue at the end makes a base model answer, rather than go on with the instruction.
        Template(name="boxed", text=f"Question: {PLACE}\n{_BOXED}\nAnswer:", stop=("\nQuestion:",)),
        Template(name="dapo", text=_DAPO, stop=("\nSolve the following math problem",)),
        Template(name="choice", text=_CHOICE, stop=("\nAnswer the following multiple-choice question",)),
        Template(name="chat", text=PLACE, is_chat=True),
        Template(name="chat-boxed", text=f"{PLACE}\n{_BOXED}", is_chat=True),
        Template(name="chat-dapo", text=_DAPO, is_chat=True),
        Template(name="chat-choice", text=_CHOICE, is_chat=True),
    )
}


def template(name_or_text: str) -> Template:
    """The template of that name, or one of the user's own text, which holds "{question}" and has no stop texts.

    Raises:
        ValueError: neither; with the nearest name.
    """
    if PLACE in name_or_text:
        return Template(name="custom", text=name_or_text)
    if name_or_text not in TEMPLATES:
        raise ValueError(
            f"unknown prompt template {name_or_text[:80]!r}.{did_you_mean(name_or_text, TEMPLATES)} "
            f"Known: {', '.join(TEMPLATES)}; or give a text of your own that holds {PLACE}"
        )
    return TEMPLATES[name_or_text]


def without_wrapper(prompt: str, wrapper: Template) -> str:
    """The question inside a prompt that `wrapper` rendered; the prompt itself where it is not exactly of that form."""
    before, after = wrapper.text.split(PLACE)
    if prompt.startswith(before) and prompt.endswith(after) and len(prompt) >= len(before) + len(after):
        return prompt[len(before) : len(prompt) - len(after)]
    return prompt
