"""Objectives by name: what is refused, and whether the message helps."""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from core_batches import random_batch

import owpo.core
from owpo.core import objective
from owpo.core.registry import Needs, entries, register

CORE = Path(owpo.core.__file__).parent


@pytest.mark.parametrize(
    ("name", "hyper_parameters", "message"),
    [
        ("owop", {}, r"unknown objective 'owop'. Did you mean 'owpo'\? Known: cispo, dapo"),
        (
            "owpo",
            {"w_hihg": 1.3},
            r"objective 'owpo' has no hyper-parameter 'w_hihg'. Did you mean 'w_high'\?",
        ),
        ("reinforce", {"clip_low": 0.1}, "It has: none"),
        ("no_accel", {"w_high": 1.1}, "no hyper-parameter 'w_high'"),
        ("shuffled", {"weight_policy": "old"}, "no hyper-parameter 'weight_policy'"),
        ("owpo", {"w_low": "0.8"}, r"owpo\.w_low must be float, got str '0.8'"),
        ("owpo", {"w_low": True}, r"owpo\.w_low must be float, got bool True"),
        ("fipo", {"high_only": 1}, r"fipo\.high_only must be bool, got int 1"),
        ("owpo", {"w_high": float("nan")}, r"owpo\.w_high must be a finite number, got nan"),
        ("mopd", {"alpha": float("inf")}, r"mopd\.alpha must be a finite number, got inf"),
        (
            "owpo",
            {"weight_policy": "curent"},
            r"owpo\.weight_policy must be one of 'current', 'old', got 'curent'\. Did you mean 'current'\?",
        ),
        ("opd", {"student_logp": None}, r"opd\.student_logp must be one of 'current', 'old', got None"),
        ("owpo", {"w_low": 0.0}, r"w_low must lie in \(0, 1\], got 0.0"),
        ("owpo", {"w_high": 0.9}, "w_high must be at least 1"),
        ("no_locking", {"w_high": 0.9}, "w_high must be at least 1"),
        ("no_accel", {"w_low": 1.1}, "w_low must lie in"),
        ("dapo", {"clip_low": 1.2}, "clip_low is an offset below 1"),
        ("dapo", {"clip_high": 0}, "clip_high is an offset above 1"),
        ("dapo", {"dual_clip": 0.5}, "dual_clip must be 0"),
        ("gspo", {"clip_low": 0}, "clip_low"),
        ("mopd", {"alpha": -1}, "alpha must not be negative"),
        ("mopd", {"ratio_max": 0.5}, "ratio_max bounds the ratio itself"),
        ("fipo", {"dual_clip": 0}, "fipo's dual_clip must be above 1"),
        ("fipo", {"half_life": 0}, "half_life"),
        ("fipo", {"f_clip": 1.0}, "f_clip"),
        ("fipo", {"safety_ratio": 0.5}, "safety_ratio"),
    ],
)
def test_a_wrong_name_or_value_is_refused_with_its_remedy(name, hyper_parameters, message):
    with pytest.raises(ValueError, match=message):
        objective(name, **hyper_parameters)


def test_an_int_is_a_float_where_a_float_is_meant():
    config = objective("owpo", w_low=1).config
    assert (config.w_low, type(config.w_low)) == (1.0, float)


def test_a_taken_name_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    with pytest.raises(ValueError, match="objective 'dapo' is registered twice"):
        register("dapo", config=Config, source="", needs=Needs())(lambda batch, config: None)


def test_a_config_must_be_a_frozen_keyword_only_dataclass():
    class Plain:
        value: float = 1.0

    mutable = dataclass(kw_only=True)(type("Mutable", (), dict(vars(Plain))))
    positional = dataclass(frozen=True)(type("Positional", (), {"__annotations__": {"value": float}}))
    for config in (Plain, mutable, positional):
        with pytest.raises(ValueError, match="must be a frozen keyword-only dataclass"):
            register("never_registered", config=config, source="", needs=Needs())
    assert "never_registered" not in [entry.name for entry in entries()]


def test_every_entry_says_where_it_is_from():
    for entry in entries():
        assert entry.source
        # A dataclass without a docstring gets its signature as one.
        assert not entry.config_class.__doc__.startswith(f"{entry.config_class.__name__}(")


def test_prepare_demands_what_the_weights_are_made_of():
    batch, generator = random_batch(), torch.Generator()
    without = type(batch)(**(vars(batch) | {"ref_logp": None}))
    with pytest.raises(ValueError, match="'shuffled' reads ref_logp"):
        objective("shuffled").prepare(without, generator)
    with pytest.raises(ValueError, match=r"reads weight, .* call Objective\.prepare on the whole step"):
        objective("shuffled")(batch)
    assert objective("owpo").prepare(batch, generator) is batch


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            yield node.module


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_imports_torch_the_standard_library_and_itself(path):
    for module in imports_of(path):
        allowed = module.split(".")[0] in sys.stdlib_module_names | {"torch"} or module.startswith(
            "owpo.core"
        )
        assert allowed, f"{path.name} imports {module}"


def test_every_file_of_objectives_registers_its_name():
    """And none builds on the method's own file: a baseline must not change with it."""
    files = {path.stem for path in (CORE / "objectives").glob("*.py")} - {"__init__"}
    assert files <= {entry.name for entry in entries()}
    assert "owpo.core.objectives.owpo" not in {
        module for path in (CORE / "objectives").glob("*.py") for module in imports_of(path)
    }
