"""Tasks that are made on the spot, in a recipe: what is refused with its mend, and what passes whole."""

import pytest
from conftest import as_toml
from test_recipes import changed

from owpo.cli import main
from owpo.errors import InputError
from owpo.recipes import build_config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": {"make": {"task": "insertion_sor"}}},
            r"model\.make\.task is 'insertion_sor'\. Did you mean 'insertion_sort'\? Allowed: 'chain_addition',",
        ),
        (
            {"model": {"make": {"task": "insertion_sort", "item": 5}}},
            r"model\.make\.item is unknown\. Did you mean 'items'\? Known here: .*append_item",
        ),
        (
            {"model": {"make": {"task": "chain_mixed", "forget_carry": 0.5}}},
            r"model\.make\.forget_carry is unknown\..* Known here: .*overlook_minus",
        ),
        (
            {"model": {"make": {"task": "chain_mixed", "overlook_minus": 7}}},
            r"model\.make: overlook_minus is a probability in \[0, 1\], got 7",
        ),
        (
            {"model": {"make": 3}},
            r"model\.make = 3 must be a section, of one of the kinds 'chain_addition', 'chain_mixed', 'insertion_sort'",
        ),
        (
            {"problems": {"train": {"kind": "chain_mixe", "count": 5}}},
            r"problems\.train\.kind is 'chain_mixe'\. Did you mean 'chain_mixed'",
        ),
        (
            {"problems": {"train": {"kind": "chain_mixed", "count": 5, "digits": 4}}},
            r"problems\.train\.digits = 4 must be less than or equal to 3",
        ),
        (
            {"problems": {"train": {"kind": "insertion_sort", "count": 5, "terms": 6}}},
            r"problems\.train\.terms is unknown\. Did you mean 'items'",
        ),
        (
            {"problems": {"train": {"kind": "insertion_sort", "count": 5, "fewest_items": 7}}},
            "fewest_items = 7 is more than items = 6",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_mend(change, message):
    with pytest.raises(InputError, match=message):
        build_config(changed(**change), "recipe.toml")


@pytest.mark.parametrize(
    ("make", "source"),
    [
        ({"forget_carry": 0.5}, {"kind": "chain_addition"}),
        (
            {"task": "chain_addition", "terms": [3, 5]},
            {"kind": "chain_addition", "fewest_terms": 3, "terms": 5},
        ),
        ({"task": "chain_mixed", "terms": 4, "overlook_minus": 0.6}, {"kind": "chain_mixed", "terms": 4}),
        (
            {"task": "insertion_sort", "items": [3, 5]},
            {"kind": "insertion_sort", "fewest_items": 3, "items": 5},
        ),
    ],
)
def test_a_task_made_on_the_spot_passes_the_check_whole(make, source, tmp_path, capsys):
    sets = {name: {**source, "count": 20} for name in ("train", "selection", "report")}
    sets["train"]["count"] = 40
    data = changed(
        model={"path": str(tmp_path / "base"), "make": make},
        problems=sets,
        run={"folder": str(tmp_path / "run"), "threads": 1},
    )
    built = build_config(data, "recipe.toml")
    assert built.model.make.task == source["kind"]
    assert build_config(built.model_dump(mode="json"), "again") == built
    file = tmp_path / "recipe.toml"
    file.write_text(as_toml(data), encoding="utf-8")
    assert main(["check", str(file)]) == 0, capsys.readouterr().err
