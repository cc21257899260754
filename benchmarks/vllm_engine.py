"""vLLM beside our own decoding loop: the same prompts, seeds and weights, in turn.

    python benchmarks/vllm_engine.py [--width 256] [--layers 4] [--new 128] [--dtype float32] [--device cpu] [--json]

Run it where vLLM is installed (`make test-vllm` makes such an environment). A random Llama samples `--prompts` x
`--group` responses, which end at EOS or at `--new` tokens. It prints tokens a second of both engines in every round,
their ratio, the seconds that handing over changed weights takes, fingerprint included, and how far vLLM's log-probs
are from the trainer's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from owpo.engines.engine import LocalSampler, Sampler
from owpo.engines.vllm_engine import installed_version, open_vllm
from owpo.policy import Policy, Responses, load_policy, reference_logprobs


def write_model(folder: Path, width: int, layers: int, vocab: int) -> None:
    words = {"<eos>": 0, **{f"w{index}": index for index in range(1, vocab)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<none>")), eos_token="<eos>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=4096,
        eos_token_id=0, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sampled(
    sampler: Sampler, prompts: list[list[int]], group: int, new: int, seed: int
) -> tuple[Responses, float]:
    """The responses, and tokens a second."""
    start = time.perf_counter()
    parts = list(
        sampler.batches(
            prompts, group_size=group, max_new_tokens=new, temperature=1.0, top_p=1.0, seed=seed,
            batch_size=len(prompts) * group,
        )
    )  # fmt: skip
    responses = Responses.concatenate(parts, sampler.policy.pad_id)
    return responses, int(responses.lengths.sum()) / (time.perf_counter() - start)


def change(policy: Policy, seed: int) -> None:
    generator = torch.Generator(policy.device).manual_seed(seed)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight += 1e-4 * torch.randn(weight.shape, generator=generator, device=weight.device)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    policy = load_policy(str(folder), device=arguments.device, dtype=arguments.dtype)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(
        1, arguments.vocab, (arguments.prompts, arguments.prompt), generator=generator
    ).tolist()
    rounds: dict[str, list[float]] = {"local": [], "vllm": [], "handing_over_s": []}
    start = time.perf_counter()
    with open_vllm(
        policy, folder, max_model_len=arguments.prompt + arguments.new,
        max_num_seqs=arguments.prompts * arguments.group, cache_gib=arguments.cache_gib, eager=False,
        trust_remote_code=False, seed=0,
    ) as engine:  # fmt: skip
        engine.sampler(policy, "the start")
        seconds = time.perf_counter() - start
        for number in range(arguments.rounds + 1):
            change(policy, number)
            start = time.perf_counter()
            vllm = engine.sampler(policy, f"change {number}")
            handing_over = time.perf_counter() - start
            _, local_speed = sampled(LocalSampler(policy), prompts, arguments.group, arguments.new, number)
            responses, vllm_speed = sampled(vllm, prompts, arguments.group, arguments.new, number)
            if number:  # the first is to warm up
                rounds["local"].append(local_speed)
                rounds["vllm"].append(vllm_speed)
                rounds["handing_over_s"].append(handing_over)
        own_BT = reference_logprobs(policy, responses, 1.0, 16384)
    gap_N = (own_BT - responses.sampler_logp)[responses.mask].abs()
    ratios = [v / k for v, k in zip(rounds["vllm"], rounds["local"], strict=True)]
    return {
        "vllm": installed_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "start_s": seconds,
        "rounds": rounds,
        "tokens_per_second": {name: statistics.median(rounds[name]) for name in ("local", "vllm")},
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
        "gap": {"mean": gap_N.mean().item(), "largest": gap_N.max().item()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("width", 256), ("layers", 4), ("vocab", 4096), ("prompts", 16), ("prompt", 64), ("group", 8), ("new", 128),
        ("rounds", 3),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cache_gib", type=float, default=1.0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), arguments.width, arguments.layers, arguments.vocab)
        found = measure(arguments, Path(folder))
    if arguments.json:
        print(json.dumps({"settings": vars(arguments), **found}, indent=2))
        return
    speed, ratio, gap = found["tokens_per_second"], found["ratio"], found["gap"]
    print(f"{found['vllm']}, torch {found['torch']}, {found['threads']} threads, {arguments.dtype}")
    print(f"tokens a second: local {speed['local']:.0f}, vllm {speed['vllm']:.0f}")
    print(f"vllm / local: {ratio['median']:.2f} ({ratio['least']:.2f} - {ratio['most']:.2f})")
    print(
        f"start {found['start_s']:.1f} s, handing weights over and checking them "
        f"{statistics.median(found['rounds']['handing_over_s']):.2f} s"
    )
    print(f"|log-prob of vllm - trainer's|: mean {gap['mean']:.1e}, largest {gap['largest']:.1e}")


if __name__ == "__main__":
    main()
