"""A run's configuration, section by section."""

from owpo.config.alarms import AlarmsConfig
from owpo.config.engine import TRLConfig, VerlConfig
from owpo.config.problems import (
    ChainAdditionSource,
    ChainMixedSource,
    DatasetSource,
    InsertionSortSource,
    JSONLSource,
    ProblemsConfig,
    Source,
)
from owpo.config.ratchet import (
    BestOfStageProtocol,
    EveryKProtocol,
    FixedProtocol,
    GateConfig,
    LeapfrogProtocol,
    ObjectiveConfig,
    Protocol,
)
from owpo.config.run import (
    EvaluationConfig,
    LoRAConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    RunSection,
    TrainingConfig,
    VLLMConfig,
)
from owpo.config.section import Section
from owpo.config.verifier import (
    ChoiceVerifier,
    ExactVerifier,
    FunctionVerifier,
    MathVerifier,
    NumericVerifier,
    VerifierConfig,
)

__all__ = [
    "AlarmsConfig",
    "BestOfStageProtocol",
    "ChainAdditionSource",
    "ChainMixedSource",
    "ChoiceVerifier",
    "DatasetSource",
    "EvaluationConfig",
    "EveryKProtocol",
    "ExactVerifier",
    "FixedProtocol",
    "FunctionVerifier",
    "GateConfig",
    "InsertionSortSource",
    "JSONLSource",
    "LeapfrogProtocol",
    "LoRAConfig",
    "MathVerifier",
    "ModelConfig",
    "NumericVerifier",
    "ObjectiveConfig",
    "ProblemsConfig",
    "Protocol",
    "RolloutConfig",
    "RunConfig",
    "RunSection",
    "Section",
    "Source",
    "TRLConfig",
    "TrainingConfig",
    "VLLMConfig",
    "VerifierConfig",
    "VerlConfig",
]
