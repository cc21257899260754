"""What `owpo check --time` expects beside what short trainings take: peak resident memory, and seconds a step.

Random Qwen3 models, 64 rollouts a step, a verifier whose verdicts are coins, so that every group has a gradient.
Each training and each check runs in a process of its own, on one thread. Peak memory is the kernel's figure of the
training's process. Seconds are CPU seconds, of the fastest of the steps after the first, from timing.jsonl, and the
check is given the mean response length that the training had.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import Qwen3Config, Qwen3ForCausalLM

from owpo.bases.making import build_tokenizer
from owpo.problems.chain_addition import ChainAddition

PROMPTS, GROUP, STEPS, PROMPT_TOKENS = 8, 8, 4, 18


@dataclass(frozen=True)
class Setting:
    width: int
    vocabulary: int
    tokens: int
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    micro_batch_tokens: int = 16384


SETTINGS = [
    Setting(128, 512, 64),
    Setting(128, 512, 256, gradient_checkpointing=True),
    Setting(128, 152_000, 12),
    Setting(512, 512, 64),
    Setting(512, 512, 64, dtype="bfloat16", micro_batch_tokens=2048),
    Setting(512, 152_000, 64, micro_batch_tokens=2048),
]


def recipe(setting: Setting, folder: Path) -> str:
    for name, first in (("train", 0), ("selection", 20), ("report", 30)):
        lines = [
            {"id": f"{name}{n}", "prompt": f"{n:02}+" * 5 + f"{n:02}=", "answer": "1"}
            for n in range(first, first + (PROMPTS if name == "train" else 1))
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = Qwen3Config(
        vocab_size=setting.vocabulary, hidden_size=setting.width, intermediate_size=4 * setting.width,
        num_hidden_layers=4, num_attention_heads=setting.width // 32, num_key_value_heads=setting.width // 64,
        head_dim=32, max_position_embeddings=1024, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
        bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder / "model")
    build_tokenizer(ChainAddition()).save_pretrained(folder / "model")
    sets = "\n".join(
        f'{name} = {{ kind = "jsonl", path = "{folder / name}.jsonl" }}'
        for name in ("train", "selection", "report")
    )
    return f"""
[run]
folder = "{folder / "run"}"
threads = 1
dtype = "{setting.dtype}"
[model]
path = "{folder / "model"}"
[problems]
{sets}
[verifier]
kind = "exact"
flip_correct = 0.5
flip_wrong = 0.5
[rollout]
prompts = {PROMPTS}
group_size = {GROUP}
max_new_tokens = {setting.tokens}
dynamic_sampling = false
[objective]
name = "owpo"
[training]
learning_rate = 1e-6
active_samples = "all"
micro_batch_tokens = {setting.micro_batch_tokens}
gradient_checkpointing = {str(setting.gradient_checkpointing).lower()}
[ratchet]
protocol = "fixed"
reference = "base"
steps = {STEPS}
[evaluation]
every = {STEPS}
samples = 1
report_samples = 1
"""


def run(setting: Setting) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "recipe.toml"
        file.write_text(recipe(setting, folder))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        python = [sys.executable, "-W", "ignore"]
        command = [*python, "-m", "owpo", "train", str(file), "--json"]
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"the training of {setting} failed")
        metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        timing = [json.loads(line) for line in (folder / "run" / "timing.jsonl").read_text().splitlines()]
        length = round(sum(step["response_length"] for step in metrics[1:]) / (STEPS - 1))
        words = ["check", str(file), "--json", "--time", "--prompt-tokens", str(PROMPT_TOKENS)]
        told = subprocess.run(
            [*python, "-m", "owpo", *words, "--response-tokens", str(length)],
            env=environment, check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        estimate = json.loads(told.stdout)["estimate"]
    (seconds,) = estimate["seconds"]
    # To the kernel a KiB is 1,024 bytes on Linux, and the figure is bytes on macOS.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    phases = {"sampling": "sampling_cpu", "scoring": "reference_cpu", "update": "updating_cpu"}
    return {
        **asdict(setting),
        "response_tokens": length,
        "memory": (estimate["memory"]["peak_bytes"] / 2**20, peak / 2**20),
        **{
            ours: (seconds[ours], min(step[theirs] for step in timing[1:])) for ours, theirs in phases.items()
        },
        "step": (
            seconds["total"],
            min(sum(step[name] for name in phases.values()) for step in timing[1:]),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = []
    for setting in SETTINGS:
        result = run(setting)
        results.append(result)
        if args.json:
            continue
        recomputed = ", checkpointing" if setting.gradient_checkpointing else ""
        print(
            f"width {setting.width}, V {setting.vocabulary:,}, up to {setting.tokens} tokens (mean "
            f"{result['response_tokens']}), {setting.dtype}{recomputed}"
        )
        for name, unit in (
            ("memory", "MiB"),
            ("sampling", "s"),
            ("scoring", "s"),
            ("update", "s"),
            ("step", "s"),
        ):
            expected, measured = result[name]
            print(
                f"    {name:10}expected {expected:9.2f} {unit:4}measured {measured:9.2f} {unit:4}"
                f"ratio {expected / measured:5.2f}",
                flush=True,
            )
    if args.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
