"""What token records cost: the same run without them, with the defaults, and with a record of every step.

    python benchmarks/recording.py [--repeats 3] [--steps 20] [--json]

A random Qwen3 model of width 128 and 4 layers, 16 x 8 responses of up to 64 tokens a step, an evaluation of 64 problems
x 4 every 10 steps, one thread. A run is a process of its own, the three kinds in turn, A B C A B C. Its cost is the
processor seconds between the run's first step and its end, evaluations and logs included; ratios are to the run without
records beside it. The default is 8 trained responses every 10 steps, and 8 watched problems at every evaluation.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import arguments, machine, ratios, spread, table
from models import ending_rate, random_prompts, save_model, small_shape, write_problems

KINDS: dict[str, dict[str, int]] = {
    "none": {"token_rollouts": 0, "watched_problems": 0},
    "default": {},
    "every step": {"token_every": 1},
}
PROMPT, NEW, VOCAB = 16, 64, 512


def recipe(folder: Path, kind: str, steps: int) -> dict[str, Any]:
    sets = {
        name: {"kind": "jsonl", "path": str(folder / f"{name}.jsonl")}
        for name in ("train", "selection", "report")
    }
    return {
        "run": {"folder": str(folder / "run"), "threads": 1, "checkpoint_every": 10**6, **KINDS[kind]},
        "model": {"path": str(folder / "model")},
        "problems": sets,
        # Coins for verdicts, so that every group has a gradient.
        "verifier": {"kind": "exact", "flip_correct": 0.5, "flip_wrong": 0.5},
        "rollout": {"prompts": 16, "group_size": 8, "max_new_tokens": NEW, "dynamic_sampling": False},
        "objective": {"name": "owpo"},
        "training": {"learning_rate": 1e-6},
        "ratchet": {"protocol": "fixed", "reference": "base", "steps": steps},
        "evaluation": {"every": 10, "samples": 4, "report_samples": 1},
    }


def prepare(folder: Path) -> None:
    save_model(folder / "model", small_shape(128, VOCAB, PROMPT + NEW), ending_rate(NEW, 0.5))
    prompts = random_prompts(16 * 50 + 64 + 1, PROMPT, VOCAB)
    for name, part in (("train", prompts[65:]), ("selection", prompts[:64]), ("report", prompts[64:65])):
        write_problems(folder / f"{name}.jsonl", part, ["1"] * len(part))


def one_run(kind: str, steps: int) -> dict[str, float]:
    """In this process."""
    from owpo.recipes import build_config
    from owpo.run import train
    from owpo.training.display import Display

    class Timed(Display):
        begun = 0.0

        def stage(self, number: int, sentence: str) -> None:
            self.begun = time.process_time()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        display = Timed()
        train(build_config(recipe(folder, kind, steps), "the benchmark"), display=display)
        seconds = time.process_time() - display.begun
        file = folder / "run" / "tokens.jsonl.gz"
        return {"seconds": seconds / steps, "bytes": (file.stat().st_size if file.exists() else 0) / steps}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kind", choices=KINDS, help="one run in this process; used by the command itself")
    args = parser.parse_args()
    if args.kind is not None:
        print(json.dumps(one_run(args.kind, args.steps)))
        return
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(args.repeats):
        for kind in KINDS:
            words = [sys.executable, "-W", "ignore", __file__, "--kind", kind, "--steps", str(args.steps)]
            done = subprocess.run(
                words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
    if args.json:
        print(json.dumps(found, indent=2))
        return
    plain = [run["seconds"] for run in found["none"]]
    rows = []
    for kind, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        rows.append(
            [kind, spread(seconds, ".3f"), spread(ratios(seconds, plain), ".3f"), f"{runs[0]['bytes']:,.0f}"]
        )
    print(machine())
    print(table(["token records", "CPU s a step", "to none", "bytes a step"], rows))


if __name__ == "__main__":
    main()
