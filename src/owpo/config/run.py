"""A run's configuration: frozen, strict, and complete before any model loads.

A recipe is a TOML file with these sections; `--section.key value` overrides one entry. A key that nothing reads
does not exist here, and one that is not here is an error that names the nearest.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, field_validator, model_validator

from owpo.bases.recipe import AnyBaseRecipe
from owpo.config.alarms import AlarmsConfig
from owpo.config.engine import Engine, TRLConfig, VerlConfig, check_engine
from owpo.config.problems import ProblemsConfig, presets_of
from owpo.config.ratchet import FixedProtocol, LeapfrogProtocol, ObjectiveConfig, Protocol
from owpo.config.section import PathString, Section
from owpo.config.verifier import ExactVerifier, VerifierConfig
from owpo.core.advantage import ESTIMATORS
from owpo.core.reduce import MODES
from owpo.core.registry import Objective, did_you_mean
from owpo.problems.templates import template


class LoRAConfig(Section):
    rank: Annotated[int, Field(ge=1)] = 16
    """Of the adapter's two factors. With this table the model is frozen and an adapter is trained (docs/lora.md)."""
    alpha: Annotated[int, Field(ge=1)] = 32
    """A target's weight is W + alpha / rank * B A."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Ends of module names, such as ["q_proj", "v_proj"], or "all-linear": every linear layer but the output layer."""

    @field_validator("target_modules", mode="before")
    @classmethod
    def _all_or_names(cls, value: Any) -> Any:
        names = value if isinstance(value, list) else []
        if value != "all-linear" and not (names and all(isinstance(name, str) and name for name in names)):
            raise ValueError(
                f'{value!r} is neither "all-linear" nor a list of module names, such as ["q_proj"]'
            )
        return value


class ModelConfig(Section):
    # A table becomes the dataclass of a base recipe in lax mode alone.
    model_config = ConfigDict(strict=False)

    path: PathString
    """A Hugging Face folder, or a hub id. With `make`, the folder that the base model is written to."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    make: Annotated[AnyBaseRecipe | None, Field(discriminator="task")] = None
    """A weak base model to be made on the spot where `path` does not exist yet."""
    trust_remote_code: StrictBool = False
    """Run Python code that comes with the model. Off unless asked for; recorded in the run folder."""
    lora: LoRAConfig | None = None
    """Train a LoRA adapter on the frozen model instead of all its weights (docs/lora.md); None: the weights."""

    @field_validator("make", mode="before")
    @classmethod
    def _task_of_old(cls, value: Any) -> Any:
        return {"task": "chain_addition", **value} if isinstance(value, dict) else value


class VLLMConfig(Section):
    """Read with `engine = "vllm"` only; docs/vllm.md says what that gives and what it does not."""

    cache_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    """Memory for vLLM's keys and values, on the policy's device; its weights come on top, once more in `run.dtype`."""
    eager: bool = False
    """No compilation and no CUDA graphs: it starts sooner and decodes more slowly. On CPU it is always so."""


_COLDEST_VLLM = 0.01  # below it vLLM would raise the temperature without an error


class RolloutConfig(Section):
    prompts: Annotated[int, Field(ge=1)]
    """Groups a step trains on (P)."""
    group_size: Annotated[int, Field(ge=1)]
    """Responses per prompt (G)."""
    max_new_tokens: Annotated[int, Field(ge=1)]
    """Longest response in tokens; a longer one is cut and counted as truncated."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature; every log-prob of the run is taken at it. Training samples from the full distribution."""
    dynamic_sampling: bool | None = None
    """Replace groups that are all right or all wrong by new ones. None: as the objective's paper does."""
    max_rounds: Annotated[int, Field(ge=1)] = 4
    """Rounds of `prompts` prompts that dynamic sampling may take before it goes on with what it has."""
    overlong_cache: Annotated[int, Field(ge=0)] = 0
    """The last tokens before max_new_tokens over which the reward falls by up to 1 (DAPO, soft overlong); 0: off."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Sequences decoded at a time; one that ends makes room for the next."""
    engine: Literal["local", "vllm"] = "local"
    """What samples: our own decoding loop, or vLLM with the weights handed over and checked (docs/vllm.md)."""
    vllm: VLLMConfig = VLLMConfig()
    stop: list[Annotated[str, Field(min_length=1)]] | None = None
    """Texts that end a response, beside EOS; None: those that go with the template (docs/data.md)."""

    @model_validator(mode="after")
    def _engine_reads_it(self) -> RolloutConfig:
        if self.engine != "vllm" and self.vllm != VLLMConfig():
            raise ValueError(
                f"rollout.vllm is not read with rollout.engine = {self.engine!r}; set the engine to 'vllm', or leave "
                "the table out"
            )
        return self

    @model_validator(mode="after")
    def _cache_fits(self) -> RolloutConfig:
        if self.overlong_cache >= self.max_new_tokens:
            raise ValueError(
                f"rollout.overlong_cache = {self.overlong_cache} must be below rollout.max_new_tokens = "
                f"{self.max_new_tokens}; DAPO uses a fifth of it"
            )
        return self


