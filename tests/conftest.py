"""A tiny task on a tiny model, both made on the spot: "5=" -> "5", asked of random weights."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from owpo.recipes import build_config
from owpo.run import train

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored

CHARACTERS = "0123456789+=,"


def write_tiny_model(folder: Path, seed: int = 0, words: Sequence[str] = ()) -> Path:
    """A 2-layer Llama over single characters, with random weights; it can also write `words`."""
    vocabulary = {"<pad>": 0, "<eos>": 1, **{c: i for i, c in enumerate([*CHARACTERS, *words], start=2)}}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<none>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_problems(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def as_toml(data: dict) -> str:
    """A recipe file of plain data."""

    def value(item) -> str:
        if isinstance(item, dict):
            return "{ " + ", ".join(f"{key} = {value(each)}" for key, each in item.items()) + " }"
        return json.dumps(item)

    return "".join(f"{key} = {value(item)}\n" for key, item in data.items())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def recipe_data(tmp_path, tiny_model) -> dict:
    """A complete recipe as plain data, for tests to change."""
    sets = {}
    for name, digits in (("train", "0123456"), ("selection", "78"), ("report", "9")):
        lines = [{"id": f"{name}-{d}", "prompt": f"{d}=", "answer": d} for d in digits]
        sets[name] = {"kind": "jsonl", "path": str(write_problems(tmp_path / f"{name}.jsonl", lines))}
    return {
        "seed": 1,
        "run": {"folder": str(tmp_path / "run"), "checkpoint_every": 2, "threads": 1},
        "model": {"path": str(tiny_model)},
        "problems": sets,
        "rollout": {"prompts": 4, "group_size": 16, "max_new_tokens": 4, "max_rounds": 2},
        "objective": {"name": "owpo"},
        "training": {"learning_rate": 1e-2, "warmup_updates": 1, "weight_decay": 0.0},
        "ratchet": {"protocol": "fixed", "reference": "base", "steps": 4},
        "evaluation": {"every": 2, "samples": 2, "report_samples": 2},
    }


CHAT_TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_byte_model(folder: Path, seed: int = 0, context: int = 1024) -> Path:
    """A 1-layer Llama over bytes with a chat template, so that it reads any text."""
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=259,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    byte_level.train_from_iterator(["any text"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level, eos_token="<|end|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=context, eos_token_id=0, bos_token_id=None,
        tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("bytes") / "model")


@pytest.fixture
def finished(recipe_data, tmp_path):
    """A finished run of it, whose report set has 9 problems x 6 samples."""
    lines = [{"id": f"r{n}", "prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(9)]
    write_problems(tmp_path / "report.jsonl", lines)
    recipe_data["evaluation"]["report_samples"] = 6
    recipe_data["rollout"]["batch_size"] = 16
    return train(build_config(recipe_data, "test"))
