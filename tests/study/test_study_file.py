"""Reading a study: what is refused, in which words, and what a run's recipe is made of."""

import pytest
from conftest import as_toml
from study_files import ARMS, study_data, study_of, write_study

from owpo.errors import InputError
from owpo.study.file import find_study, read_study
from owpo.study.grid import data_of, evaluated_steps, points_of, runs_of
from owpo.study.overrides import laid_over, nested


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sedes": [1]}, r"sedes is unknown. Did you mean 'seeds'\?"),
        ({"title": None}, "title is missing; add it to the study file"),
        ({"seeds": [0, 1, 0]}, "seeds has 0 more than once"),
        ({"seeds": []}, "seeds = "),
        ({"baseline": "dpao"}, r"baseline = 'dpao' is no arm. Did you mean 'dapo'\? Arms: dapo, owpo"),
        ({"baseline": None}, "baseline is missing; name the arm that others are held against: dapo, owpo"),
        ({"arms": None}, "the study has no arms; leave baseline out"),
        ({"tasks": {}}, r"tasks is empty; add a table \[tasks.NAME\], or leave it out"),
        ({"arms": {"_a": {}}, "baseline": "_a"}, "a name is of letters"),
        (
            {"measure": "bset"},
            r"measure = 'bset' is unknown. Did you mean 'best'\? Known: best, last, selection",
        ),
        ({"metrics": ["kl"]}, "metrics = 'kl' is unknown. .*Known: accuracy, entropy, kl_to_reference"),
        ({"contrasts": [["owpo", "dpao"]]}, r"contrasts: 'dpao' is no arm. Did you mean 'dapo'\?"),
        ({"pass_at": 1}, "pass_at = 1 must be"),
        ({"references": {"dapo": {}}}, "dapo is both an arm and a reference; rename one"),
        (
            {"settings": {"x": {"reference": "strnog"}}, "references": {"strong": {}}},
            r"settings.x.reference = 'strnog' is neither .*Did you mean 'strong'\?.*as ratchet.reference",
        ),
        ({"references": {"strong": {"seed": 1}}}, "references.strong.seed is not to be overridden"),
        (
            {"tasks": {"x": {"arms": {"dpao": {}}}}},
            r"tasks.x.arms.dpao must be .*arms or references. Did you mean 'dapo'\?",
        ),
        ({"tasks": {"x": {"arms": "dapo"}}}, "tasks.x.arms = 'dapo' must be a table of overrides by arm"),
        ({"tasks": {"x": {"arms": {"dapo": {"seed": 1}}}}}, "tasks.x.arms.dapo.seed is not to be overridden"),
        ({"tasks": {"x": {"transfer": {"kind": "jsonl"}}}}, "tasks.x.transfer holds problem sets by name"),
        ({"recipe": 3}, "recipe = 3 must be the path of a recipe"),
        ({"recipe": "no.toml"}, r"recipe = 'no.toml': no file .*a path is relative to the study file"),
        ({"settings": {"x": 3}}, "settings.x = 3 must be a table"),
        ({"settings": {"x": {"trianing": {}}}}, r"settings.x.trianing is unknown. Did you mean 'training'\?"),
        (
            {"settings": {"x": {"seed": 3}}},
            "settings.x.seed is not to be overridden: seeds lists the study's",
        ),
        ({"settings": {"x": {"run.threads": 3}}}, "settings.x.run.threads is not to be overridden"),
        ({"reduced": {"sedes": [0]}}, r"reduced.sedes is unknown. Did you mean 'seeds'\?"),
        ({"reduced": {"arms": {"grpo": {}}}}, "reduced.arms.grpo is none of the study's arms"),
        ({"reduced": {"seeds": [1, 1]}}, "seeds has 1 more than once"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, recipe_data, changes, told):
    with pytest.raises(InputError, match=told):
        read_study(write_study(tmp_path, study_data(recipe_data, **changes)))


