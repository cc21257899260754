"""Decoding, training and a whole step of Qwen2.5's 0.5B and 1.5B shapes on one CUDA device.

    python benchmarks/gpu.py [--sizes NAME ...] [--parts decode train memory step] [--repeats 3] [--json]

Random weights of those shapes, V = 151,936, in bfloat16 (owpo's weights are float32 and compute in bfloat16, as they
train; `generate` gets bfloat16 weights). Without a CUDA device the same code runs a toy on the CPU, in float32, and
says so: its figures mean nothing but that it works. Every part is a process of its own: one that fails, for want of
memory or of a package, is reported, and the others go on. With --json every part is a line when it is done.

decode  256 rows, prompts of 128 tokens, at most 256 new ones: tokens a second beside transformers' `generate`, with
        its default cache and with a static one and a compiled model, in turn (decode.py). Ragged lengths, two rounds
        of 256 rows; then all rows full, where the least traffic of a step is known: weights and each row's keys and
        values once, in bfloat16, at the bandwidth of a copy measured beside it. The share of that limit is told.
train   tokens a second of one update (forward, backward, AdamW) on 32 x 8 responses of ragged lengths up to 512
        tokens, and its operations (work.py) over seconds as a share of the rate of bfloat16 matrix products of 8,192,
        and of [4096, H] x [H, 4H], both measured beside it. Micro-batches of the largest of three sizes that fits.
memory  peak memory of an update on one response that makes 8,192 tokens with its prompt, and of one on 16 that are as
        many together: weights, gradients and both moments of AdamW in float32 (16 bytes a weight) included.
step    a whole step beside TRL without vLLM, in turn (step.py): 32 prompts of 128 tokens x 8 responses of up to 256,
        with no zero-variance groups and with half of them. TRL is taken from this environment where it is there in
        the version asked for, else from .venv-trl, which is made; without a network to make it, this part fails alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import decode
import step
import torch
from ceilings import copy_rate, matrix_rate, policy_of, seconds_of
from measuring import arguments, machine, peak_mib, spread, table
from models import NEVER, PUBLISHED, Shape, ending_rate
from step_settings import Setting
from work import decode_bytes, forward_operations, layer_parameters, ragged_lengths, training_rows, updater

from owpo.training.update import TrainingRows

# Beside a qwen2 configuration it does; both sides are given the saved tokenizer.
warnings.filterwarnings("ignore", message="AutoTokenizer replaces the tokenizer")

GROUP = 8
ON_CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", "bfloat16") if ON_CUDA else ("cpu", "float32")
ELEMENT = 2 if ON_CUDA else 4  # bytes
# Rows, prompt, longest response.
DECODE = (256, 128, 256) if ON_CUDA else (16, 16, 12)
TRAIN = (256, 128, 512) if ON_CUDA else (16, 16, 24)
STEP = (32, 128, 256) if ON_CUDA else (4, 16, 12)  # prompts, not rows
MEMORY = 8192 if ON_CUDA else 128
SQUARE = 8192 if ON_CUDA else 512
BUDGETS = (16384, 8192, 4096)  # tokens of a micro-batch
STEP_BUDGET = 4096  # of both sides, so that the larger model fits with its reference
PART_LIMIT_S = 1800
Result = dict[str, Any]


def measure_decode(size: str, repeats: int) -> Result:
    """Tokens a second of every way, ragged and full, and the limit of the full ones."""
    shape, (batch, prompt, new) = PUBLISHED[size], DECODE
    rates, note = {}, None
    for name, full in (("ragged", False), ("full", True)):
        options = {
            "share": 1.0 if full else 0.5, "batch": batch, "rounds": 1 if full else 2, "repeats": repeats,
            "device": DEVICE, "dtype": DTYPE, "prompt": prompt,
        }  # fmt: skip
        try:
            calls = decode.measure(shape, new, compiled=True, **options)
        except Exception as error:  # compilers fail in many ways, and the other two are worth having
            note = f"{type(error).__name__}: {str(error)[:500]}"
            calls = decode.measure(shape, new, compiled=False, **options)
        rates[name] = {way: [call.tokens / call.seconds for call in made] for way, made in calls.items()}
    copy = copy_rate(DEVICE)
    limit = batch * new / (decode_bytes(shape, batch, prompt, new, ELEMENT) / copy)
    return {"rates": rates, "copy": copy, "limit": limit, "not compiled": note}


def measure_train(size: str, repeats: int) -> Result:
    """Rates of the training pass and of the matrix products that it is held against."""
    shape, (count, prompt, new) = PUBLISHED[size], TRAIN
    lengths = ragged_lengths(count, new, ending_rate(new, 0.5))
    rows = training_rows(count // GROUP, GROUP, prompt, lengths, shape.vocab, DEVICE)
    budget, seconds = timed_updates(shape, rows, new, repeats)
    work = 3 * forward_operations(shape, prompt, lengths, GROUP)
    tokens = sum(lengths) + count // GROUP * prompt
    return {
        "budget": budget,
        "seconds": seconds,
        "tokens": tokens,
        "work": work,
        "plain work": 6.0 * (layer_parameters(shape) + shape.hidden * shape.vocab) * tokens,
        "square": matrix_rate(SQUARE, SQUARE, SQUARE, DTYPE, DEVICE),
        "pass": matrix_rate(4096, shape.hidden, 4 * shape.hidden, DTYPE, DEVICE),
    }


def timed_updates(shape: Shape, rows: TrainingRows, longest: int, repeats: int) -> tuple[int, list[float]]:
    """Seconds of updates after one that is left out, with the largest micro-batches that fit, and that size."""
    policy = policy_of(shape, NEVER, DEVICE, DTYPE)
    for budget in BUDGETS:
        try:
            update = updater(policy, rows, longest, budget)
            return budget, [seconds_of(update, DEVICE) for _ in range(repeats + 1)][1:]
        except torch.OutOfMemoryError:
            policy.model.zero_grad(set_to_none=True)
            del update
            torch.cuda.empty_cache()
    raise RuntimeError(f"an update does not fit into memory, even in micro-batches of {BUDGETS[-1]} tokens")


def measure_memory(size: str, repeats: int) -> Result:
    """Peak MiB of an update on 8,192 tokens: in one row, and in 16. On the CPU it is the process's, and only grows."""
    shape = PUBLISHED[size]
    peaks = {}
    for count in (16, 1):
        each = MEMORY // count
        rows = training_rows(1, count, 1, [each - 1] * count, shape.vocab, DEVICE)
        if ON_CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        update = updater(policy_of(shape, NEVER, DEVICE, DTYPE), rows, each)
        update()
        peaks[f"{count} of {each}"] = torch.cuda.max_memory_allocated() / 2**20 if ON_CUDA else peak_mib()
        del update
    return {"peaks": peaks, "parameters": layer_parameters(shape) + shape.hidden * shape.vocab}


