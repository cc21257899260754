"""A training step beside TRL's: the same work by `owpo.train` and by TRL's GRPOTrainer, step by step in turn.

    python benchmarks/step.py [--quick] [--setting NAME ...] [--repeats 3] [--threads 1] [--json]

Both get the same folder with random weights (models.py says how its responses get their lengths), the same prompts,
group size, longest response, optimiser updates a batch, learning rate, dtype and threads, AdamW, and rewards that are
set beforehand: in `flat` groups all are equal, in every other group half of the responses are right. owpo runs its
objective `owpo` against the base, without dynamic sampling, which would replace the flat groups. TRL runs loss dapo
with beta 1e-3, so that it computes the reference's log-probs too, generates by transformers, and trains in
micro-batches of the rows whose padded tokens come nearest to owpo's 16,384; its gradient checkpointing, which makes
steps slower, is off unless --checkpointing is given. Each verifies in its own way: TRL calls the reward function, owpo
sends every response to a process that can be killed, and the seconds and the memory of that process are counted.

Either side is a process of its own for a setting and lives through it, TRL's in an environment of its own (.venv-trl,
made on first use). After one step of each that is not counted they go in turn, A B A B: one works, the other waits.
A step lasts from the end of the one before, logs included. Both take their seconds by the same clock: generation
(text included), verification, reference (all scoring without gradient), forward-backward (clipping and optimiser
included), other (the rest). Processor seconds are over all threads and child processes. Figures are medians; ratios
are owpo / TRL, of neighbouring steps, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from measuring import arguments, machine, ratios, spread, table
from models import NEVER, PUBLISHED, ending_rate, random_prompts, save_model, small_shape, write_problems
from step_settings import PHASES, QUICK, SETTINGS, Job, Setting, answers

HERE = Path(__file__).parent
ROOT = HERE.parent
TRL_ENVIRONMENT = ROOT / ".venv-trl"
MEAN_SHARE = 0.5
SIDES = ("owpo", "trl")
Record = dict[str, Any]


class Side:
    """One trainer's process, which makes a step when it is told to."""

    def __init__(self, name: str, python: str, job: Job, log: Path) -> None:
        self.name, self.log = name, log
        self._output = log.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [python, str(HERE / f"step_{name}.py"), job.to_argument()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
        )

    def wait(self) -> Record:
        """What it tells next.

        Raises:
            RuntimeError: it has ended; with the end of what it wrote.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(f"{self.name} ended:\n{self.log.read_text(encoding='utf-8')[-4000:]}")
        return json.loads(line)

    def step(self) -> Record:
        self._send("step")
        return self.wait()

    def _send(self, word: str) -> None:
        assert self._process.stdin is not None
        print(word, file=self._process.stdin, flush=True)

    def close(self) -> None:
        """It leaves by itself; one that does not is killed."""
        try:
            self._send("stop")
            self._process.wait(timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._output.close()


def python_of(side: str) -> str:
    """The interpreter of a side.

    TRL's is this one where it has the version asked for, else that of an environment of its own, which is made where
    there is none, or where it holds other versions.
    """
    if side == "owpo" or has_trl():
        return sys.executable
    wanted = (HERE / "requirements-trl.txt").read_text(encoding="utf-8")
    python, note = TRL_ENVIRONMENT / "bin" / "python", TRL_ENVIRONMENT / ".ready"
    if note.exists() and note.read_text(encoding="utf-8") == wanted:
        return str(python)
    print(f"making {TRL_ENVIRONMENT} for TRL", file=sys.stderr, flush=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(TRL_ENVIRONMENT)],
        [*pip, "--upgrade", "pip"],
        [*pip, "-c", str(ROOT / "constraints.txt"), "torch"],
        [*pip, "-c", str(ROOT / "constraints.txt"), "-r", str(HERE / "requirements-trl.txt")],
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
    note.write_text(wanted, encoding="utf-8")
    return str(python)


def has_trl() -> bool:
    pins = (HERE / "requirements-trl.txt").read_text(encoding="utf-8").splitlines()
    try:
        return f"trl=={version('trl')}" in pins
    except PackageNotFoundError:
        return False


def prepare(setting: Setting, folder: Path) -> tuple[str, str]:
    """The model's folder and the file of the P problems, with the two files that a run of ours asks for beside it."""
    if setting.size is None:
        shape = small_shape(setting.width, setting.vocab, setting.prompt + setting.new)
    else:
        shape = PUBLISHED[setting.size]
    rate = NEVER if setting.full else ending_rate(setting.new, MEAN_SHARE)
    save_model(folder / "model", shape, rate)
    prompts = random_prompts(setting.prompts + 2, setting.prompt, shape.vocab)
    write_problems(folder / "train.jsonl", prompts[2:], answers(setting))
    for name, prompt in zip(("selection", "report"), prompts, strict=False):
        write_problems(folder / f"{name}.jsonl", [prompt], [f"flat-{name}"])
    return str(folder / "model"), str(folder / "train.jsonl")


