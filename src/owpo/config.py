"""A run's configuration: frozen, strict, and complete before any model loads.

A recipe is a TOML file with these sections; `--section.key value` overrides one entry. A key that nothing reads
does not exist here, and one that is not here is an error that names the nearest.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from owpo.bases.chain_addition import BaseRecipe
from owpo.core.advantage import ESTIMATORS
from owpo.core.reduce import MODES
from owpo.core.registry import Objective, did_you_mean, objective

PathString = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A table of the recipe. Attribute docstrings say what a field does; units stand in them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class ModelConfig(Section):
    # A table becomes the dataclass BaseRecipe in lax mode alone.
    model_config = ConfigDict(strict=False)

    path: PathString
    """A Hugging Face folder, or a hub id. With `make`, the folder that the base model is written to."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    make: BaseRecipe | None = None
    """A weak base model to be made on the spot where `path` does not exist yet."""
    trust_remote_code: StrictBool = False
    """Run Python code that comes with the model. Off unless asked for; recorded in the run folder."""


class JSONLSource(Section):
    kind: Literal["jsonl"]
    path: PathString
    """A file of {"id", "prompt", "answer", ...} lines."""


class ChainAdditionSource(Section):
    kind: Literal["chain_addition"]
    count: Annotated[int, Field(gt=0)]
    """How many distinct problems."""
    terms: Annotated[int, Field(ge=2)] = 8
    """Numbers to add."""
    fewest_terms: Annotated[int, Field(ge=2)] | None = None
    """For problems of graded length, fewest_terms to terms; None: all have `terms`."""
    digits: Annotated[int, Field(ge=1)] = 1
    """Digits of each number."""
    seed: int = 0
    """Of which problems; the three sets share none, whatever their seeds."""

    @model_validator(mode="after")
    def _fewest_is_fewer(self) -> ChainAdditionSource:
        if self.fewest_terms is not None and self.fewest_terms > self.terms:
            raise ValueError(f"fewest_terms = {self.fewest_terms} is more than terms = {self.terms}")
        return self


Source = Annotated[JSONLSource | ChainAdditionSource, Field(discriminator="kind")]


class ProblemsConfig(Section):
    train: Source
    """What the policy learns from."""
    selection: Source
    """What checkpoints and references are chosen by."""
    report: Source
    """What the closing table is measured on; no choice may look at it."""
    answer: Literal["whole", "last_line", "last_number"] = "last_number"
    """The part of a response that is compared with the answer."""

    @model_validator(mode="after")
    def _sets_differ(self) -> ProblemsConfig:
        paths: dict[str, str] = {}
        for name, source in (("train", self.train), ("selection", self.selection), ("report", self.report)):
            if isinstance(source, JSONLSource):
                if source.path in paths:
                    raise ValueError(
                        f"problems.{name} and problems.{paths[source.path]} are the same file {source.path!r}; "
                        "training, selection and report must share no problem"
                    )
                paths[source.path] = name
        return self


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
    """Sequences decoded at a time."""

    @model_validator(mode="after")
    def _cache_fits(self) -> RolloutConfig:
        if self.overlong_cache >= self.max_new_tokens:
            raise ValueError(
                f"rollout.overlong_cache = {self.overlong_cache} must be below rollout.max_new_tokens = "
                f"{self.max_new_tokens}; DAPO uses a fifth of it"
            )
        return self


class ObjectiveConfig(BaseModel):
    """The objective's name beside its own hyper-parameters, all of them filled in."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            chosen = objective(data["name"], **{k: v for k, v in data.items() if k != "name"})
            return {"name": chosen.name, **asdict(chosen.config)}
        return data

    def build(self) -> Objective:
        return objective(self.name, **(self.model_extra or {}))


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
    """Padded tokens of one forward-backward pass. It changes memory and speed, never the gradient."""
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


class FixedProtocol(Section):
    protocol: Literal["fixed"]
    steps: Annotated[int, Field(ge=1)]
    """Rollout steps."""
    reference: PathString | None = None
    """The reference: 'base' for the policy's own start, a folder, or a hub id. None where the objective reads none."""


class EveryKProtocol(Section):
    protocol: Literal["every_k"]
    steps: Annotated[int, Field(ge=1)]
    """Rollout steps in all."""
    k: Annotated[int, Field(ge=1)] = 80
    """Steps after which the reference becomes the policy (Algorithm 1)."""


class BestOfStageProtocol(Section):
    protocol: Literal["best_of_stage"]
    stages: Annotated[int, Field(ge=1)]
    """How often the reference is chosen anew, the start included."""
    steps: Annotated[int, Field(ge=1)]
    """Rollout steps a stage."""
    continue_from: Literal["last", "best"] = "last"
    """Where the learner goes on: its last weights and optimiser, or the stage's best weights with a new optimiser."""


class LeapfrogProtocol(Section):
    protocol: Literal["leapfrog"]
    stages: Annotated[int, Field(ge=2)]
    """Stages in all: 1 is lineage A's, 2 is B's, and so on in turn."""
    steps: Annotated[int, Field(ge=1)]
    """Rollout steps a stage, after the first."""
    first_steps: Annotated[int, Field(ge=1)]
    """Rollout steps of stage 1, which makes the first reference."""
    first_objective: ObjectiveConfig = ObjectiveConfig(name="dapo")
    """What stage 1 learns by; it may read no reference."""


Protocol = Annotated[
    FixedProtocol | EveryKProtocol | BestOfStageProtocol | LeapfrogProtocol, Field(discriminator="protocol")
]


class EvaluationConfig(Section):
    every: Annotated[int, Field(ge=1)]
    """Steps between evaluations on the selection set; the end of a stage is always one."""
    samples: Annotated[int, Field(ge=1)] = 4
    """Responses per selection problem."""
    report_samples: Annotated[int, Field(ge=1)] = 8
    """Responses per report problem, for the closing table."""
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
    checkpoint_every: Annotated[int, Field(ge=1)] = 10
    """Steps between checkpoints; the end of a stage is always one."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """How many to keep. With 2 or more, one that is damaged costs only the steps since the one before."""
    rollouts_per_step: Annotated[int, Field(ge=0)] = 4
    """Responses of each step written to rollouts.jsonl."""
    tensorboard: bool = False
    """Write the metrics to <folder>/tensorboard too."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the models live; "cuda" is one device."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in. Weights are float32 in any case: updates of 1e-6 vanish in bfloat16 ones."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads; None: all cores. Written to the run folder, since results depend on it bit by bit."""


class RunConfig(Section):
    seed: int = 0
    """Of every random choice of the run."""
    run: RunSection
    model: ModelConfig
    problems: ProblemsConfig
    rollout: RolloutConfig
    objective: ObjectiveConfig
    """What is optimised, by name: `owpo objectives` lists them."""
    training: TrainingConfig
    ratchet: Protocol
    evaluation: EvaluationConfig

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
        return self

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
