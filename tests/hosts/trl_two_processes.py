"""Run by torchrun in two processes, each with groups of the fixed batch; the mean of their gradients goes to files."""

import sys
from pathlib import Path

import torch
from fixed_batch import CASES, fixed_rows
from trl_batches import as_trl, trainer_of, trl_gradients


def main() -> None:
    model, reference, folder = map(Path, sys.argv[1:])
    rows = fixed_rows(model, reference)
    for name, reduction in CASES:
        trainer = trainer_of(model, folder / "out", objective=name, reduction=reduction)
        rank = trainer.accelerator.process_index
        mine = [2, 0, 1, 3] if rank == 0 else [10, 4, 9, 5, 7, 8, 11, 6]
        parts = [as_trl(rows, trainer, mine[:3]), as_trl(rows, trainer, mine[3:])]
        _, gradients = trl_gradients(trainer, parts)
        mean = {name: trainer.accelerator.reduce(each, reduction="mean") for name, each in gradients.items()}
        if rank == 0:
            torch.save(mean, folder / f"{name}.pt")
    trainer.accelerator.wait_for_everyone()  # or the one that leaves first may abort the other's connection
    trainer.accelerator.end_training()  # which ends the process group


if __name__ == "__main__":
    main()
