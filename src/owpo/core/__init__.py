"""What is optimised. Imports torch and the standard library only; no I/O, no engine."""

from owpo.core.batch import TokenBatch, TokenLoss
from owpo.core.reduce import StepCounts, reduction_weights
from owpo.core.registry import Objective, objective

__all__ = ["Objective", "StepCounts", "TokenBatch", "TokenLoss", "objective", "reduction_weights"]