def test_a_file_that_is_no_toml_or_not_there(tmp_path, monkeypatch):
    (tmp_path / "bad.toml").write_text("a = ", encoding="utf-8")
    with pytest.raises(InputError, match="not valid TOML"):
        read_study(tmp_path / "bad.toml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "arms.toml").touch()
    assert str(find_study("arms")) == "studies/arms.toml"
    assert find_study(str(tmp_path / "bad.toml")) == tmp_path / "bad.toml"
    with pytest.raises(InputError, match=r"no study 'amrs'.*Did you mean 'arms'\?"):
        find_study("amrs")


def test_dotted_and_nested_entries_are_one():
    assert nested({"a.b": 1, "a": {"c": {"d.e": 2}}}, "x") == {"a": {"b": 1, "c": {"d": {"e": 2}}}}
    for twice in ({"a.b": 1, "a": {"b": 2}}, {"a": {"b": 2}, "a.b": 1}):
        with pytest.raises(InputError, match="x.a.*b is given twice; keep one"):
            nested(twice, "x")
    with pytest.raises(InputError, match="'a' is a value there, and a table here"):
        nested({"a": 1, "a.b": 2}, "x")


def test_another_thing_takes_the_place_of_the_whole_table():
    fixed = {"protocol": "fixed", "steps": 4, "reference": "base"}
    assert laid_over({"r": fixed}, {"r": {"steps": 2}}) == {"r": {**fixed, "steps": 2}}
    assert laid_over({"r": fixed}, {"r": {"protocol": "fixed", "steps": 2}}) == {"r": {**fixed, "steps": 2}}
    moving = {"protocol": "every_k", "steps": 4}
    assert laid_over({"r": fixed}, {"r": moving}) == {"r": moving}
    assert laid_over({"r": [1, 2]}, {"r": [3]}) == {"r": [3]}


GRID = {
    "tasks": {"easy": {"evaluation.samples": 1}, "hard": {"evaluation.samples": 3}},
    "settings": {"slow": {"training.learning_rate": 1e-3}},
    "arms": {**ARMS, "moving": {"ratchet": {"protocol": "every_k", "steps": 4, "k": 2}}},
}


def test_the_grid_and_its_names(tmp_path, recipe_data):
    study = study_of(tmp_path, recipe_data, **GRID)
    keys = [point.key for point in points_of(study)]
    assert study.num_runs == len(keys) == 12
    assert keys[:3] == ["easy-slow-dapo-seed0", "easy-slow-owpo-seed0", "easy-slow-moving-seed0"]
    assert keys[6] == "easy-slow-dapo-seed1"  # a seed is through before the next begins
    run = runs_of(study, tmp_path / "out")[5]
    assert run.point.key == "hard-slow-moving-seed0"
    assert run.folder == tmp_path / "out" / "runs" / run.point.key
    config = run.config
    assert (config.seed, config.run.threads, config.evaluation.samples) == (0, 1, 3)
    assert (config.training.learning_rate, config.ratchet.protocol) == (1e-3, "every_k")


def test_an_axis_that_is_missing_has_one_nameless_point(tmp_path, recipe_data):
    study = study_of(tmp_path, recipe_data, arms=None, baseline=None)
    assert [point.key for point in points_of(study)] == ["seed0", "seed1"]


def test_tasks_of_a_file_of_their_own(tmp_path, recipe_data):
    shared = {"easy": {"evaluation.samples": 1}, "hard": {"evaluation": {"samples": 3}, "rollout.prompts": 4}}
    (tmp_path / "tasks.toml").write_text(as_toml(shared), encoding="utf-8")
    assert list(study_of(tmp_path, recipe_data, tasks_from="tasks.toml").tasks) == ["easy", "hard"]
    some = study_of(tmp_path, recipe_data, tasks_from="tasks.toml", tasks={"hard": {"evaluation.samples": 2}})
    assert some.tasks == {"hard": {"evaluation": {"samples": 2}, "rollout": {"prompts": 4}}}
    with pytest.raises(InputError, match=r"tasks.hrad is no task of tasks.toml. Did you mean 'hard'\?"):
        study_of(tmp_path, recipe_data, tasks_from="tasks.toml", tasks={"hrad": {}})
    with pytest.raises(InputError, match=r"tasks_from = 'no.toml': no file"):
        study_of(tmp_path, recipe_data, tasks_from="no.toml")


def test_a_study_like_another(tmp_path, recipe_data):
    """Key by key; what the other one names by a path is looked for beside the other one."""
    (tmp_path / "large").mkdir()
    (tmp_path / "tasks.toml").write_text(as_toml({"easy": {"evaluation.samples": 1}}), encoding="utf-8")
    write_study(tmp_path, study_data(recipe_data, tasks_from="tasks.toml"), "first")
    large = write_study(
        tmp_path / "large", {"like": "../first.toml", "title": "Large", "seeds": [5]}, "second"
    )
    third = write_study(
        tmp_path / "large", {"like": "second.toml", "tasks": {"easy": {"evaluation.samples": 3}}}, "third"
    )
    for file, samples in ((large, 1), (third, 3)):
        study = read_study(file)
        assert (study.title, study.seeds, list(study.arms), study.baseline) == (
            "Large",
            (5,),
            list(ARMS),
            "dapo",
        )
        assert study.tasks == {"easy": {"evaluation": {"samples": samples}}}
    with pytest.raises(InputError, match=r"like = 'no.toml': no file"):
        read_study(write_study(tmp_path, {"like": "no.toml"}))


def test_the_reduced_form_is_laid_over_all(tmp_path, recipe_data):
    reduced = {"seeds": [7], "training.warmup_updates": 3, "arms": {"moving": {"ratchet.steps": 2}}}
    small = study_of(tmp_path, recipe_data, reduced=reduced, **GRID)
    assert (small.seeds, small.num_runs, small.folder_name, small.command) == (
        (7,),
        6,
        "which",
        "owpo study which",
    )
    by_key = {point.key: data_of(small, point) for point in points_of(small)}
    assert by_key["easy-slow-moving-seed7"]["ratchet"]["steps"] == 2
    assert by_key["easy-slow-dapo-seed7"]["ratchet"]["steps"] == 4
    assert by_key["easy-slow-dapo-seed7"]["training"]["warmup_updates"] == 3
    whole = study_of(tmp_path, recipe_data, full=True, reduced=reduced, **GRID)
    assert (whole.seeds, whole.folder_name, whole.command) == (
        (0, 1),
        "which-full",
        "owpo study which --full",
    )
    assert data_of(whole, points_of(whole)[0])["training"]["warmup_updates"] == 1


def test_a_refused_recipe_is_told_with_its_place(tmp_path, recipe_data):
    arms = {**ARMS, "bad": {"objective": {"name": "owop"}}}
    study = study_of(tmp_path, recipe_data, arms=arms, tasks={"easy": {}}, settings={"slow": {}})
    with pytest.raises(
        InputError, match=r"study which, task easy, setting slow, arm bad, seed 0:\n.*Did you mean 'owpo'"
    ):
        runs_of(study, tmp_path)


def test_the_last_weights_are_measured_where_they_are_asked_for(tmp_path, recipe_data):
    for measure, expected in (("best", False), (["best", "last"], True)):
        study = study_of(tmp_path, recipe_data, measure=measure)
        assert {run.config.evaluation.report_last for run in runs_of(study, tmp_path)} == {expected}


def test_steps_of_curves_are_evaluated_ones(tmp_path, recipe_data):
    study = study_of(tmp_path, recipe_data, at=[2, 3])
    with pytest.raises(
        InputError, match="arm dapo, seed 0: at = 3 is no step that is evaluated; it is one of 2, 4"
    ):
        runs_of(study, tmp_path)
    recipe_data["evaluation"]["every"] = 3
    study = study_of(tmp_path, recipe_data, **GRID)
    moving = next(run for run in runs_of(study, tmp_path) if run.point.arm == "moving")
    assert evaluated_steps(moving.config) == {2, 4}


def test_one_base_is_made_in_one_way(tmp_path, recipe_data):
    recipe_data["model"] = {"path": "bases/x", "make": {"terms": 2}}
    study = study_of(tmp_path, recipe_data, settings={"a": {}, "b": {"model.make.terms": 3}})
    with pytest.raises(
        InputError, match="'bases/x' is made in another way .* by another run; give each base a path"
    ):
        runs_of(study, tmp_path)


def test_names_that_the_disk_may_not_tell_apart(tmp_path, recipe_data):
    study = study_of(tmp_path, recipe_data, arms={"dapo": ARMS["dapo"], "DAPO": ARMS["dapo"]})
    with pytest.raises(InputError, match="would both be called DAPO-seed0; rename one"):
        runs_of(study, tmp_path)


def test_what_is_asked_of_a_run_is_not_where_it_lies(tmp_path, recipe_data):
    study = study_of(tmp_path, recipe_data)
    here, there = runs_of(study, tmp_path / "a"), runs_of(study, tmp_path / "b")
    assert [run.asked for run in here] == [run.asked for run in there]
    assert len({run.asked for run in here}) == 4


def test_a_recipe_is_found_from_the_study(tmp_path, recipe_data):
    data = study_data(recipe_data)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "studies").mkdir()
    recipe = write_study(tmp_path / "recipes", data["recipe"], "tiny")
    study = read_study(write_study(tmp_path / "studies", {**data, "recipe": f"../recipes/{recipe.name}"}))
    assert study.source == "../recipes/tiny.toml"
    assert data_of(study, points_of(study)[0])["model"] == recipe_data["model"]


