"""Run by torchrun in two processes, each with groups of the fixed batch; the step's gradients go to a file."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from fixed_batch import fixed_rows
from verl_batches import as_verl, engine_of, verl_gradients

from owpo.core.registry import objective


def main() -> None:
    model, reference, folder, name, reduction = sys.argv[1:]
    engine = engine_of(Path(model))
    rows = fixed_rows(Path(model), Path(reference))
    mine = [[2, 0, 10, 7, 8, 11], [1, 3, 4, 9, 5, 6]][dist.get_rank()]
    _, gradients = verl_gradients(
        engine, as_verl(rows, mine, 3), objective(name), None if reduction == "None" else reduction
    )
    if dist.get_rank() == 0:
        torch.save(gradients, Path(folder) / "gradients.pt")
    dist.barrier()  # or the one that leaves first may abort the other's connection
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
