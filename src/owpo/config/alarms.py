"""When a run looks as if it collapses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from owpo.config.section import CanBeOff, Section


class AlarmsConfig(Section):
    """Each bound may be "off". Ratios, growth and rise are against the run's first step that has the number."""

    action: Literal["warn", "end_stage"] = "warn"
    """What an alarm does beside being logged and shown: nothing, or it ends the stage after its step."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Steps in a row that must be out of bounds before an alarm; steps that do not have the number are passed over."""
    min_entropy_ratio: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, CanBeOff] = 0.05
    """Smallest ratio of the entropy to the first step's; "off": not looked at, as everywhere below."""
    max_entropy_ratio: Annotated[Annotated[float, Field(gt=1)] | None, CanBeOff] = 5.0
    """Largest ratio of the entropy to the first step's."""
    max_tail_growth: Annotated[Annotated[float, Field(ge=1)] | None, CanBeOff] = 3.0
    """Largest ratio of the 95th percentile of response lengths to the first step's."""
    max_truncated_rise: Annotated[Annotated[float, Field(ge=0, le=1)] | None, CanBeOff] = 0.25
    """Largest rise of the share of truncated responses over the first step's."""
    max_zero_variance_share: Annotated[Annotated[float, Field(ge=0, le=1)] | None, CanBeOff] = 0.95
    """Largest share of sampled groups that are all right or all wrong."""
    max_grad_norm_ratio: Annotated[Annotated[float, Field(gt=1)] | None, CanBeOff] = 10.0
    """Largest ratio of the gradient's norm before clipping to the first step's."""
    max_kl: Annotated[Annotated[float, Field(gt=0)] | None, CanBeOff] = 1.0
    """Largest KL(policy || reference), in nats a token."""
    max_saturated_share: Annotated[Annotated[float, Field(ge=0, le=1)] | None, CanBeOff] = 0.5
    """Largest share of the active samples' tokens whose weight is at a bound of its band."""
