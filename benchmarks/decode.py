"""Tokens a second of sampling: ours beside transformers' `generate`, for the same prompts, in turn.

    python benchmarks/decode.py [--setting NAME ...] [--batch 128] [--repeats 3] [--compiled] [--json]

A model of random weights, as models.py makes it, answers prompts of 16 tokens, 8 responses to each, `batch` at a time,
until there are the setting's `rounds` x `batch`. `generate` gets the prompts of one batch after the other, each prompt
once for each of its responses, and pads finished rows until the last of the batch is done. Only useful tokens count: up
to a row's EOS, that one included. Temperature 1, the full distribution. Every way makes one call that is not counted;
then they go in turn, A B A B. Ratios are of neighbouring calls, ours / theirs, with the smallest and the largest; `CPU`
is tokens for each second of the processor, which other work on the machine disturbs less.

--compiled adds `generate` with a static cache and a compiled model, which a CPU has to be asked for, and ours with
compiled layers, which a CPU does not use.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import arguments, machine, ratios, spread, table
from models import EOS, NEVER, PAD, Shape, ending_rate, random_prompts, save_model, small_shape
from torch import Tensor
from transformers import AutoModelForCausalLM, CompileConfig, PreTrainedModel

from owpo.policy import Policy, load_policy, sample_batches
from owpo.policy.passes import compile_layers

GROUP = 8
PROMPT = 16
Way = Callable[[int], int]  # a seed -> useful tokens


@dataclass(frozen=True, kw_only=True)
class Setting:
    """
    new      the longest response
    share    of it that the mean is; 1: no response is shorter
    rounds   batches of responses in a call
    """

    name: str
    width: int
    new: int
    share: float = 0.5
    rounds: int = 2
    vocab: int = 100


SETTINGS = (
    Setting(name="w128", width=128, new=64),
    Setting(name="w512", width=512, new=64),
    Setting(name="w128-long", width=128, new=256),
    Setting(name="w128-spread", width=128, new=256, share=0.25, rounds=4),
    Setting(name="w512-spread", width=512, new=128, share=0.25, rounds=4),
    Setting(name="w512-full", width=512, new=64, share=1.0),
)


@dataclass(frozen=True)
class Call:
    tokens: int
    seconds: float
    cpu_seconds: float


def ours(policy: Policy, prompts: list[list[int]], new: int, batch: int) -> Way:
    def call(seed: int) -> int:
        parts = sample_batches(
            policy, prompts, group_size=GROUP, max_new_tokens=new, temperature=1.0, top_p=1.0, seed=seed,
            batch_size=batch,
        )  # fmt: skip
        return sum(int(part.lengths.sum()) for part in parts)

    return call


def theirs(
    model: PreTrainedModel, prompts: list[list[int]], new: int, batch: int, *, compiled: bool = False
) -> Way:
    """`generate`, with its default cache or with a static one and a compiled model."""
    rows = torch.tensor(prompts, device=model.device).repeat_interleave(GROUP, dim=0)
    options: dict[str, object] = {}
    if compiled:
        config = CompileConfig()
        config._compile_all_devices = True  # else only a GPU's model is compiled
        options = {"cache_implementation": "static", "compile_config": config}

    def call(seed: int) -> int:
        torch.manual_seed(seed)
        tokens = 0
        for part in rows.split(batch):
            written = model.generate(
                input_ids=part, attention_mask=torch.ones_like(part), do_sample=True, temperature=1.0, top_p=1.0,
                top_k=0, max_new_tokens=new, eos_token_id=EOS, pad_token_id=PAD, **options,
            )  # fmt: skip
            tokens += useful_tokens(written[:, part.shape[1] :])
        return tokens

    return call


def useful_tokens(tokens_BT: Tensor) -> int:
    """Those of each row up to its first EOS, that one included."""
    before_BT = (tokens_BT == EOS).cumsum(dim=1) - (tokens_BT == EOS).long()
    return int((before_BT == 0).sum())


def timed(way: Way, seed: int) -> Call:
    """One call; what counts the tokens waits for the device."""
    start, cpu_start = time.perf_counter(), time.process_time()
    tokens = way(seed)
    return Call(tokens, time.perf_counter() - start, time.process_time() - cpu_start)


def in_turn(ways: dict[str, Way], repeats: int) -> dict[str, list[Call]]:
    """`repeats` calls of each way after one that is left out."""
    calls: dict[str, list[Call]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            call = timed(way, repeat)
            if repeat > 0:
                calls[name].append(call)
    return calls


def measure(
    shape: Shape, new: int, *, share: float, batch: int, rounds: int, repeats: int, compiled: bool,
    device: str = "cpu", dtype: str = "float32", prompt: int = PROMPT,
) -> dict[str, list[Call]]:  # fmt: skip
    """The calls of every way, on the same prompts and the same weights; `generate` computes in the weights' dtype."""
    with tempfile.TemporaryDirectory(prefix="owpo-decode-") as folder:
        save_model(Path(folder), shape, NEVER if share == 1 else ending_rate(new, share))
        policies = {"owpo": load_policy(folder, device=device, dtype=dtype)}
        if compiled and device != "cpu":
            policies["owpo, compiled"] = load_policy(folder, device=device, dtype=dtype)
            compile_layers(policies["owpo, compiled"].model)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
    prompts = random_prompts(rounds * batch // GROUP, prompt, shape.vocab)
    ways = {name: ours(policy, prompts, new, batch) for name, policy in policies.items()}
    ways["generate"] = theirs(model, prompts, new, batch)
    if compiled:
        ways["generate, static cache, compiled"] = theirs(model, prompts, new, batch, compiled=True)
    return in_turn(ways, repeats)


def show(calls: dict[str, list[Call]]) -> str:
    rows = []
    mine = calls["owpo"]
    for name, theirs in calls.items():
        wall, cpu = (
            [call.tokens / getattr(call, kind) for call in theirs] for kind in ("seconds", "cpu_seconds")
        )
        own_wall, own_cpu = (
            [call.tokens / getattr(call, kind) for call in mine] for kind in ("seconds", "cpu_seconds")
        )
        beside = (
            ["", ""] if name == "owpo" else [spread(ratios(own_wall, wall)), spread(ratios(own_cpu, cpu))]
        )
        tokens = sum(call.tokens for call in theirs) / len(theirs)
        rows.append([name, f"{tokens:.0f}", spread(wall, ".0f"), spread(cpu, ".0f"), *beside])
    headings = ["way", "tokens a call", "tokens / s", "tokens / CPU s", "owpo / this", "CPU"]
    return table(headings, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--setting", nargs="+", choices=[setting.name for setting in SETTINGS], metavar="NAME"
    )
    parser.add_argument("--batch", type=int, default=128, help="responses decoded together")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--compiled", action="store_true", help="generate with a static cache and a compiled model too"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    results = {}
    if not args.json:
        print(f"{machine()}; {args.threads} threads, {args.dtype}")
    for setting in SETTINGS:
        if args.setting and setting.name not in args.setting:
            continue
        calls = measure(
            small_shape(setting.width, setting.vocab, PROMPT + setting.new), setting.new, share=setting.share,
            batch=args.batch, rounds=setting.rounds, repeats=args.repeats, compiled=args.compiled, dtype=args.dtype,
        )  # fmt: skip
        results[setting.name] = {name: [vars(call) for call in made] for name, made in calls.items()}
        if not args.json:
            print(
                f"\n{setting.name}: width {setting.width}, {setting.rounds} x {args.batch} responses of up to "
                f"{setting.new} tokens, {setting.share:.0%} of it on average\n{show(calls)}",
                flush=True,
            )
    if args.json:
        print(json.dumps({"machine": machine(), "arguments": vars(args), "calls": results}))


if __name__ == "__main__":
    main()
