"""What a reference costs: as a second whole model, and as an adapter on the learner's base.

    python benchmarks/lora_memory.py [--hidden 640] [--layers 12] [--vocab 32000] [--rank 16] [--json]

A Qwen2 of random weights, about 100 million parameters. Each way runs in a process of its own, with the learner in
place and one pass behind it: bytes of the tensors that the reference adds, growth of the resident set when it is
loaded from its version's folder and has made a pass, and the seconds to write that version and to load it, as a move
of the reference does. Then CPU seconds on one thread, of the learner sampling 32 responses of 32 tokens and of its
forward and backward pass over as many, and of the reference scoring them. The last lines are by the shapes alone.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from owpo.policy import (
    Policy,
    Responses,
    add_adapter,
    load_beside,
    load_policy,
    response_logprobs,
    sample_batches,
    save_policy,
)
from owpo.policy.lora import target_names
from owpo.policy.weights import content_hash, policy_state

SHAPES = {  # published sizes: hidden, intermediate, layers, heads, key-value heads, vocabulary, tied
    "Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "Qwen2.5-1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "Qwen2.5-7B": (3584, 18944, 28, 28, 4, 152064, False),
}


def qwen2(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool
) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied, bos_token_id=None,
        eos_token_id=1,
    )  # fmt: skip


def write_base(folder: Path, config: Qwen2Config) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    characters = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "0": 2}, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=characters, pad_token="<pad>", eos_token="<eos>")
    tokenizer.save_pretrained(folder)


def resident_bytes() -> int:
    """Linux; what the allocator keeps of freed memory is given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def some_responses(rows: int, length: int, vocab: int) -> Responses:
    tokens = torch.randint(3, vocab, (rows, length), generator=torch.Generator().manual_seed(0))
    return Responses(
        prompts=[[2]] * rows,
        tokens=tokens,
        mask=torch.ones(rows, length, dtype=torch.bool),
        sampler_logp=torch.zeros(rows, length),
        truncated=torch.zeros(rows, dtype=torch.bool),
    )


def score(policy: Policy, rows: int = 1, length: int = 64) -> None:
    """The pass of a reference."""
    with torch.no_grad():
        response_logprobs(policy, some_responses(rows, length, policy.vocab_size), 1.0)


def update(policy: Policy) -> None:
    """The forward and backward pass of a learner."""
    policy.model.zero_grad(set_to_none=True)
    responses = some_responses(32, 32, policy.vocab_size)
    response_logprobs(policy, responses, 1.0, with_entropy=True)[0].sum().backward()


def sample(policy: Policy) -> None:
    settings = {"group_size": 8, "max_new_tokens": 32, "temperature": 1.0, "top_p": 1.0, "seed": 0}
    for _ in sample_batches(policy, [[2] * 16] * 4, **settings):
        pass


def cpu_seconds(work: Callable[[], None]) -> float:
    """Of the fastest of three, after one."""
    work()
    seconds = []
    for _ in range(3):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure(way: str, folder: Path, rank: int) -> dict[str, float]:
    """Megabytes and seconds; the reference is the learner as it stands, written and loaded as a run does."""
    torch.set_num_threads(1)
    base = str(folder / "base")
    learner = load_policy(base)
    if way == "adapter":
        learner = add_adapter(
            learner, rank=rank, alpha=2 * rank, targets="all-linear", seed=0, base=base,
            base_hash=content_hash(learner.model),
        )  # fmt: skip
    score(learner)
    start = time.perf_counter()
    save_policy(learner, folder / way)
    written = time.perf_counter() - start
    before = resident_bytes()
    start = time.perf_counter()
    if way == "adapter":
        reference = load_beside(learner, folder / way)
    else:
        reference = load_policy(str(folder / way))
    loaded = time.perf_counter() - start
    score(reference)
    resident = resident_bytes() - before
    tensors = sum(tensor.nbytes for tensor in policy_state(reference).values())
    on_disk = sum(file.stat().st_size for file in (folder / way).iterdir())
    return {
        "tensors_MB": tensors / 1e6,
        "resident_MB": resident / 1e6,
        "on_disk_MB": on_disk / 1e6,
        "write_s": written,
        "load_s": loaded,
        "sample_cpu_s": cpu_seconds(lambda: sample(learner)),
        "update_cpu_s": cpu_seconds(lambda: update(learner)),
        "score_cpu_s": cpu_seconds(lambda: score(reference, 32, 32)),
    }


def by_shape(config: Qwen2Config, rank: int) -> tuple[float, float]:
    """Millions of parameters of the model, and of an adapter of this rank on it."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    modules = dict(model.named_modules())
    targets = [modules[name] for name in target_names(model, "all-linear")]
    adapter = sum(rank * (module.in_features + module.out_features) for module in targets)
    return model.num_parameters() / 1e6, adapter / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("hidden", 640), ("layers", 12), ("vocab", 32000), ("rank", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=("full", "adapter"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.way:
        print(json.dumps(measure(chosen.way, chosen.folder, chosen.rank)))
        return
    heads = max(1, chosen.hidden // 64)
    config = qwen2(chosen.hidden, 4 * chosen.hidden, chosen.layers, heads, heads, chosen.vocab, True)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_base(Path(folder) / "base", config)
        for way in ("full", "adapter"):
            words = [sys.executable, __file__, "--way", way, "--folder", folder, "--rank", str(chosen.rank)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found[way] = json.loads(done.stdout)
    shapes = {name: by_shape(qwen2(*shape), chosen.rank) for name, shape in SHAPES.items()}
    if chosen.json:
        print(json.dumps({"measured": found, "by_shape": shapes}, indent=2))
        return
    millions, _ = by_shape(config, chosen.rank)
    print(f"{millions:.0f} million parameters, rank {chosen.rank} on every linear layer, float32")
    print(f"{'the reference':<14}{'full copy':>12}{'adapter':>12}{'share':>9}")
    for name in found["full"]:
        full, adapter = found["full"][name], found["adapter"][name]
        print(f"{name:<14}{full:>12.2f}{adapter:>12.2f}{adapter / full:>9.2%}")
    for name, (model, adapter) in shapes.items():
        print(
            f"{name}: {model:,.0f} million parameters, adapter {adapter:.1f} million, {adapter / model:.2%}"
        )


if __name__ == "__main__":
    main()
