"""How close training and decoding come to what the machine can do, and how their cost grows.

    python benchmarks/ceilings.py [--widths 128 512] [--repeats 3] [--threads 1] [--quick]
                                   [--compiled] [--profile] [--json]

Ceilings, each the best of many tries: the rate of matrix products in float32 and bfloat16, of a square of 2,048, of
[4096, H] x [H, 4H], which is what a training pass multiplies, and of [128, H] x [H, 4H], which is what decoding 128
rows does; and the bandwidth of a copy of 256 MiB, read and written counted.

Training pass: one `optimiser_update` (forward, backward, clipping, AdamW) on 8 x 8 responses of ragged lengths up to
64 tokens to prompts of 16 tokens, V = 100. Its operations by the formula of work.py, over seconds, as a share of the
ceiling at its own shape. Decoding: 128 responses of exactly 64 tokens; operations over seconds as a share of the
ceiling at its own shape, and bytes (work.py) over seconds as a share of the copy's.

--compiled adds the training pass with compiled layers (`training.compile`), float32 alone. --profile adds what the
processor is busy with in a training pass and in decoding, float32: torch's own count of the time inside each operation.

Growth: seconds of decoding and of the training pass while one size goes through powers of two and the rest stays: the
length of responses (all full), the group's size (4 prompts of 128 tokens), the width. The slope of the logarithms by
least squares, with the smallest and the largest over the repeats: 1 is proportional. Seconds are the processor's, so
that it does not matter which share of the machine this process was given.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import arguments, machine, spread, table
from models import NEVER, Shape, ending_rate, random_prompts, save_model, small_shape
from work import decode_bytes, forward_operations, ragged_lengths, training_rows, updater

from owpo.policy import Policy, load_policy, sample_batches
from owpo.policy.passes import compile_layers

DTYPES = ("float32", "bfloat16")
TRAINED, DECODED = 8, 16  # prompts
GROUP, PROMPT, NEW, VOCAB = 8, 16, 64, 100
TRY_S = 1.0
Work = Callable[[], Any]


def seconds_of(work: Work, device: str = "cpu") -> float:
    """Processor seconds of a call on the CPU, wall-clock seconds of one on CUDA."""
    if device == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def best_rate(work: Work, amount: float, device: str) -> float:
    """`amount` a second in the best of five tries, or of as many as it takes to fill `TRY_S` seconds."""
    work()
    tries: list[float] = []
    while len(tries) < 5 or sum(tries) < TRY_S:
        tries.append(seconds_of(work, device))
    return amount / min(tries)


def matrix_rate(rows: int, inner: int, columns: int, dtype: str, device: str = "cpu") -> float:
    """Operations a second of [rows, inner] x [inner, columns]."""
    left = torch.randn(rows, inner, device=device, dtype=getattr(torch, dtype))
    right = torch.randn(inner, columns, device=device, dtype=getattr(torch, dtype))
    out = torch.empty(rows, columns, device=device, dtype=getattr(torch, dtype))
    # A small product is over in less than the clock can tell.
    again = max(1, round(2e8 / (rows * inner * columns)))

    def work() -> None:
        for _ in range(again):
            torch.mm(left, right, out=out)

    return best_rate(work, 2.0 * rows * inner * columns * again, device)


def copy_rate(device: str = "cpu", size: int = 2**28) -> float:
    """Bytes a second of a copy, what is read and what is written together."""
    source = torch.zeros(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return best_rate(lambda: target.copy_(source), 2.0 * size, device)


def policy_of(shape: Shape, rate: float, device: str, dtype: str) -> Policy:
    with tempfile.TemporaryDirectory(prefix="owpo-ceilings-") as folder:
        save_model(Path(folder), shape, rate)
        return load_policy(folder, device=device, dtype=dtype)


def decoder(policy: Policy, prompts: list[list[int]], group_size: int, new: int) -> Work:
    """A call samples `new` tokens in each row of a model that never ends by itself, all rows in one batch."""

    def decode() -> int:
        batches = sample_batches(
            policy, prompts, group_size=group_size, max_new_tokens=new, temperature=1.0, top_p=1.0, seed=0,
            batch_size=len(prompts) * group_size,
        )  # fmt: skip
        return sum(int(part.lengths.sum()) for part in batches)

    return decode


def works(width: int, dtype: str, device: str, *, compiled: bool = False) -> tuple[Work, Work]:
    """The training pass and the decoding of the module's docstring."""
    shape = small_shape(width, VOCAB, PROMPT + NEW)
    lengths = ragged_lengths(TRAINED * GROUP, NEW, ending_rate(NEW, 0.5))
    rows = training_rows(TRAINED, GROUP, PROMPT, lengths, VOCAB, device)
    policy = policy_of(shape, NEVER, device, dtype)
    if compiled:
        compile_layers(policy.model)
    prompts = random_prompts(DECODED, PROMPT, VOCAB)
    return updater(policy, rows, NEW), decoder(policy_of(shape, NEVER, device, dtype), prompts, GROUP, NEW)


