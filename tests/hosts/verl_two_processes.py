"""Run by torchrun in two processes, each with groups of the fixed batch; the step's gradients go to files."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from fixed_batch import CASES, fixed_rows
from verl_batches import as_verl, engine_of, verl_gradients

from owpo.core.registry import objective


def main() -> None:
    model, reference, folder = map(Path, sys.argv[1:])
    engine, rows = engine_of(model), fixed_rows(model, reference)
    mine = [[2, 0, 10, 7, 8, 11], [1, 3, 4, 9, 5, 6]][dist.get_rank()]
    for name, reduction in CASES:
        _, gradients = verl_gradients(engine, as_verl(rows, mine, 3), objective(name), reduction)
        if dist.get_rank() == 0:
            torch.save(gradients, folder / f"{name}.pt")
    dist.barrier()  # or the one that leaves first may abort the other's connection
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
