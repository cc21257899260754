"""Run by torchrun in two processes, each with groups of the fixed batch; the mean of their gradients goes to a file."""

import sys
from pathlib import Path

import torch
from trl_batches import as_trl, fixed_rows, trainer_of, trl_gradients


def main() -> None:
    model, reference, folder, name, reduction = sys.argv[1:]
    trainer = trainer_of(
        Path(model),
        Path(folder) / "out",
        objective=name,
        reduction=None if reduction == "None" else reduction,
    )
    rows = fixed_rows(Path(model), Path(reference))
    rank = trainer.accelerator.process_index
    mine = [2, 0, 1, 3] if rank == 0 else [10, 4, 9, 5, 7, 8, 11, 6]
    _, gradients = trl_gradients(trainer, [as_trl(rows, trainer, mine[:3]), as_trl(rows, trainer, mine[3:])])
    mean = [trainer.accelerator.reduce(gradient, reduction="mean") for gradient in gradients]
    if rank == 0:
        torch.save(mean, Path(folder) / "gradients.pt")
    trainer.accelerator.wait_for_everyone()  # or the one that leaves first may abort the other's connection
    trainer.accelerator.end_training()  # which ends the process group


if __name__ == "__main__":
    main()
