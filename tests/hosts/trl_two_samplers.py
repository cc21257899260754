"""Run by torchrun in two processes: one batch, of which the first process has contrast at once and the second none."""

import json
import sys
from pathlib import Path

from fixed_batch import GROUP
from trl import GRPOTrainer
from trl_batches import digits, trainer_of
from trl_scripted import Scripted


def main() -> None:
    model, folder = map(Path, sys.argv[1:])
    script = Scripted()
    GRPOTrainer._generate = lambda trainer, prompts: script(trainer, prompts)
    rows = digits([*"0123456789", *(2 * digit for digit in "0123456789")])
    trainer = trainer_of(model, folder / "out", rows=rows, max_rounds=6, objective="dapo")
    rank = trainer.accelerator.process_index
    trainer.model.train()
    output = trainer._generate_and_score_completions(
        [row for row in digits("67" if rank == 0 else "03") for _ in range(GROUP)]
    )
    asked = trainer.processing_class.batch_decode(output["prompt_ids"], skip_special_tokens=True)
    (filled,) = trainer._metrics["train"]["groups_without_contrast"]
    found = {"calls": [call[::GROUP] for call in script.calls], "asked": asked[::GROUP], "filled": filled}
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