class TrainingConfig(Section):
    learning_rate: Annotated[float, Field(gt=0)]
    """AdamW's, constant after the warm-up."""
    warmup_updates: Annotated[int, Field(ge=0)] = 10
    """Optimiser updates over which the learning rate rises from 0; again whenever the optimiser is new."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """AdamW's."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's, of the gradient's mean."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's, of its square."""
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the whole gradient."""
    updates_per_batch: Annotated[int, Field(ge=1)] = 1
    """Optimiser updates a rollout batch, each on its own share of the prompts (DAPO: 16)."""
    micro_batch_tokens: Annotated[int, Field(ge=1)] = 16384
    """Tokens of one forward-backward pass, a prompt counted once for its rows. It changes memory and speed, never the
    gradient."""
    gradient_checkpointing: bool = False
    """Keep each layer's input alone for the backward pass and compute the layer again there: less memory, a third more
    time."""
    compile: bool = False
    """Compile the layers (torch.compile): minutes at the start, then faster steps. On a CPU sampling runs uncompiled
    all the same: compiling does not pay there."""
    advantage: str | None = None
    """Baseline; None: the objective's paper's. See docs/objectives.md."""
    reduction: str | None = None
    """How token losses become one number; None: the objective's paper's."""
    active_samples: Literal["curriculum", "all"] = "curriculum"
    """Which samples get the one-way weight: the top |A| of each group, G down to 1 in a stage, or all."""
    max_bad_updates: Annotated[int, Field(ge=1)] = 3
    """Updates in a row with a non-finite loss or gradient (each is skipped) that end the run."""

    @model_validator(mode="after")
    def _known_names(self) -> TrainingConfig:
        for key, value, known in (
            ("advantage", self.advantage, ESTIMATORS),
            ("reduction", self.reduction, MODES),
        ):
            if value is not None and value not in known:
                raise ValueError(
                    f"training.{key} = {value!r} is unknown.{did_you_mean(value, known)} Known: {', '.join(known)}"
                )
        return self


class EvaluationConfig(Section):
    every: Annotated[int, Field(ge=1)]
    """Steps between evaluations on the selection set; the end of a stage is always one."""
    samples: Annotated[int, Field(ge=1)] = 4
    """Responses per selection problem."""
    report_samples: Annotated[int, Field(ge=1)] = 8
    """Responses per report problem, for the closing table."""
    report_last: bool = False
    """Measure the weights at the end of the last stage in the closing table too, whether or not they are its best."""
    share: PathString | None = None
    """A folder where runs leave the closing table's samples for each other: the same weights, asked the same problems
    with the same settings, are sampled once."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The paper evaluates at temperature 1.0 and top_p 0.7."""

    @model_validator(mode="after")
    def _greedy_is_one_sample(self) -> EvaluationConfig:
        if self.temperature == 0 and max(self.samples, self.report_samples) > 1:
            raise ValueError(
                "evaluation.temperature = 0 gives the same response every time; set evaluation.samples and "
                "evaluation.report_samples to 1, or a temperature above 0"
            )
        return self


class RunSection(Section):
    folder: PathString
    """Where everything about the run is kept; it must not exist yet."""
    engine: Engine = "local"
    """What trains a stage: our own loop, TRL's trainer (docs/trl.md) or verl's on Ray (docs/verl.md); also --engine."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 10
    """Steps between checkpoints; the end of a stage is always one."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """How many to keep. With 2 or more, one that is damaged costs only the steps since the one before."""
    rollouts_per_step: Annotated[int, Field(ge=0)] = 4
    """Responses of each step written to rollouts.jsonl."""
    token_rollouts: Annotated[int, Field(ge=0)] = 8
    """Trained responses of a step written to tokens.jsonl.gz token by token: log-probs, deviation, weight, entropy."""
    token_every: Annotated[int, Field(ge=1)] = 10
    """Steps between those, from a stage's first on."""
    watched_problems: Annotated[int, Field(ge=0)] = 8
    """Problems of the selection set whose first response is written there too, when a stage begins and at each
    evaluation: the same problem through the run."""
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)
    """Where the numbers go beside the run folder: TensorBoard (<folder>/tensorboard), W&B, trackio."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the models live; "cuda" is one device."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in. Weights are float32 in any case: updates of 1e-6 vanish in bfloat16 ones."""
    memory_check: Literal["refuse", "warn"] = "refuse"
    """What `owpo train` does where the run is expected to take more memory than is free (docs/memory.md)."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads; None: all cores. Written to the run folder, since results depend on it bit by bit."""