CHAIN = {
    "references": {"strong": {"objective": {"name": "dapo"}, "ratchet": {"steps": 8}}},
    "settings": {
        "clean": {},
        "noisy": {"verifier": {"kind": "exact", "flip_wrong": 0.2}, "reference": "strong"},
    },
    "arms": {
        "dapo": ARMS["dapo"],
        "owpo": {"reference": "dapo"},
        "again": {"reference": "owpo"},
        "opd": {"objective": {"name": "opd"}},
        "base": ARMS["owpo"],
    },
}


@pytest.fixture
def chain(recipe_data) -> dict:
    """Arms one after another, a reference that a setting chooses, and arms that make their own choice."""
    return {**CHAIN, "settings": {**CHAIN["settings"], "clean": {"reference": "dapo"}}}


def test_who_learns_against_whom(tmp_path, recipe_data, chain):
    study = study_of(tmp_path, recipe_data, **chain)
    runs = {run.point.key: run for run in runs_of(study, tmp_path / "out")}
    assert len(runs) == study.num_runs == 2 * (1 + 2 * 5)
    found = {key: run.reference and run.reference.key for key, run in runs.items() if key.endswith("seed1")}
    assert found == {
        "strong-seed1": None,
        "clean-dapo-seed1": None,
        "clean-owpo-seed1": "clean-dapo-seed1",
        "clean-again-seed1": "clean-owpo-seed1",
        "clean-opd-seed1": "clean-dapo-seed1",
        "clean-base-seed1": None,
        "noisy-dapo-seed1": None,
        "noisy-owpo-seed1": "noisy-dapo-seed1",
        "noisy-again-seed1": "noisy-owpo-seed1",
        "noisy-opd-seed1": "strong-seed1",
        "noisy-base-seed1": None,
    }
    config = runs["noisy-opd-seed1"].config
    assert config.ratchet.reference == str(tmp_path / "out" / "runs" / "strong-seed1")
    assert runs["noisy-opd-seed1"].learning_from("there").config.ratchet.reference == "there"
    strong = runs["strong-seed1"].config
    assert (strong.ratchet.steps, strong.verifier.flip_wrong) == (8, 0.0)
    keys = list(runs)
    assert all(keys.index(run.reference.key) < keys.index(key) for key, run in runs.items() if run.reference)