def measure_step(size: str, repeats: int) -> Result:
    """The records of step.py, by the share of zero-variance groups."""
    prompts, prompt, new = STEP
    found = {}
    for flat in (0.0, 0.5):
        setting = Setting(
            name=f"{size}-{flat:.0%}", size=size, prompts=prompts, prompt=prompt, new=new, flat=flat, device=DEVICE,
            dtype=DTYPE, budget=STEP_BUDGET,
        )  # fmt: skip
        found[f"{flat:.0%}"] = step.measure(setting, repeats=repeats)
    return found


def show_decode(result: Result) -> str:
    rows = []
    for lengths, rates in result["rates"].items():
        for way, values in rates.items():
            beside = (
                [ours / own for ours, own in zip(rates["owpo"], values, strict=True)] if way != "owpo" else []
            )
            share = f"{statistics.median(values) / result['limit']:.0%}" if lengths == "full" else ""
            rows.append([f"{lengths}: {way}", spread(values, ".0f"), spread(beside) if beside else "", share])
    headings = [
        f"copy {result['copy'] / 1e9:.0f} GB/s, limit {result['limit']:.0f} tokens / s",
        "tokens / s",
        "owpo / this",
        "of the limit",
    ]
    failed = f"\ncompiling failed: {result['not compiled']}" if result["not compiled"] else ""
    return table(headings, rows) + failed


def show_train(result: Result) -> str:
    tokens, work = ([result[key] / s for s in result["seconds"]] for key in ("tokens", "work"))
    plain = [result["plain work"] / s for s in result["seconds"]]
    rows = [
        ["tokens a second", spread(tokens, ".0f")],
        ["TFLOP/s", spread([rate / 1e12 for rate in work], ".1f")],
        ["TFLOP/s by 6 x parameters x tokens alone", spread([rate / 1e12 for rate in plain], ".1f")],
    ]
    for name, ceiling in (("square", result["square"]), ("pass", result["pass"])):
        share = spread([rate / ceiling for rate in work], ".0%")
        rows.append([f"share of the {name} ceiling, {ceiling / 1e12:.1f} TFLOP/s", share])
    return table([f"one update, micro-batches of {result['budget']:,} tokens", ""], rows)


def show_memory(result: Result) -> str:
    fixed = 16 * result["parameters"] / 2**20
    rows = [[f"rows: {name} tokens", f"{peak:.0f}"] for name, peak in result["peaks"].items()]
    return table(["peak of an update, MiB", f"(weights, gradients, moments: {fixed:.0f})"], rows)


def show_step(result: Result) -> str:
    return step.summary({f"{share} zero-variance groups": records for share, records in result.items()})


PARTS: dict[str, tuple[Callable[[str, int], Result], Callable[[Result], str]]] = {
    "decode": (measure_decode, show_decode),
    "train": (measure_train, show_train),
    "memory": (measure_memory, show_memory),
    "step": (measure_step, show_step),
}


def in_child(part: str, size: str, repeats: int, threads: int | None) -> Result:
    """The part's result from a process of its own, or {"failed": why}."""
    command = [sys.executable, __file__, "--only", part, "--sizes", size, "--repeats", str(repeats)]
    command += [] if threads is None else ["--threads", str(threads)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=PART_LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"failed": f"it took longer than {PART_LIMIT_S} s"}
    if child.returncode != 0:
        return {"failed": child.stderr.strip()[-2000:]}
    return json.loads(child.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    published = [name for name in PUBLISHED if name != "toy"]
    parser = arguments(__doc__)
    parser.add_argument(
        "--sizes", nargs="+", choices=list(PUBLISHED), default=published if ON_CUDA else ["toy"]
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of the CPU; all cores where it is left out")
    parser.add_argument(
        "--only", choices=list(PARTS), help="this part of the first size, in this process, as JSON"
    )
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.only:
        print(json.dumps(PARTS[args.only][0](args.sizes[0], args.repeats)))
        return
    device = (
        torch.cuda.get_device_name() if ON_CUDA else "no CUDA device, so a toy on the CPU: not a measurement"
    )
    if not args.json:
        print(f"{machine()}; {device}; {DTYPE}", flush=True)
    failed = False
    for size in args.sizes:
        for part in args.parts:
            result = in_child(part, size, args.repeats, args.threads)
            failed |= "failed" in result
            if args.json:
                line = {"machine": machine(), "device": device, "size": size, "part": part, "result": result}
                print(json.dumps(line), flush=True)
                continue
            shown = f"failed: {result['failed']}" if "failed" in result else PARTS[part][1](result)
            print(f"\n{size}, {part}\n{shown}", flush=True)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
