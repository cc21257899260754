"""verl's real trainer, from our command line, on the CPU: through a move of the reference, a SIGKILL and a resume.

    make verl-cpu          the run of recipes/verl/cpu.toml, about ten minutes on two cores

Then what the worker had in hand in one step is computed again from model folders, by our own passes and `core`: its
reference's log-probs, its policy's, and the weight of every token.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import torch
from safetensors.torch import load_file

from owpo.core.batch import TokenBatch
from owpo.core.registry import objective
from owpo.policy.load import load_policy
from owpo.policy.logprobs import reference_logprobs
from owpo.policy.model import Policy
from owpo.policy.responses import Responses

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "verl" / "cpu.toml"
RECORDED = 9  # step of the host whose tensors are computed again; the checkpoint before it holds its policy
TOLERANCE = 2e-5  # nats: two programs' float32 passes over one model


def main() -> None:
    processes = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    run = ROOT / "runs" / f"verl-cpu-{processes}"
    shutil.rmtree(run, ignore_errors=True)
    started = start(run, processes)
    host = run / "host" / "1"
    wait_for(lambda: len(metrics(host)) >= RECORDED, started, "the ninth step")
    kill_all(started)
    print(f"killed after step {metrics(host)[-1]['step']} of 12, by SIGKILL; nothing of it runs any more")
    before = (host / "checkpoints" / "latest_checkpointed_iteration.txt").read_text()
    subprocess.run([*owpo(), "resume", str(run)], check=True)
    check_lineage(run)
    print(f"it went on from verl's checkpoint {before} and finished")
    check_weights(run, host)


def owpo() -> list[str]:
    return [sys.executable, "-m", "owpo"]


def start(run: Path, processes: int) -> subprocess.Popen:
    verl = tomllib.loads(RECIPE.read_text(encoding="utf-8"))["verl"]
    record = f"+actor_rollout_ref.owpo.record='{run.absolute()}/record'"
    gpus = [word for word in verl["overrides"] if "num_gpus" not in word]
    words = json.dumps([*gpus, f"+ray_kwargs.ray_init.num_gpus={processes}", record])
    settings = [
        "--run.folder", str(run), "--run.keep_checkpoints", "9", "--verl.overrides", words,
        "--verl.gpus_per_node", str(processes),
    ]  # fmt: skip
    return subprocess.Popen([*owpo(), "train", str(RECIPE), *settings])


def metrics(host: Path) -> list[dict]:
    file = host / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(is_there, process: subprocess.Popen, what: str) -> None:
    while not is_there():
        assert process.poll() is None, f"the run ended before {what}"
        time.sleep(0.2)


def kill_all(process: subprocess.Popen) -> None:
    """SIGKILL to the command alone: what it started has to end by itself."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while (left := processes_of_verl()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, f"verl still runs a minute after the run was killed: {left}"


def processes_of_verl() -> list[str]:
    """By what their command lines name; Ray's two agents, which hold nothing, take a minute longer to leave."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        is_agent = "DashboardAgent" in words or "RuntimeEnvAgent" in words
        if not is_agent and any(name in words for name in ("verl_job", "ray::", "raylet", "VLLM::")):
            found.append(f"{folder.name} {words[:60]}")
    return found


def check_lineage(run: Path) -> None:
    lineage = [json.loads(line) for line in (run / "lineage.jsonl").read_text().splitlines()]
    assert [each["candidate"] for each in lineage] == ["base", "stage1-end", "stage2-end"]
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in steps] == [*range(1, 7), *range(1, 7)]
    assert {each["reference"] for each in steps[6:]} == {"stage1-end"}
    rewards = [each["accuracy"] for each in steps]
    assert min(rewards) > 0, rewards
    print("accuracy by step:", " ".join(f"{value:.3f}" for value in rewards))


def check_weights(run: Path, host: Path) -> None:
    found = load_file(run / "record" / f"step-{RECORDED:06d}.safetensors")
    policy = policy_of(host / "checkpoints" / f"global_step_{RECORDED - 1}" / "actor", host)
    reference = load_policy(str(run / "versions" / "stage1-end"))
    responses = responses_of(found)
    mask = found["mask"]
    logp, ref_logp = (reference_logprobs(model, responses, 1.0, 16_384) for model in (policy, reference))
    told = {
        "the policy's log-probs": (found["old_logp"], logp),
        "the reference's log-probs": (found["ref_logp"], ref_logp),
    }
    batch = TokenBatch(
        logp=logp, old_logp=logp, ref_logp=ref_logp, advantage=found["advantage"], mask=mask,
        active=found["active"],
    )  # fmt: skip
    weight = objective("owpo")(batch).stats["weight"]
    told["the tokens' weights"] = (found["stats.weight"], weight)
    for what, (theirs, ours) in told.items():
        difference = (theirs - ours)[mask].abs().max().item()
        print(f"{what}: largest difference {difference:.1e} of {mask.sum()} tokens")
        assert difference <= TOLERANCE, what
    spread = weight[mask & found["active"].unsqueeze(1)]
    assert spread.min() < 0.99 < 1.01 < spread.max(), "nothing was weighted, so that nothing was tested"
    print(
        f"weights from {spread.min():.3f} to {spread.max():.3f}, as our core computes them from the model folders"
    )


def policy_of(checkpoint: Path, host: Path) -> Policy:
    """What verl's shards hold, in float32; its own merging tool writes bfloat16."""
    shards = [torch.load(file, weights_only=False) for file in sorted(checkpoint.glob("model_*.pt"))]
    policy = load_policy(str(host / "start"))
    state = {name: torch.cat([shard[name].to_local() for shard in shards]) for name in shards[0]}
    policy.model.load_state_dict(state)
    return policy


def responses_of(found: dict[str, torch.Tensor]) -> Responses:
    prompts, tokens = [], torch.zeros_like(found["mask"], dtype=torch.long)
    lengths = zip(found["prompt_tokens"].tolist(), found["response_tokens"].tolist(), strict=True)
    for row, (before, after) in enumerate(lengths):
        ids = found["input_ids"][row]
        prompts.append(ids[:before].tolist())
        tokens[row, :after] = ids[before : before + after]
    return Responses(
        prompts=prompts, tokens=tokens, mask=found["mask"], sampler_logp=torch.zeros(tokens.shape),
        truncated=torch.zeros(len(tokens), dtype=torch.bool),
    )  # fmt: skip


if __name__ == "__main__":
    main()