def test_a_task_may_say_something_else_of_an_arm(tmp_path, recipe_data):
    tasks = {
        "easy": {},
        "hard": {"arms": {"owpo": {"training.learning_rate": 0.5}, "strong": {"ratchet.steps": 6}}},
    }
    arms = {"dapo": ARMS["dapo"], "owpo": {"reference": "strong"}}
    study = study_of(tmp_path, recipe_data, tasks=tasks, arms=arms, references=CHAIN["references"])
    configs = {run.point.key: run.config for run in runs_of(study, tmp_path)}
    rates = {key: config.training.learning_rate for key, config in configs.items() if "seed0" in key}
    assert {key for key, rate in rates.items() if rate == 0.5} == {"hard-owpo-seed0"}
    assert [configs[f"{task}-strong-seed0"].ratchet.steps for task in tasks] == [8, 6]


def test_what_a_run_learned_against_is_part_of_what_was_asked(tmp_path, recipe_data, chain):
    before = {run.point.key: run.asked for run in runs_of(study_of(tmp_path, recipe_data, **chain), tmp_path)}
    chain["references"] = {"strong": {"objective": {"name": "dapo"}, "ratchet": {"steps": 6}}}
    after = {run.point.key: run.asked for run in runs_of(study_of(tmp_path, recipe_data, **chain), tmp_path)}
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {f"{name}-seed{seed}" for name in ("strong", "noisy-opd") for seed in (0, 1)}


def test_references_that_cannot_be(tmp_path, recipe_data):
    arms = {"dapo": ARMS["dapo"], "a": {"reference": "b"}, "b": {"reference": "a"}}
    with pytest.raises(InputError, match="learn against each other in a circle, a -> b -> a; give one"):
        runs_of(study_of(tmp_path, recipe_data, arms=arms), tmp_path)
    arms = {"dapo": {**ARMS["dapo"], "reference": "owpo"}, "owpo": ARMS["owpo"]}
    with pytest.raises(InputError, match=r"(?s)arm dapo, seed 0.* would not be read by objective 'dapo'"):
        runs_of(study_of(tmp_path, recipe_data, arms=arms), tmp_path)
    with pytest.raises(InputError, match="pass_at = 16 needs as many samples a problem"):
        runs_of(study_of(tmp_path, recipe_data, pass_at=16), tmp_path)
