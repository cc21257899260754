"""Objectives by name. A new one is a file in `objectives/` with one `@register`; nothing else changes."""

from __future__ import annotations

import difflib
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from owpo.core.batch import TokenBatch, TokenLoss


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an engine must bring, and what it may leave out.

    What is not declared here is not handed over: an objective cannot come to depend on it.

    reference       `ref_logp` is read
    active_only     ... of active samples alone: an engine may leave NaN in the others
    old_logp        `old_logp` is read
    prepared        `weight` is read: `Objective.prepare` must see the whole optimiser step before it is split
    contexts        ... with `context`: which of its tokens follow the same prompt and the same tokens
    zero_advantage  a sample with advantage 0 still has a gradient, so it may not be skipped
    """

    reference: bool = False
    active_only: bool = False
    old_logp: bool = False
    prepared: bool = False
    contexts: bool = False
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
    scaffold: Scaffold = Scaffold(),
    prepare: PrepareFunction | None = None,
) -> Callable[[LossFunction], LossFunction]:
    """Register `function(batch, config) -> TokenLoss` under `name`.

    Args:
        config: a frozen keyword-only dataclass; its defaults are the paper's.
        source: the paper, with equation.
        needs: fixed, or a function of the config (a KL of weight 0 needs no reference).
        prepare: `(batch of the whole optimiser step with logp = old_logp, config, generator) -> weight_BT`, the
            weights or what the function makes them of.

    Raises:
        ValueError: the name is taken, or the config is not such a dataclass.
    """
    parameters = getattr(config, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen or not all(f.kw_only for f in fields(config)):
        raise ValueError(
            f"the config of objective {name!r} must be a frozen keyword-only dataclass; "
            f"write @dataclass(frozen=True, kw_only=True) above {config.__name__}"
        )

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
        needs = self.needs
        self._check_present(batch, needs)
        result = self.entry.function(_only_needed(batch, needs), self.config)
        assert result.loss.shape == batch.logp.shape, (
            f"{self.name} returned a loss of shape {result.loss.shape}"
        )

        def clean(value: Tensor) -> Tensor:
            return torch.where(batch.mask, value, torch.zeros((), dtype=value.dtype, device=value.device))

        return TokenLoss(
            clean(result.loss), {name: clean(value.detach()) for name, value in result.stats.items()}
        )

    def _check_present(self, batch: TokenBatch, needs: Needs, *, is_split: bool = True) -> None:
        needed = {
            "old_logp": needs.old_logp,
            "ref_logp": needs.reference,
            "weight": needs.prepared and is_split,
            "context": needs.contexts and not is_split,
        }
        for name, is_needed in needed.items():
            if is_needed and getattr(batch, name) is None:
                hint = "; call Objective.prepare on the whole step first" if name == "weight" else ""
                raise ValueError(f"objective {self.name!r} reads {name}, but the batch has none{hint}")

    def prepare(self, batch: TokenBatch, generator: torch.Generator) -> TokenBatch:
        """Fill `weight` from the whole optimiser step, before any split, where the objective asks for it.

        `batch.logp` is `old_logp` here: no current policy exists before the first forward pass.

        Raises:
            ValueError: a log-prob (or `context`) that the objective reads is missing.
        """
        if self.entry.prepare is None:
            return batch
        self._check_present(batch, self.needs, is_split=False)
        weight = self.entry.prepare(_only_needed(batch, self.needs, is_split=False), self.config, generator)
        return replace(batch, weight=weight)


def _only_needed(batch: TokenBatch, needs: Needs, *, is_split: bool = True) -> TokenBatch:
    """The batch as an objective sees it: what it declared, with zeros at padding."""
    declared = replace(
        batch,
        old_logp=batch.old_logp if needs.old_logp else None,
        ref_logp=batch.ref_logp if needs.reference else None,
        sampler_logp=None,
        weight=batch.weight if needs.prepared else None,
        context=batch.context if needs.contexts and not is_split else None,
    )
    return declared.without_padding_values()


def objective(name: str, **hyper_parameters: Any) -> Objective:
    """The objective `name` with its paper's defaults, or those given.

        out = objective("owpo", w_low=0.8, w_high=1.2)(batch)    # out.loss: [B, T]

    Raises:
        ValueError: unknown name or hyper-parameter (with the nearest known one), or a value of the wrong
            type, out of bounds or not among the choices.
    """
    _load_all()
    if name not in _REGISTRY:
        raise ValueError(
            f"unknown objective {name!r}.{did_you_mean(name, _REGISTRY)} "
            f"Known: {', '.join(sorted(_REGISTRY))}"
        )
    entry = _REGISTRY[name]
    types = get_type_hints(entry.config_class)
    for key, value in hyper_parameters.items():
        if key not in types:
            raise ValueError(
                f"objective {name!r} has no hyper-parameter {key!r}.{did_you_mean(key, types)} "
                f"It has: {', '.join(types) or 'none'}"
            )
        hyper_parameters[key] = _typed(f"{name}.{key}", value, types[key])
    # The config's own checks come before the choices, for they can say why a choice is refused.
    config = entry.config_class(**hyper_parameters)
    for key, value in hyper_parameters.items():
        _check_choice(f"{name}.{key}", value, types[key])
    return Objective(entry, config)


def _typed(label: str, value: Any, expected: Any) -> Any:
    """The value, an int widened to an expected float; ValueError if of another type, NaN or infinite."""
    if expected is float and type(value) is int:
        value = float(value)
    if isinstance(expected, type) and type(value) is not expected:
        raise ValueError(f"{label} must be {expected.__name__}, got {type(value).__name__} {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{label} must be a finite number, got {value}")
    return value


def _check_choice(label: str, value: Any, expected: Any) -> None:
    if get_origin(expected) is not Literal:
        return
    allowed = get_args(expected)
    if value not in allowed:
        raise ValueError(
            f"{label} must be one of {', '.join(map(repr, allowed))}, got {value!r}."
            f"{did_you_mean(str(value), allowed)}"
        )
