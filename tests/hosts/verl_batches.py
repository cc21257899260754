"""The fixed batch as verl's worker holds it, and the gradients that verl's engine makes of it."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from fixed_batch import LONGEST
from tensordict import NonTensorData, NonTensorStack, TensorDict
from verl.trainer.config import CheckpointConfig
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry

from owpo.hosts.verl_worker import ACTIVE, STEP, count_step, owpo_loss
from owpo.training.update import TrainingRows


def join_processes() -> None:
    """The process group that torchrun describes, or one of this process alone."""
    if not dist.is_initialized():
        for name, value in {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "0",
        }.items():
            os.environ.setdefault(name, value)
        dist.init_process_group("gloo")


def engine_of(model: Path, dtype: str = "fp32", forward_only: bool = False):
    """verl's FSDP2 engine with a model's weights."""
    join_processes()
    precision = {"param_dtype": dtype, "reduce_dtype": dtype, "buffer_dtype": dtype}
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=HFModelConfig(
            path=str(model), use_remove_padding=False, enable_gradient_checkpointing=False,
            override_config={"attn_implementation": "eager"},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2", model_dtype=dtype, mixed_precision=precision, use_torch_compile=False,
            forward_only=forward_only,
        ),
        optimizer_config=None if forward_only else FSDPOptimizerConfig(lr=1e-3, total_training_steps=1),
        checkpoint_config=CheckpointConfig(),
    )  # fmt: skip
    engine.initialize()
    return engine


def nested(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


def as_verl(rows: TrainingRows, index: Sequence[int], micro_batch: int) -> TensorDict:
    """These rows as `train_batch` gets them."""
    responses = rows.responses
    lengths = responses.lengths.tolist()
    prompts = [torch.tensor(responses.prompts[row]) for row in index]
    answers = [responses.tokens[row, : lengths[row]] for row in index]

    def cut(values: torch.Tensor) -> torch.Tensor:
        return nested([values[row, : lengths[row]] for row in index])

    def spread(values: torch.Tensor) -> torch.Tensor:
        return nested([values[row].float().expand(lengths[row]).clone() for row in index])

    texts = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
    mask = cut(responses.mask.long())
    fields = {
        "prompts": nested(prompts), "responses": nested(answers), "input_ids": nested(texts),
        "position_ids": nested([torch.arange(len(text)) for text in texts]),
        "response_mask": mask, "loss_mask": mask, "advantages": spread(rows.advantage), ACTIVE: spread(rows.active),
        "old_log_probs": cut(rows.old_logp), "ref_log_prob": cut(rows.ref_logp),
    }  # fmt: skip
    data = TensorDict(fields, batch_size=len(index))
    data["uid"] = NonTensorStack(*[f"group {int(rows.group[row])}" for row in index])
    for name, value in {
        "temperature": 1.0, "use_dynamic_bsz": False, "micro_batch_size_per_gpu": micro_batch,
        "use_remove_padding": False, "use_fused_kernels": False, STEP: rows.step,
    }.items():  # fmt: skip
        data[name] = NonTensorData(value)
    return data


def verl_gradients(engine, data: TensorDict, objective, reduction: str | None) -> tuple[float, dict]:
    """Loss and gradients of one optimiser step, as `ActorWorker.train_batch` comes to them."""
    count_step(data, engine.get_data_parallel_group(), LONGEST)
    loss = partial(owpo_loss, objective=objective, reduction=reduction or objective.scaffold.reduction)
    with engine.train_mode():
        engine.optimizer_zero_grad()
        output = engine.forward_backward_batch(data, loss)
        gradients = {
            name: parameter.grad.full_tensor().clone() for name, parameter in engine.module.named_parameters()
        }
    return sum(output["loss"]), gradients
