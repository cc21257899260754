"""Models of random weights whose responses have lengths like real ones, and prompts for them.

A random model ends its responses by chance of its weights: all at once or never. Here every token is the last one
with a probability that is chosen, so that lengths are geometric, cut at the longest allowed one, and the same for
whoever samples:

- Column 0 of the embeddings is one constant, and no layer writes there (row 0 of every `o_proj` and `down_proj` is
  zero). It is three times as long as the rest of the residual vector, so that after the last norm it is nearly the
  same number at every position.
- EOS's row of the output layer reads that column alone. Its one weight is set such that the logit is the log-odds
  of the chosen probability above the mean log-sum-exp of all other logits, measured on random tokens.

The weights are otherwise as the architecture draws them, and cost what real ones cost.

Shape legend: N tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

SPECIAL = ("<pad>", "<eos>", "<unk>")
PAD, EOS, UNKNOWN = range(3)
NEVER = 1e-13  # the probability of an EOS that is not to come


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a decoder; `family` is qwen2 (tied embeddings, as the small Qwen2.5) or qwen3 (untied)."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    context: int
    family: str = "qwen3"

    def config(self) -> PretrainedConfig:
        sizes = {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "pad_token_id": PAD,
            "eos_token_id": EOS,
            "bos_token_id": None,
        }
        if self.family == "qwen2":
            return Qwen2Config(**sizes, tie_word_embeddings=True)
        return Qwen3Config(**sizes, head_dim=self.hidden // self.heads, tie_word_embeddings=False)


def small_shape(hidden: int, vocab: int, context: int) -> Shape:
    """Four layers; 4 heads at width 128, 8 at 512, half as many for keys and values."""
    heads = {128: 4, 512: 8}.get(hidden, 4)
    return Shape(
        hidden=hidden, layers=4, heads=heads, kv_heads=heads // 2, intermediate=4 * hidden, vocab=vocab,
        context=context,
    )  # fmt: skip


PUBLISHED = {
    "Qwen2.5-0.5B": Shape(
        hidden=896,
        layers=24,
        heads=14,
        kv_heads=2,
        intermediate=4864,
        vocab=151_936,
        context=32_768,
        family="qwen2",
    ),
    "Qwen2.5-1.5B": Shape(
        hidden=1536,
        layers=28,
        heads=12,
        kv_heads=2,
        intermediate=8960,
        vocab=151_936,
        context=32_768,
        family="qwen2",
    ),
    "toy": Shape(
        hidden=64, layers=2, heads=4, kv_heads=2, intermediate=128, vocab=2000, context=2048, family="qwen2"
    ),
}


def ending_rate(longest: int, mean_share: float) -> float:
    """The probability of EOS at every token for which min(length, longest) has the mean `mean_share` * longest."""
    low, high = NEVER, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        mean = (1 - (1 - middle) ** longest) / middle
        low, high = (middle, high) if mean > mean_share * longest else (low, middle)
    return high


def random_model(shape: Shape, eos_rate: float, seed: int = 0) -> PreTrainedModel:
    """float32 on the CPU, in evaluation mode; every token is an EOS with about the probability `eos_rate`."""
    torch.manual_seed(seed)
    architecture = Qwen2ForCausalLM if shape.family == "qwen2" else Qwen3ForCausalLM
    model = architecture(shape.config()).eval()
    with torch.no_grad():
        _set_ending(model, eos_rate)
    return model


def _set_ending(model: PreTrainedModel, eos_rate: float) -> None:
    """The constant column, and the output row that reads it; see the top of the file."""
    decoder = model.get_decoder()
    embedding_VH, head_VH = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    probe_1N = torch.randint(len(SPECIAL), embedding_VH.shape[0], (1, 64))
    written: list[torch.Tensor] = []
    hook = decoder.norm.register_forward_hook(lambda _module, inputs, _output: written.append(inputs[0]))
    decoder(input_ids=probe_1N, use_cache=False)
    hook.remove()
    head_VH[:, 0] = 0.0  # before the embeddings, which are the same tensor where the two are tied
    embedding_VH[:, 0] = 3 * written[0].norm(dim=-1).mean()
    for layer in decoder.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0
    head_VH[EOS] = 0.0
    hidden_NH = decoder(input_ids=probe_1N, use_cache=False).last_hidden_state[0]
    others_NV = (hidden_NH @ head_VH.T).index_fill(1, torch.tensor([EOS]), -math.inf)
    logit = math.log(eos_rate / (1 - eos_rate)) + others_NV.logsumexp(dim=-1).mean()
    head_VH[EOS, 0] = logit / hidden_NH[:, 0].mean()


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """`size` tokens: three special ones, then the words w3, w4, ..., which stand for the ids 3, 4, ..."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL)}
    vocabulary |= {f"w{index}": index for index in range(len(SPECIAL), size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def save_model(folder: Path, shape: Shape, eos_rate: float, seed: int = 0) -> None:
    """A folder as transformers writes it, with its tokenizer."""
    logging.disable_progress_bar()
    random_model(shape, eos_rate, seed).save_pretrained(folder)
    word_tokenizer(shape.vocab).save_pretrained(folder)


def random_prompts(count: int, length: int, vocab: int, seed: int = 0) -> list[list[int]]:
    """`count` prompts of `length` ordinary tokens each."""
    draw = random.Random(seed)
    return [[draw.randrange(len(SPECIAL), vocab) for _ in range(length)] for _ in range(count)]


def write_problems(path: Path, prompts: list[list[int]], answers: list[str]) -> None:
    """Prompts as words, in the JSONL that both trainers read."""
    lines = [
        {"id": f"{path.stem}-{n}", "prompt": " ".join(f"w{token}" for token in prompt), "answer": answer}
        for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