@contextmanager
def sides_of(
    setting: Setting, names: Sequence[str], threads: int, checkpointing: bool
) -> Iterator[list[Side]]:
    """The processes, loaded and waiting; gone with their files when the block is left."""
    pythons = [python_of(name) for name in names]
    folder = Path(tempfile.mkdtemp(prefix="owpo-step-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        model, problems = prepare(setting, folder)
        job = Job(
            setting=setting, model=model, problems=problems, folder=str(folder), threads=threads,
            checkpointing=checkpointing,
        )  # fmt: skip
        sides = []
        for name, python in zip(names, pythons, strict=True):
            sides.append(Side(name, python, job, folder / f"{name}.log"))
            stack.callback(sides[-1].close)
        for side in sides:
            loaded = side.wait()["version"]
            print(f"{setting.name}: {side.name} {loaded} is loaded", file=sys.stderr, flush=True)
        yield sides


def measure(
    setting: Setting,
    names: Sequence[str] = SIDES,
    *,
    repeats: int,
    threads: int = 1,
    checkpointing: bool = False,
) -> dict[str, list[Record]]:
    """The records of `repeats` steps of each side, made in turn after one of each that is left out."""
    records: dict[str, list[Record]] = {name: [] for name in names}
    with sides_of(setting, names, threads, checkpointing) as sides:
        for number in range(repeats + 1):
            for side in sides:
                record = side.step()
                if number > 0:
                    records[side.name].append(complete(record))
    return records


def complete(record: Record) -> Record:
    """With what no phase holds, and the tokens a second."""
    for phases, total in (("phases", "seconds"), ("cpu_phases", "cpu_seconds")):
        named = {name: record[phases].get(name, 0.0) for name in PHASES[:-1]}
        record[phases] = {**named, PHASES[-1]: record[total] - sum(named.values())}
    return {**record, "tokens_per_second": record["tokens"] / record["seconds"]}


def figures(records: Sequence[Record]) -> dict[str, list[float]]:
    """A list over the steps for every line of a setting's table."""
    found = {"CPU seconds": [r["cpu_seconds"] for r in records]}
    found |= {f"  {name}": [r["cpu_phases"][name] for r in records] for name in PHASES}
    found |= {"seconds": [r["seconds"] for r in records]}
    found |= {f"  {name} ": [r["phases"][name] for r in records] for name in PHASES}
    found |= {"tokens a second": [r["tokens_per_second"] for r in records]}
    return found | {"peak memory, MiB": [r["peak_mib"] for r in records]}


def show(setting: Setting, records: dict[str, list[Record]]) -> str:
    """One setting's table, headed by what was the same on both sides."""
    heads = [setting.describe()]
    for name, steps in records.items():
        mean, cut, flat = (
            statistics.mean(step[key] for step in steps) for key in ("mean_length", "cut_share", "flat_share")
        )
        heads.append(
            f"  {name}: mean length {mean:.1f}, {cut:.0%} cut at {setting.new}, {flat:.0%} zero-variance groups"
        )
    by_side = {name: figures(steps) for name, steps in records.items()}
    rows = []
    for line in next(iter(by_side.values())):
        form = ".0f" if line in ("tokens a second", "peak memory, MiB") else ".3f"
        cells = [format(statistics.median(values[line]), form) for values in by_side.values()]
        if set(records) == set(SIDES):
            tops, bottoms = by_side["owpo"][line], by_side["trl"][line]
            comparable = min(bottoms) > 0.005  # a phase of milliseconds has no ratio worth reading
            cells.append(spread(ratios(tops, bottoms)) if comparable else "")
        rows.append([line, *cells])
    headings = ["a step", *records, *(["owpo / trl"] if set(records) == set(SIDES) else [])]
    return "\n".join([*heads, table(headings, rows)])


def summary(results: dict[str, dict[str, list[Record]]]) -> str:
    """A line a setting: the ratios that are to be read first."""
    rows = []
    for name, records in results.items():
        ours, theirs = records["owpo"], records["trl"]
        cells = [
            spread(ratios([r[key] for r in ours], [r[key] for r in theirs]))
            for key in ("cpu_seconds", "seconds", "tokens_per_second")
        ]
        memory = ours[-1]["peak_mib"] / theirs[-1]["peak_mib"]
        rows.append([name, *cells, f"{memory:.2f}"])
    return table(["owpo / trl", "CPU seconds", "seconds", "tokens a second", "peak memory"], rows)


def chosen(args: argparse.Namespace) -> list[Setting]:
    known = {setting.name: setting for setting in SETTINGS}
    names = args.setting or (QUICK if args.quick else list(known))
    settings = [known[name] for name in names]
    return [replace(setting, dtype=args.dtype, device=args.device) for setting in settings]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument(
        "--setting", nargs="+", choices=[setting.name for setting in SETTINGS], metavar="NAME"
    )
    parser.add_argument("--repeats", type=int, default=3, help="counted steps of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument(
        "--checkpointing", action="store_true", help="TRL's gradient checkpointing, its default"
    )
    args = parser.parse_args()
    results = {}
    if not args.json:
        print(f"{machine()}; {args.threads} threads, {args.dtype}, {args.repeats} steps of each side")
    for setting in chosen(args):
        results[setting.name] = measure(
            setting, args.sides, repeats=args.repeats, threads=args.threads, checkpointing=args.checkpointing
        )
        if not args.json:
            print(f"\n{show(setting, results[setting.name])}", flush=True)
    if args.json:
        print(json.dumps({"machine": machine(), "arguments": vars(args), "steps": results}))
    elif set(args.sides) == set(SIDES):
        print(f"\n{summary(results)}")


if __name__ == "__main__":
    main()