class RunConfig(Section):
    seed: int = 0
    """Of every random choice of the run."""
    run: RunSection
    model: ModelConfig
    problems: ProblemsConfig
    verifier: VerifierConfig = ExactVerifier(kind="exact")
    """How responses are judged. A preset brings its own; without one it is the last number, compared exactly."""
    rollout: RolloutConfig
    objective: ObjectiveConfig
    """What is optimised, by name: `owpo objectives` lists them."""
    training: TrainingConfig
    ratchet: Protocol
    evaluation: EvaluationConfig
    alarms: AlarmsConfig = AlarmsConfig()
    trl: TRLConfig = TRLConfig()
    verl: VerlConfig = VerlConfig()

    @model_validator(mode="before")
    @classmethod
    def _gated_is_no_protocol(cls, data: Any) -> Any:
        ratchet = data.get("ratchet") if isinstance(data, dict) else None
        if isinstance(ratchet, dict) and ratchet.get("protocol") == "gated":
            raise ValueError(
                "ratchet.protocol = 'gated' is a gate around another protocol; name that one (every_k, best_of_stage, "
                "leapfrog) and add a table [ratchet.gate]"
            )
        return data

    @model_validator(mode="before")
    @classmethod
    def _verifier_of_presets(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "verifier" in data or not isinstance(data.get("problems"), dict):
            return data
        kinds = sorted({preset.verifier for preset in presets_of(data["problems"])})
        if len(kinds) > 1:
            raise ValueError(
                f"the problem sets are made for the verifiers {' and '.join(map(repr, kinds))}, and a run has one; set "
                "verifier.kind, or measure the other set by owpo eval"
            )
        return {**data, "verifier": {"kind": kinds[0]}} if kinds else data

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if self.training.updates_per_batch > self.rollout.prompts:
            raise ValueError(
                f"training.updates_per_batch = {self.training.updates_per_batch} needs at least as many prompts, "
                f"but rollout.prompts = {self.rollout.prompts}"
            )
        chosen = self.objective.build()
        self._check_group_size(chosen)
        self._check_reference(chosen)
        self._check_sampler()
        check_engine(self)
        return self

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a response: the recipe's own, else the template's."""
        own = self.rollout.stop
        return template(self.problems.template).stop if own is None else tuple(own)

    def _check_sampler(self) -> None:
        if self.rollout.engine != "vllm":
            return
        if self.model.lora is not None:
            raise ValueError(
                "rollout.engine = 'vllm' is handed whole weights, and model.lora trains an adapter; set the engine to "
                "'local', or leave model.lora out"
            )
        for section in ("rollout", "evaluation"):
            temperature = getattr(self, section).temperature
            if 0 < temperature < _COLDEST_VLLM:
                raise ValueError(
                    f"{section}.temperature = {temperature} is below the {_COLDEST_VLLM} that vLLM samples at; raise "
                    "it, or set rollout.engine to 'local'"
                )

    def _check_group_size(self, chosen: Objective) -> None:
        estimator = self.training.advantage or chosen.scaffold.advantage
        if self.rollout.group_size > 1:
            return
        if estimator in ("group_std", "group_mean", "leave_one_out"):
            raise ValueError(
                f"rollout.group_size = 1 leaves nothing to compare: advantage {estimator!r} of objective "
                f"{chosen.name!r} is relative to the group; use 2 or more (DAPO: 16)"
            )
        if self.rollout.dynamic_sampling:
            raise ValueError(
                "rollout.group_size = 1 makes every group all right or all wrong, and rollout.dynamic_sampling "
                "would drop them all; use a larger group or turn it off"
            )

    def _check_reference(self, chosen: Objective) -> None:
        protocol = self.ratchet
        reads = chosen.needs.reference
        if isinstance(protocol, FixedProtocol):
            if reads and protocol.reference is None:
                raise ValueError(
                    f"objective {chosen.name!r} reads a reference and ratchet.reference is missing; set it to "
                    "'base', to a model folder or to a hub id"
                )
            if not reads and protocol.reference is not None:
                raise ValueError(
                    f"ratchet.reference = {protocol.reference!r} would not be read by objective {chosen.name!r}; "
                    "leave it out, or choose an objective that reads one (owpo objectives lists them)"
                )
            return
        if not reads:
            raise ValueError(
                f"ratchet.protocol = {protocol.protocol!r} moves a reference that objective {chosen.name!r} does not "
                "read; use protocol 'fixed', or an objective that reads one (owpo objectives lists them)"
            )
        if isinstance(protocol, LeapfrogProtocol) and protocol.first_objective.build().needs.reference:
            raise ValueError(
                f"ratchet.first_objective = {protocol.first_objective.name!r} reads a reference, but stage 1 of "
                "leapfrog has none; use one that reads none, such as 'dapo'"
            )