def compiled_shares(width: int, repeats: int) -> dict[str, list[float]]:
    """Rate and share of the training pass with compiled layers, float32 on the CPU."""
    shape = small_shape(width, VOCAB, PROMPT + NEW)
    lengths = ragged_lengths(TRAINED * GROUP, NEW, ending_rate(NEW, 0.5))
    update, _ = works(width, "float32", "cpu", compiled=True)
    update()
    work = 3 * forward_operations(shape, PROMPT, lengths, GROUP)
    ceiling = matrix_rate(4096, width, 4 * width, "float32")
    rates = [work / seconds_of(update) for _ in range(repeats + 1)][1:]
    return {"rate": rates, "share": [rate / ceiling for rate in rates]}


def busy_with(work: Work, most: int = 8) -> list[tuple[str, float]]:
    """Operations by their share of the processor's time, the largest first, and what is left."""
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        work()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    named = [(event.key, event.self_cpu_time_total / total) for event in events[:most]]
    return [*named, ("everything else", 1 - sum(share for _, share in named))]


def shares(width: int, dtype: str, repeats: int, copy: float, device: str = "cpu") -> dict[str, Any]:
    """How close one width in one dtype comes; rates in operations or bytes a second, a list over the repeats."""
    shape = small_shape(width, VOCAB, PROMPT + NEW)
    lengths = ragged_lengths(TRAINED * GROUP, NEW, ending_rate(NEW, 0.5))
    update, decode = works(width, dtype, device)
    trained, decoded = [], []
    for repeat in range(repeats + 1):
        took = seconds_of(update, device), seconds_of(decode, device)
        if repeat > 0:
            trained.append(took[0])
            decoded.append(took[1])
    rows = DECODED * GROUP
    work = 3 * forward_operations(shape, PROMPT, lengths, GROUP)
    decode_work = forward_operations(shape, PROMPT, [NEW] * rows, GROUP)
    traffic = decode_bytes(shape, rows, PROMPT, NEW, 4)
    training_ceiling = matrix_rate(4096, width, 4 * width, dtype, device)
    decode_ceiling = matrix_rate(rows, width, 4 * width, dtype, device)
    return {
        "training rate": [work / s for s in trained],
        "training ceiling": training_ceiling,
        "training share": [work / s / training_ceiling for s in trained],
        "trained tokens a second": [sum(lengths) / s for s in trained],
        "decode rate": [decode_work / s for s in decoded],
        "decode ceiling": decode_ceiling,
        "decode share": [decode_work / s / decode_ceiling for s in decoded],
        "decode share of the copy": [traffic / s / copy for s in decoded],
        "decoded tokens a second": [rows * NEW / s for s in decoded],
    }


def growth(repeats: int, points: int) -> dict[str, Any]:
    """Seconds by size, and the slopes of their logarithms, of decoding and of the training pass, on the CPU."""
    small = small_shape(128, VOCAB, 1024)
    sizes = {
        "length": [(small, 8, 8, 16, 32 * 2**n) for n in range(points)],
        "group size": [(small, 4, 4 * 2**n, 128, 32) for n in range(points)],
        "width": [(small_shape(64 * 2**n, VOCAB, 1024), 8, 4, 16, 32) for n in range(points)],
    }
    found = {}
    for name, cases in sizes.items():
        grown = {"length": 4, "group size": 2}.get(name)
        at = [case[grown] if grown is not None else case[0].hidden for case in cases]
        seconds: dict[str, list[list[float]]] = {"decoding": [], "training": []}
        for shape, prompts, group_size, prompt, new in cases:
            rows = training_rows(prompts, group_size, prompt, [new] * (prompts * group_size), VOCAB)
            policy = policy_of(shape, NEVER, "cpu", "float32")
            works = {
                "decoding": decoder(policy, random_prompts(prompts, prompt, VOCAB), group_size, new),
                "training": updater(policy, rows, new),
            }
            for kind, work in works.items():
                seconds_of(work)
                seconds[kind].append([seconds_of(work) for _ in range(repeats)])
        found[name] = {
            "at": at,
            **{kind: {"seconds": table_, "slopes": slopes(at, table_)} for kind, table_ in seconds.items()},
        }
    return found


