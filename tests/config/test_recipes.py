"""A recipe is right, or a sentence says which key, which value, what is allowed and what is nearest."""

import ast
import copy
import json
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from owpo import config
from owpo.bases.recipe import AnyBaseRecipe
from owpo.cli import main
from owpo.errors import InputError
from owpo.recipe_page import recipe_page
from owpo.recipes import build_config, load_recipe
from owpo.run import train

RECIPES = Path(__file__).parents[2] / "recipes"

MINIMAL = """
[run]
folder = "runs/x"
[model]
path = "somewhere"
[problems]
train = { kind = "jsonl", path = "train.jsonl" }
selection = { kind = "jsonl", path = "selection.jsonl" }
report = { kind = "jsonl", path = "report.jsonl" }
[rollout]
prompts = 4
group_size = 4
max_new_tokens = 16
[objective]
name = "owpo"
[training]
learning_rate = 1e-6
[ratchet]
protocol = "fixed"
reference = "base"
steps = 10
[evaluation]
every = 5
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def changed(**sections):
    data = copy.deepcopy(tomllib.loads(MINIMAL))
    for name, change in sections.items():
        for key, value in change.items():
            if value is None:
                del data[name][key]
            else:
                data.setdefault(name, {})[key] = value
    return data


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_that_we_ship_is_valid(path):
    load_recipe(path)


def test_an_objective_is_written_out_with_all_its_hyper_parameters(recipe):
    built = load_recipe(recipe, ["--objective.w_low", "0.9"])
    assert built.objective.model_dump() == {
        "name": "owpo",
        "w_low": 0.9,
        "w_high": 1.2,
        "clip_low": 0.2,
        "clip_high": 0.28,
        "weight_policy": "current",
    }


def test_what_is_written_out_reads_back_as_the_same(recipe):
    built = load_recipe(recipe)
    assert build_config(built.model_dump(mode="json"), "again") == built


def test_overrides(recipe):
    built = load_recipe(
        recipe,
        ["--seed", "7", "--run.folder=runs/y", "--ratchet", '{protocol = "every_k", steps = 6, k = 3}'],
    )
    assert (built.seed, built.run.folder, built.ratchet.k) == (7, "runs/y", 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed"], "--seed has no value"),
        (["seed", "3"], "unexpected argument 'seed'"),
        (["--seed.x", "3"], "seed = .*valid integer"),
        (["--model.path.x", "3"], "'path' is a value, not a section"),
    ],
)
def test_malformed_overrides(recipe, words, message):
    with pytest.raises(InputError, match=message):
        load_recipe(recipe, words)


def test_a_missing_recipe_names_the_nearest(recipe):
    with pytest.raises(InputError, match=r"Did you mean .*recipe\.toml"):
        load_recipe(recipe.with_name("recipee.toml"))


@pytest.fixture
def run(recipe_data):
    """A finished run."""
    return train(build_config(recipe_data, "test"))


def test_the_configuration_of_a_run_is_a_recipe_that_repeats_it(run, tmp_path):
    again = tmp_path / "again"
    assert main(["train", str(run.folder / "config.json"), "--run.folder", str(again)]) == 0
    for name in ("metrics.jsonl", "rollouts.jsonl", "evaluations.jsonl", "lineage.jsonl", "result.json"):
        assert (again / name).read_bytes() == (run.folder / name).read_bytes(), name
    before, after = (load_recipe(folder / "config.json").model_dump() for folder in (run.folder, again))
    assert before["run"].pop("folder") == str(run.folder)
    assert after["run"].pop("folder") == str(again)
    assert after == before


def test_the_configuration_of_a_run_takes_overrides(run, tmp_path):
    words = ["--run.folder", str(tmp_path / "other"), "--seed", "2", "--ratchet.steps", "2"]
    built = load_recipe(run.folder / "config.json", words)
    assert (built.seed, built.ratchet.steps, built.rollout.group_size) == (2, 2, 16)
    other = train(built)
    assert len(other.metrics()) == 2
    assert other.metrics() != run.metrics()[:2]


def test_the_configuration_of_a_run_without_another_folder_does_not_touch_it(run, capsys):
    assert main(["train", str(run.folder / "config.json")]) == 2
    assert f"run.folder '{run.folder}' exists; go on with it by `owpo resume {run.folder}`" in (
        capsys.readouterr().err
    )


WHAT_A_RECIPE_IS = (
    "; a recipe is a TOML file, or a run's config.json as the run wrote it, with changes given as overrides: "
    "--section.key VALUE"
)


def test_a_configuration_that_was_edited_by_hand_is_refused_with_the_way_to_change_it(run):
    file = run.folder / "config.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"seed": 1', '"seed": 2'), encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_recipe(file, ["--run.folder", "other"])
    assert str(error.value) == (
        f"{file} is damaged or was edited (its text does not fit its seal){WHAT_A_RECIPE_IS}"
    )


@pytest.mark.parametrize("text", ['{"seed": 1}', "[1]", "3", '{"run": {"folder": "x"}}', '{"seal": "0"}'])
def test_other_json_is_refused_as_what_it_is(tmp_path, text):
    file = tmp_path / "recipe.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_recipe(file)
    assert str(error.value) == f"{file} is not the config.json of a run{WHAT_A_RECIPE_IS}"


def test_the_other_sealed_files_of_a_run_are_no_recipes(run):
    for name in ("problems.json", "result.json"):
        assert "seal" in json.loads((run.folder / name).read_text(encoding="utf-8"))
        with pytest.raises(InputError, match=rf"{name} is not the config\.json of a run; a recipe is"):
            load_recipe(run.folder / name)


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b""])
def test_json_that_is_none_is_refused(tmp_path, data):
    file = tmp_path / "recipe.json"
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"recipe\.json is damaged \(.+\); a recipe is a TOML file, or"):
        load_recipe(file)


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("run/confg.json", r" Did you mean '.*/run/config\.json'\?"),
        ("run/x.json", r" Recipes there: config\.json"),
        ("run", r" Did you mean '.*/run/config\.json'\?"),
        ("kopy.json", r" Did you mean '.*/copy\.json'\?"),
        ("recipe.json", r" Did you mean '.*/recipe\.toml'\?"),
        ("other/config.json", r" The folder '.*/other' does not exist\."),
    ],
)
def test_a_missing_json_names_what_is_near(recipe, missing, hint):
    folder = recipe.parent / "run"
    folder.mkdir()
    for file in (folder / "config.json", folder / "problems.json", recipe.parent / "copy.json"):
        file.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=rf"^no recipe '.*/{missing}'\.{hint}$"):
        load_recipe(recipe.parent / missing)


def test_broken_toml_says_where(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[run\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"not valid TOML.*line 1"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollout": {"groupsize": 4}}, r"rollout\.groupsize is unknown\. Did you mean 'group_size'\?"),
        ({"rollout": {"group_size": "four"}}, r"rollout\.group_size = 'four' must be a valid integer"),
        ({"rollout": {"prompts": None}}, r"rollout\.prompts is missing"),
        ({"rollout": {"temperature": 0.0}}, r"rollout\.temperature = 0\.0 must be greater than 0"),
        (
            {"rollout": {"overlong_cache": 16}},
            "overlong_cache = 16 must be below rollout.max_new_tokens = 16",
        ),
        (
            {"rollout": {"group_size": 1}},
            "group_size = 1 leaves nothing to compare.*group_std.*use 2 or more",
        ),
        ({"rollout": {"engine": "vlm"}}, r"rollout\.engine = 'vlm' must be 'local' or 'vllm'"),
        (
            {"rollout": {"vllm": {"eager": True}}},
            "rollout.vllm is not read with rollout.engine = 'local'; set the engine to 'vllm'",
        ),
        (
            {"rollout": {"engine": "vllm", "vllm": {"cache_gib": 0.0}}},
            r"rollout\.vllm\.cache_gib = 0\.0 must be greater than 0",
        ),
        (
            {"rollout": {"engine": "vllm", "temperature": 0.005}},
            "rollout.temperature = 0.005 is below the 0.01 that vLLM samples at",
        ),
        (
            {"rollout": {"engine": "vllm"}, "evaluation": {"temperature": 0.001}},
            "evaluation.temperature = 0.001 is below the 0.01",
        ),
        (
            {"rollout": {"engine": "vllm"}, "model": {"lora": {}}},
            "rollout.engine = 'vllm' is handed whole weights, and model.lora trains an adapter",
        ),
        ({"objective": {"name": "owpoo"}}, "unknown objective 'owpoo'. Did you mean 'owpo'"),
        ({"objective": {"w_lo": 0.9}}, "no hyper-parameter 'w_lo'. Did you mean 'w_low'"),
        ({"objective": {"w_low": 0.0}}, r"w_low must lie in \(0, 1\]"),
        (
            {"training": {"advantage": "group_sdt"}},
            "training.advantage = 'group_sdt'.*Did you mean 'group_std'",
        ),
        ({"training": {"reduction": "mean"}}, "training.reduction = 'mean' is unknown"),
        ({"training": {"updates_per_batch": 5}}, "updates_per_batch = 5 needs at least as many prompts"),
        (
            {"ratchet": {"protocol": "fix"}},
            r"ratchet\.protocol is 'fix'\. Did you mean 'fixed'\? Allowed: .*leapfrog",
        ),
        ({"ratchet": {"protocol": None}}, r"ratchet\.protocol is missing\. Allowed: .*leapfrog"),
        ({"ratchet": {"stpes": 3}}, r"ratchet\.stpes is unknown\. Did you mean 'steps'"),
        (
            {"ratchet": {"reference": None}},
            "'owpo' reads a reference and ratchet.reference is missing; set it to 'base'",
        ),
        ({"objective": {"name": "dapo"}}, "ratchet.reference = 'base' would not be read by objective 'dapo'"),
        (
            {"objective": {"name": "dapo"}, "ratchet": {"protocol": "every_k", "reference": None}},
            "'every_k' moves a reference that objective 'dapo' does not read",
        ),
        (
            {"problems": {"report": {"kind": "jsonl", "path": "train.jsonl"}}},
            "problems.train and problems.report are the same",
        ),
        ({"problems": {"template": "boxd"}}, "unknown prompt template 'boxd'.*Did you mean 'boxed'"),
        ({"problems": {"train": {"kind": "dataset", "preset": "math50"}}}, "Did you mean 'math500'"),
        ({"problems": {"train": {"kind": "dataset", "preset": "verl"}}}, "path is missing"),
        ({"problems": {"train": {"kind": "dataset"}}}, "path is missing; name a file"),
        (
            {"problems": {"train": {"kind": "dataset", "preset": "aime24", "columns": {"answer": "x"}}}},
            "knows its columns",
        ),
        ({"problems": {"answer": "whole"}}, r"problems\.answer is unknown"),
        ({"verifier": {"kind": "maths"}}, r"verifier\.kind is 'maths'\. Did you mean 'math'"),
        (
            {"verifier": {"kind": "math", "timout": 3.0}},
            r"verifier\.timout is unknown\. Did you mean 'timeout'",
        ),
        ({"verifier": {"kind": "exact", "take": "last"}}, r"verifier\.take = 'last' must be 'whole'"),
        (
            {"verifier": {"kind": "exact", "flip_wrong": 1.5}},
            r"verifier\.flip_wrong = 1\.5 must be less than or equal to 1",
        ),
        ({"rollout": {"stop": [""]}}, r"rollout\.stop = ''.* at least 1 character"),
        (
            {"problems": {"report": {"kind": "json"}}},
            r"problems\.report\.kind is 'json'\. Did you mean 'jsonl'",
        ),
        (
            {"evaluation": {"temperature": 0.0}},
            "evaluation.temperature = 0 gives the same response every time",
        ),
        ({"run": {"device": "gpu"}}, r"run\.device = 'gpu' must be 'cpu' or 'cuda'"),
        ({"run": {"folder": ""}}, "run.folder = ''.* at least 1 character"),
        ({"model": {"lora": {"rank": 0}}}, r"model\.lora\.rank = 0 must be greater than or equal to 1"),
        ({"model": {"lora": {"dropout": 0.1}}}, r"model\.lora\.dropout is unknown\. Known here: rank, alpha"),
        ({"model": {"lora": {"modules_to_save": ["lm_head"]}}}, r"model\.lora\.modules_to_save is unknown"),
        (
            {"model": {"lora": {"target_modules": "all"}}},
            "model.lora.target_modules: 'all' is neither \"all-linear\" nor a list of module names",
        ),
        ({"model": {"lora": {"target_modules": []}}}, r"target_modules: \[\] is neither"),
        ({"model": {"make": {"layer": 3}}}, r"model\.make\.layer is unknown\. Did you mean 'layers'"),
        ({"model": {"make": {"layers": "three"}}}, r"model\.make\.layers = 'three' must be a valid integer"),
        ({"model": {"make": {"width": 65}}}, r"model\.make: width must be a multiple of 2 \* heads"),
        ({"problems": {"train": {"kind": "chain_addition", "count": 5, "term": 3}}}, "Did you mean 'terms'"),
        (
            {"problems": {"train": {"kind": "chain_addition", "count": 5, "fewest_terms": 9}}},
            "9 is more than terms = 8",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_mend(change, message):
    with pytest.raises(InputError, match=message):
        build_config(changed(**change), "recipe.toml")


def test_leapfrog_starts_without_a_reference():
    ratchet = {
        "protocol": "leapfrog",
        "stages": 2,
        "steps": 3,
        "first_steps": 3,
        "first_objective": {"name": "owpo"},
    }
    data = changed() | {"ratchet": ratchet}
    with pytest.raises(
        InputError, match="stage 1 of leapfrog has none; use one that reads none, such as 'dapo'"
    ):
        build_config(data, "recipe.toml")


def test_all_errors_are_told_at_once():
    with pytest.raises(InputError) as error:
        build_config(changed(rollout={"prompts": 0}, training={"learning_rat": 1.0}), "recipe.toml")
    assert "rollout.prompts = 0" in str(error.value)
    assert "training.learning_rat is unknown. Did you mean 'learning_rate'?" in str(error.value)


def test_every_field_is_read_somewhere():
    """A field exists only if something reads it: outside config/, as an attribute, or, of a verifier, which crosses
    into other processes as plain data, as a key or a parameter."""
    room = Path(config.__file__).parent
    nodes = [
        node
        for path in room.parent.rglob("*.py")
        if room not in path.parents
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    read |= {
        node.slice.value
        for node in nodes
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
    }
    read |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    sections = [
        value
        for value in vars(config).values()
        if isinstance(value, type) and issubclass(value, config.Section)
    ]
    fields = {f"{section.__name__}.{name}": name for section in sections for name in section.model_fields}
    assert len(fields) > 40
    assert [field for field, name in fields.items() if name not in read] == []


def test_a_value_where_a_section_belongs():
    with pytest.raises(InputError, match=r"evaluation = 3 must be a section with keys every, samples,"):
        build_config(changed() | {"evaluation": 3}, "recipe.toml")


def test_the_recipe_page_is_up_to_date_and_leaves_no_key_unexplained():
    page = (RECIPES.parent / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert page == recipe_page(), "run make docs"
    unexplained = [line for line in page.splitlines() if line.endswith("|  |")]
    assert unexplained == [
        line
        for line in unexplained
        if any(line.split("`")[1] in made.__dataclass_fields__ for made in get_args(AnyBaseRecipe))
    ]


def test_lora_is_a_table_of_the_model_empty_where_the_defaults_will_do(recipe):
    assert load_recipe(recipe).model.lora is None
    built = load_recipe(recipe, ["--model.lora", "{}", "--model.lora.target_modules", '["q_proj"]'])
    assert built.model.lora.model_dump() == {"rank": 16, "alpha": 32, "target_modules": ["q_proj"]}
    assert build_config(built.model_dump(mode="json"), "again") == built
