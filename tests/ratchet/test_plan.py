"""The four protocols as lists of stages: who learns, from what, against what."""

from owpo.config import (
    BestOfStageProtocol,
    EveryKProtocol,
    FixedProtocol,
    LeapfrogProtocol,
    ObjectiveConfig,
)
from owpo.ratchet.plan import plan_stages

OWPO = ObjectiveConfig(name="owpo")


def rows(protocol, objective=OWPO):
    keys = ("lineage", "start", "objective", "reference", "steps")
    return [tuple(stage.to_json()[key] for key in keys) for stage in plan_stages(protocol, objective)]


def test_fixed_keeps_what_was_given():
    assert rows(FixedProtocol(protocol="fixed", steps=5, reference="somewhere")) == [
        ("A", "base", "owpo", "given reference", 5)
    ]
    assert rows(FixedProtocol(protocol="fixed", steps=5, reference="base")) == [
        ("A", "base", "owpo", "base", 5)
    ]
    dapo = ObjectiveConfig(name="dapo")
    assert rows(FixedProtocol(protocol="fixed", steps=5), dapo) == [("A", "base", "dapo", "none", 5)]


def test_every_k_makes_the_policy_its_own_reference_and_ends_on_time():
    assert rows(EveryKProtocol(protocol="every_k", steps=200, k=80)) == [
        ("A", "base", "owpo", "base", 80),
        ("A", "where it stands", "owpo", "last of stage 1", 80),
        ("A", "where it stands", "owpo", "last of stage 2", 40),
    ]


def test_what_a_stage_proposes():
    every_k = plan_stages(EveryKProtocol(protocol="every_k", steps=20, k=10), OWPO)
    best = plan_stages(BestOfStageProtocol(protocol="best_of_stage", stages=2, steps=7), OWPO)
    fixed = plan_stages(FixedProtocol(protocol="fixed", steps=5, reference="base"), OWPO)
    assert [stage.candidate for stage in every_k + best + fixed] == ["last", "last", "best", "best", None]


def test_best_of_stage_goes_on_or_goes_back():
    going_on = rows(BestOfStageProtocol(protocol="best_of_stage", stages=2, steps=7))
    going_back = rows(BestOfStageProtocol(protocol="best_of_stage", stages=2, steps=7, continue_from="best"))
    assert going_on == [
        ("A", "base", "owpo", "base", 7),
        ("A", "where it stands", "owpo", "best of stage 1", 7),
    ]
    assert going_back[1] == ("A", "best of stage 1", "owpo", "best of stage 1", 7)


def test_leapfrog_lets_two_lineages_teach_each_other():
    assert rows(LeapfrogProtocol(protocol="leapfrog", stages=4, steps=60, first_steps=30)) == [
        ("A", "base", "dapo", "none", 30),
        ("B", "base", "owpo", "best of stage 1", 60),
        ("A", "best of stage 1", "owpo", "best of stage 2", 60),
        ("B", "best of stage 2", "owpo", "best of stage 3", 60),
    ]
