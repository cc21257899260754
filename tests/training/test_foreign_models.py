"""A model folder and a problem file that our own code had no part in: plain transformers, plain JSON."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from owpo.errors import Interrupted
from owpo.policy.load import load_policy
from owpo.recipes import build_config
from owpo.run import resume, train
from owpo.stop import StopSignal

TEXTS = [f"What is {a} plus {b}? The sum is {a + b}." for a in range(30) for b in range(30)]


def byte_level_bpe() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("foreign") / request.param
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[request.param]
    torch.manual_seed(0)
    tokenizer = byte_level_bpe()
    config = config_class(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=0, bos_token_id=None,
        tie_word_embeddings=request.param == "qwen2",
    )  # fmt: skip
    model_class(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.filterwarnings("ignore:.*AutoTokenizer.*")
def test_a_foreign_folder_trains_checkpoints_resumes_and_reloads(folder, tmp_path, monkeypatch):
    sets = {}
    for name, numbers in (("train", range(12)), ("selection", range(12, 16)), ("report", range(16, 20))):
        path = tmp_path / f"{name}.jsonl"
        lines = [
            {"id": f"{name}{n}", "prompt": f"What is {n} plus {n}? é\n", "answer": str(2 * n)}
            for n in numbers
        ]
        path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
        sets[name] = {"kind": "jsonl", "path": str(path)}
    data = {
        "run": {"folder": str(tmp_path / "run"), "checkpoint_every": 1, "threads": 1},
        "model": {"path": str(folder)},
        "problems": sets,
        "rollout": {"prompts": 3, "group_size": 4, "max_new_tokens": 6},
        "objective": {"name": "mopd"},
        "training": {
            "learning_rate": 1e-3,
            "warmup_updates": 1,
            "updates_per_batch": 2,
            "micro_batch_tokens": 64,
        },
        "ratchet": {"protocol": "every_k", "steps": 6, "k": 2},
        "evaluation": {"every": 2, "samples": 1, "report_samples": 1},
    }
    whole = train(build_config(data, "test"))

    data["run"]["folder"] = str(tmp_path / "parts")
    real_check = StopSignal.check
    checks = 0

    def check(self, *args):
        nonlocal checks
        checks += 1
        if checks == 8:
            self.received = "SIGTERM"
        real_check(self, *args)

    monkeypatch.setattr(StopSignal, "check", check)
    with pytest.raises(Interrupted):
        train(build_config(data, "test"))
    parts = resume(tmp_path / "parts")
    assert parts.metrics() == whole.metrics()
    assert parts.rows == whole.rows

    trained_folder = parts.version_folder(parts.rows[-1]["version"])
    reloaded = AutoModelForCausalLM.from_pretrained(trained_folder)
    same = AutoModelForCausalLM.from_pretrained(whole.version_folder(whole.rows[-1]["version"]))
    untrained = AutoModelForCausalLM.from_pretrained(folder)
    for name, value in reloaded.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
    assert not torch.equal(reloaded.lm_head.weight, untrained.lm_head.weight)
    text = "What is 7 plus 8? é\n"
    assert load_policy(str(trained_folder)).encode(text) == byte_level_bpe().encode(text)