def slopes(at: Sequence[float], seconds: Sequence[Sequence[float]]) -> list[float]:
    """The least-squares slope of log seconds against log size, one for each repeat (the columns of `seconds`)."""
    x = [math.log2(size) for size in at]
    return [
        statistics.linear_regression(x, [math.log2(s) for s in column]).slope
        for column in zip(*seconds, strict=True)
    ]


def show_shares(results: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, result in results.items():
        for part, per in (("training", "trained"), ("decode", "decoded")):
            tokens = spread(result[f"{per} tokens a second"], ".0f")
            rate = statistics.median(result[f"{part} rate"]) / 1e9
            ceiling = f"{result[f'{part} ceiling'] / 1e9:.1f}"
            copy = spread(result["decode share of the copy"], ".0%") if part == "decode" else ""
            rows.append(
                [
                    f"{name} {part}",
                    tokens,
                    f"{rate:.1f}",
                    ceiling,
                    spread(result[f"{part} share"], ".0%"),
                    copy,
                ]
            )
    headings = ["", "tokens / s", "GFLOP/s", "ceiling", "share of it", "share of the copy's bandwidth"]
    return table(headings, rows)


def show_growth(found: dict[str, Any]) -> str:
    rows = []
    for name, result in found.items():
        for kind in ("decoding", "training"):
            seconds = [f"{statistics.median(column):.2f}" for column in result[kind]["seconds"]]
            place = f"{result['at'][0]} to {result['at'][-1]}"
            rows.append([f"{kind}, {name}", place, " ".join(seconds), spread(result[kind]["slopes"])])
    return table(["", "sizes", "seconds", "log-log slope"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="fewer sizes in the growth tables")
    parser.add_argument("--compiled", action="store_true", help="the training pass with compiled layers too")
    parser.add_argument("--profile", action="store_true", help="what the time goes into")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    copy = copy_rate()
    square = {dtype: matrix_rate(2048, 2048, 2048, dtype) for dtype in DTYPES}
    if not args.json:
        print(f"{machine()}; {args.threads} threads")
        rates = ", ".join(f"{rate / 1e9:.1f} GFLOP/s in {dtype}" for dtype, rate in square.items())
        print(f"copy {copy / 1e9:.1f} GB/s; square matrices of 2,048: {rates}\n", flush=True)
    close = {
        f"width {width} {dtype}": shares(width, dtype, args.repeats, copy)
        for width in args.widths
        for dtype in DTYPES
    }
    if not args.json:
        print(show_shares(close), flush=True)
    compiled = {width: compiled_shares(width, args.repeats) for width in args.widths if args.compiled}
    if not args.json:
        for width, result in compiled.items():
            rate = statistics.median(result["rate"]) / 1e9
            print(
                f"width {width} float32 training, compiled: {rate:.1f} GFLOP/s, {spread(result['share'], '.0%')}"
            )
    grown = growth(args.repeats, 3 if args.quick else 4)
    if args.json:
        ceilings = {"copy": copy, "square": square}
        print(
            json.dumps(
                {
                    "machine": machine(),
                    "ceilings": ceilings,
                    "shares": close,
                    "compiled": compiled,
                    "growth": grown,
                }
            )
        )
        return
    print(f"\n{show_growth(grown)}", flush=True)
    for width in args.widths if args.profile else ():
        for name, work in zip(("training", "decoding"), works(width, "float32", "cpu"), strict=True):
            rows = [[operation, f"{share:.0%}"] for operation, share in busy_with(work)]
            print(f"\n{table([f'{name}, width {width}', 'of the time'], rows)}", flush=True)


if __name__ == "__main__":
    main()
