"""The demo's task in TRL: chain addition by a weak base, through two moves of the reference.

    python recipes/trl_demo.py                    # in about 5 minutes on two cores; killed, the same command goes on
    torchrun --nproc_per_node 2 recipes/trl_demo.py --out runs/trl-two      # once the first has made the base

The rest of this file is what a GRPO script in TRL looks like; what is owpo's are the two classes and the reward.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from datasets import Dataset

from owpo.bases.making import ensure_base
from owpo.bases.recipe import ChainAdditionBase
from owpo.hosts.rewards import verifier_reward
from owpo.hosts.trl import OWPOConfig, OWPOTrainer, last_whole_checkpoint
from owpo.policy.tokenizer import load_tokenizer
from owpo.problems.chain_addition import ChainAddition


def problems(split: str, count: int) -> Dataset:
    found = ChainAddition(terms=8).generate(count, split=split, seed=0)
    return Dataset.from_list([{"prompt": problem.prompt, "answer": problem.answer} for problem in found])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="bases/demo")
    parser.add_argument("--out", default="runs/trl-demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=90)
    args = parser.parse_args()
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # that share a step of 32 prompts x 8 responses

    ensure_base(ChainAdditionBase(terms=8, forget_carry=0.7), Path(args.base))
    settings = OWPOConfig(
        output_dir=args.out,
        seed=args.seed,
        objective="owpo",
        move_every=30,
        num_generations=8,
        per_device_train_batch_size=64,
        gradient_accumulation_steps=4 // processes,
        max_completion_length=32,
        learning_rate=1.5e-4,
        lr_scheduler_type="constant",
        max_steps=args.steps,
        save_steps=10,
        save_total_limit=2,
        logging_steps=5,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    trainer = OWPOTrainer(
        model=args.base,
        processing_class=load_tokenizer(args.base),
        reward_funcs=verifier_reward("exact", take="last_number"),
        args=settings,
        train_dataset=problems("train", 20_000),
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(args.out))
    for reference in trainer.lineage:
        print(f"reference of step {reference['step']}: {reference['from']}, {reference['hash'][:12]}")


if __name__ == "__main__":
    main()
