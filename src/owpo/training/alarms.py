"""Signs of a collapse, read from the run's own metrics (docs/alarms.md).

Pure functions of the records so far: nothing is kept, so that a resumed run, whose log is cut back to its checkpoint,
comes to the same alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from owpo.config import AlarmsConfig

Record = dict[str, Any]  # a line of metrics.jsonl


@dataclass(frozen=True)
class Alarm:
    """
    name      the key of [alarms] whose bound does not hold
    value     of the step that raises it, with `limit` in the same unit
    sentence  for a person
    """

    name: str
    value: float
    limit: float
    sentence: str

    def to_json(self) -> dict[str, str | float]:
        return {"alarm": self.name, "value": self.value, "limit": self.limit}


@dataclass(frozen=True)
class _Sign:
    """
    what    names `value` in the sentence
    bound   None where it is off
    limit   the bound itself, or relative to the run's first value: bound * first, or first + bound
    """

    name: str
    what: str
    value: Callable[[Record], float | None]
    bound: Callable[[AlarmsConfig], float | None]
    limit: Literal["bound", "ratio", "rise"]
    is_lower_bound: bool = False

    def is_beyond(self, value: float, limit: float) -> bool:
        return value < limit if self.is_lower_bound else value > limit


def _metric(name: str) -> Callable[[Record], float | None]:
    return lambda record: record.get(name)


def _zero_variance_share(record: Record) -> float | None:
    right, wrong = record.get("all_right_share"), record.get("all_wrong_share")
    return None if right is None or wrong is None else right + wrong


def _saturated_share(record: Record) -> float | None:
    """Of the active samples: the others have w = 1, and the curriculum makes them most of all at a stage's end."""
    saturated, active = record.get("saturated"), record.get("active_share")
    return None if saturated is None or active is None else saturated / active


_SIGNS = (
    _Sign(
        "min_entropy_ratio", "the entropy in nats", _metric("entropy"),
        lambda config: config.min_entropy_ratio, "ratio", is_lower_bound=True,
    ),
    _Sign(
        "max_entropy_ratio", "the entropy in nats", _metric("entropy"),
        lambda config: config.max_entropy_ratio, "ratio",
    ),
    _Sign(
        "max_tail_growth", "the 95th percentile of response lengths", _metric("response_length_p95"),
        lambda config: config.max_tail_growth, "ratio",
    ),
    _Sign(
        "max_truncated_rise", "the share of truncated responses", _metric("truncated_share"),
        lambda config: config.max_truncated_rise, "rise",
    ),
    _Sign(
        "max_zero_variance_share", "the share of groups without contrast", _zero_variance_share,
        lambda config: config.max_zero_variance_share, "bound",
    ),
    _Sign(
        "max_grad_norm_ratio", "the gradient's norm", _metric("grad_norm"),
        lambda config: config.max_grad_norm_ratio, "ratio",
    ),
    _Sign(
        "max_kl", "KL to the reference in nats a token", _metric("kl_to_reference"),
        lambda config: config.max_kl, "bound",
    ),
    _Sign(
        "max_saturated_share", "the share of saturated weights", _saturated_share,
        lambda config: config.max_saturated_share, "bound",
    ),
)  # fmt: skip


def raised(records: Sequence[Record], config: AlarmsConfig) -> list[Alarm]:
    """The alarms that the last of `records` raises.

    Each is raised when the number has been out of bounds for exactly `patience` of the stage's steps in a row, so
    once, and again only after it was back within them. Steps that do not have the number (no token was trained on, no
    reference) are passed over.

    Args:
        records: the lines of metrics.jsonl from the run's first step on.
    """
    alarms = (_raised_by(sign, records, config) for sign in _SIGNS)
    return [alarm for alarm in alarms if alarm is not None]


def ends_stage(records: Sequence[Record], stage: int, config: AlarmsConfig) -> bool:
    """Whether an alarm has ended this stage: its last step raised one, and that is what alarms are to do."""
    is_in_stage = len(records) > 0 and records[-1]["stage"] == stage
    return is_in_stage and config.action == "end_stage" and len(raised(records, config)) > 0


def _raised_by(sign: _Sign, records: Sequence[Record], config: AlarmsConfig) -> Alarm | None:
    bound = sign.bound(config)
    value = sign.value(records[-1])
    if bound is None or value is None:
        return None
    first = _first_value(sign, records)
    limit = {"bound": bound, "ratio": bound * first, "rise": first + bound}[sign.limit]
    if _steps_beyond(sign, records, limit) != config.patience:
        return None
    direction = "below" if sign.is_lower_bound else "above"
    against = "" if sign.limit == "bound" else f", against the {first:.3g} that the run began with"
    return Alarm(
        sign.name,
        value,
        limit,
        f"{sign.what} is {value:.3g}, {direction} {limit:.3g} for {config.patience} steps in a row "
        f"(alarms.{sign.name} = {bound:g}{against})",
    )


def _first_value(sign: _Sign, records: Sequence[Record]) -> float:
    """Of the first step that has the number; for a ratio, of the first where it is not 0."""
    for record in records:
        value = sign.value(record)
        if value is not None and (value > 0 or sign.limit != "ratio"):
            return value
    return 0.0  # all of them are 0, and nothing is beyond a multiple of that


def _steps_beyond(sign: _Sign, records: Sequence[Record], limit: float) -> int:
    """How many of the stage's last steps in a row are out of bounds."""
    count = 0
    for record in reversed(records):
        value = sign.value(record)
        if record["stage"] != records[-1]["stage"] or (
            value is not None and not sign.is_beyond(value, limit)
        ):
            break
        count += value is not None
    return count
