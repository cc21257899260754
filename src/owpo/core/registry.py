"""Objectives by name. A new one is a file in `objectives/` with one `@register`; nothing else changes."""

from __future__ import annotations

import difflib
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, get_type_hints

import torch
from torch import Tensor

from owpo.core.batch import TokenBatch, TokenLoss


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an engine must bring, and what it may leave out.

    reference       `ref_logp` is read
    old_logp        `old_logp` is read
    prepared        `weight` is read: `Objective.prepare` must see the whole optimiser step before it is split
    zero_advantage  a sample with advantage 0 still has a gradient, so it may not be skipped
    """

    reference: bool = False
    old_logp: bool = False
    prepared: bool = False
    zero_advantage: bool = False


@dataclass(frozen=True, kw_only=True)
class Scaffold:
    """The paper's surroundings of an objective; a recipe may choose others.

    advantage         a name of `owpo.core.advantage.ESTIMATORS`
    reduction         a name of `owpo.core.reduce.MODES`
    dynamic_sampling  whether groups that are all right or all wrong are replaced by new ones
    """

    advantage: str = "group_std"
    reduction: str = "token-mean"
    dynamic_sampling: bool = False


LossFunction = Callable[[TokenBatch, Any], TokenLoss]
PrepareFunction = Callable[[TokenBatch, Any, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A registered objective: everything about it but the values of its hyper-parameters."""

    name: str
    config_class: type
    function: LossFunction
    needs: Callable[[Any], Needs]
    scaffold: Scaffold
    source: str
    prepare: PrepareFunction | None = None


_REGISTRY: dict[str, Entry] = {}


def register(
    name: str,
    *,
    config: type,
    source: str,
    needs: Needs | Callable[[Any], Needs],
    scaffold: Scaffold = Scaffold(),  # noqa: B008 (frozen)
    prepare: PrepareFunction | None = None,
) -> Callable[[LossFunction], LossFunction]:
    """Register `function(batch, config) -> TokenLoss` under `name`.

    Args:
        config: a frozen keyword-only dataclass; its defaults are the paper's.
        source: the paper, with equation.
        needs: fixed, or a function of the config (a KL of weight 0 needs no reference).
        prepare: `(batch of the whole optimiser step with logp = old_logp, config, generator) -> weight_BT`.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(function: LossFunction) -> LossFunction:
        if name in _REGISTRY:
            raise ValueError(f"objective {name!r} is registered twice; choose another name")
        needs_of = needs if callable(needs) else lambda _config: needs
        _REGISTRY[name] = Entry(
            name=name, config_class=config, function=function, needs=needs_of,
            scaffold=scaffold, source=source, prepare=prepare,
        )  # fmt: skip
        return function

    return decorate


@cache
def _load_all() -> None:
    import owpo.core.objectives as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def entries() -> list[Entry]:
    """Every registered objective, sorted by name."""
    _load_all()
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True)
class Objective:
    """An objective with its hyper-parameters: a pure function TokenBatch -> TokenLoss."""

    entry: Entry
    config: Any

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def needs(self) -> Needs:
        return self.entry.needs(self.config)

    @property
    def scaffold(self) -> Scaffold:
        return self.entry.scaffold

    def __call__(self, batch: TokenBatch) -> TokenLoss:
        """The loss of every token, [B, T], zero where the mask is False; reduce it with `owpo.core.reduce`.

        Raises:
            ValueError: a log-prob (or a prepared weight) that the objective reads is missing.
        """
        needed = {
            "old_logp": self.needs.old_logp,
            "ref_logp": self.needs.reference,
            "weight": self.needs.prepared,
        }
        for name, is_needed in needed.items():
            if is_needed and getattr(batch, name) is None:
                raise ValueError(f"objective {self.name!r} reads {name}, but the batch has none")
        result = self.entry.function(batch.without_padding_values(), self.config)
        zero = torch.zeros((), dtype=result.loss.dtype, device=result.loss.device)
        stats = {name: value.detach() for name, value in result.stats.items()}
        return TokenLoss(torch.where(batch.mask, result.loss, zero), stats)

    def prepare(self, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        """Fill `weight` from the whole optimiser step, before any split; the batch itself if nothing is needed.

        `batch.logp` is `old_logp` here: no current policy exists before the first forward pass.
        """
        if self.entry.prepare is None:
            return batch
        return replace(batch, weight=self.entry.prepare(batch.without_padding_values(), self.config, generator))


def objective(name: str, **hyper_parameters: Any) -> Objective:
    """The objective `name` with its paper's defaults, or those given.

        out = objective("owpo", w_low=0.8, w_high=1.2)(batch)    # out.loss: [B, T]

    Raises:
        ValueError: unknown name or hyper-parameter (with the nearest known one), or a value out of bounds.
    """
    _load_all()
    if name not in _REGISTRY:
        raise ValueError(
            f"unknown objective {name!r}.{did_you_mean(name, _REGISTRY)} Known: {', '.join(sorted(_REGISTRY))}"
        )
    entry = _REGISTRY[name]
    types = get_type_hints(entry.config_class)
    known = [f.name for f in fields(entry.config_class)]
    for key, value in hyper_parameters.items():
        if key not in known:
            raise ValueError(
                f"objective {name!r} has no hyper-parameter {key!r}.{did_you_mean(key, known)} "
                f"It has: {', '.join(known) or 'none'}"
            )
        if types[key] is float and isinstance(value, int) and not isinstance(value, bool):
            hyper_parameters[key] = value = float(value)
        expected = types[key]
        if isinstance(expected, type) and type(value) is not expected:
            raise ValueError(
                f"{name}.{key} must be {expected.__name__}, got {type(value).__name__} {value!r}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}.{key} must be a finite number, got {value}")
    return Objective(entry, entry.config_class(**hyper_parameters))
