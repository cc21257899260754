"""Run by torchrun in two processes that share a policy and a reference: it is written, moved and put back."""

import json
import sys
from pathlib import Path

import torch.distributed as dist
from verl_batches import engine_of

from owpo.hosts.verl_weights import copy_weights, export, load_weights, sharded_hash


def main() -> None:
    model, reference, folder = map(Path, sys.argv[1:])
    policy, other = engine_of(model), engine_of(reference, forward_only=True)
    told = {"before": sharded_hash(other)}
    export(other, folder / "saved")
    copy_weights(policy, other)
    told["moved"] = sharded_hash(other)
    export(other, folder / "moved")
    load_weights(other, folder / "saved")
    told["loaded"] = sharded_hash(other)
    if dist.get_rank() == 0:
        (folder / "hashes.json").write_text(json.dumps(told))
    dist.barrier()  # or the one that leaves first may abort the other's connection
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
