"""recipes/trl_demo.py in one process and in two: through moves of the reference, a SIGKILL and a resume.

make trl-check        about six minutes on two cores
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from transformers import AutoModelForCausalLM

from owpo.bases.making import ensure_base
from owpo.bases.recipe import ChainAdditionBase
from owpo.policy.weights import content_hash

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "recipes" / "trl_demo.py")
KILLED_AFTER = 50  # the first move is at step 30, a checkpoint every 10 steps


def main() -> None:
    ensure_base(ChainAdditionBase(terms=8, forget_carry=0.7), ROOT / "bases" / "demo")
    for processes in (1, 2):
        check(processes, ROOT / "runs" / f"trl-check-{processes}")


def check(processes: int, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    started = start(processes, out)
    while lineage_of(out / f"checkpoint-{KILLED_AFTER}") is None:
        assert started.poll() is None, "it ended too early"
        time.sleep(0.2)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    before = lineage_of(out / f"checkpoint-{KILLED_AFTER}")
    assert [each["step"] for each in before] == [0, 30]
    again = start(processes, out)
    assert again.wait() == 0
    after = lineage_of(out / "checkpoint-90")
    assert after[:2] == before
    assert [each["step"] for each in after] == [0, 30, 60, 90]
    last = out / "checkpoint-90"
    assert hash_of(last / "owpo" / "reference") == after[-1]["hash"] == hash_of(last)
    print(
        f"{processes} process(es): killed after step {KILLED_AFTER}, resumed with the reference of step 30 "
        f"({before[-1]['hash'][:12]}), moved at steps 60 and 90"
    )


def start(processes: int, out: Path) -> subprocess.Popen:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), SCRIPT, "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


def hash_of(folder: Path) -> str:
    return content_hash(AutoModelForCausalLM.from_pretrained(folder))


def lineage_of(checkpoint: Path) -> list[dict] | None:
    """None where the checkpoint is not whole."""
    if not (checkpoint / "trainer_state.json").is_file():
        return None
    return json.loads((checkpoint / "owpo" / "lineage.json").read_text())["lineage"]


if __name__ == "__main__":
    main()
