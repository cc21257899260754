"""Run by torchrun in two processes, each with groups of the fixed batch; the mean of their gradients goes to files."""

import sys
from pathlib import Path

import torch
from trl_batches import as_trl, fixed_rows, trainer_of, trl_gradients

CASES = [("owpo", None), ("grpo", "prompt-mean"), ("dr_grpo", None), ("mopd", None)]
"""Objective and reduction."""


def main() -> None:
    model, reference, folder = map(Path, sys.argv[1:])
    rows = fixed_rows(model, reference)
    for name, reduction in CASES:
        trainer = trainer_of(model, folder / "out", objective=name, reduction=reduction)
        rank = trainer.accelerator.process_index
        mine = [2, 0, 1, 3] if rank == 0 else [10, 4, 9, 5, 7, 8, 11, 6]
        parts = [as_trl(rows, trainer, mine[:3]), as_trl(rows, trainer, mine[3:])]
        _, gradients = trl_gradients(trainer, parts)
        mean = [trainer.accelerator.reduce(gradient, reduction="mean") for gradient in gradients]
        if rank == 0:
            torch.save(mean, folder / f"{name}.pt")
    trainer.accelerator.wait_for_everyone()  # or the one that leaves first may abort the other's connection
    trainer.accelerator.end_training()  # which ends the process group


if __name__ == "__main__":
    main()
