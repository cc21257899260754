"""Numbers by hand: one-way for every sample is not one-way in expectation; contexts; angles of gradients."""

import json
import math

import pytest
import torch
from conftest import as_toml, write_tiny_model

from owpo.cli import main
from owpo.core.batch import TokenBatch
from owpo.core.registry import objective
from owpo.expectation.batches import mean_interval
from owpo.expectation.contexts import Contexts, context_ids, contexts_of, measure_contexts, reversals
from owpo.expectation.gradients import cosine, products, weighted_gradients
from owpo.expectation.rules import dapo, expected_parts, known_parts, mopd, told_correct, weighted
from owpo.expectation.sample import RULES, Basis, Sample, expected_coefficients
from owpo.policy.load import load_policy
from owpo.policy.logprobs import response_logprobs
from owpo.policy.responses import Responses

OWPO, NO_ASYM = weighted(0.8, 1.2), weighted(0.8, 1.0, "no_asym")


def value(number: float) -> torch.Tensor:
    return torch.tensor([number], dtype=torch.float64)


def mean_of_signs(rule, share: float, log_ratio: float) -> float:
    """The mean coefficient where A is +1 with chance `share`, else -1."""
    return rule(value(log_ratio), value(share), value(share - 1)).item()


def test_the_methods_example():
    assert mean_of_signs(dapo, 0.55, 1.0) == pytest.approx(0.10)
    assert mean_of_signs(OWPO, 0.55, 1.0) == pytest.approx(-0.10)
    assert mean_of_signs(NO_ASYM, 0.55, 1.0) == pytest.approx(0.08)
    assert mean_of_signs(OWPO, 0.45, -1.0) == pytest.approx(
        0.10
    )  # behind the reference: up, against E[A] = -0.10
    assert mean_of_signs(mopd(5.0), 0.55, 1.0) == pytest.approx(-0.5)
    assert mean_of_signs(OWPO, 0.55, 0.0) == pytest.approx(0.10)


@pytest.mark.parametrize(
    ("band", "threshold"), [((0.8, 1.2), 0.2), ((0.8, 1.0), 1 / 9), ((1.0, 1.2), 1 / 11)]
)
def test_thresholds(band, threshold):
    """E[A] / E|A| at which the mean update of a saturated token turns: owpo, no_accel, no_locking."""
    share = (1 + threshold) / 2
    assert mean_of_signs(weighted(*band), share - 1e-6, 1.0) < 0 < mean_of_signs(dapo, share - 1e-6, 1.0)
    assert mean_of_signs(weighted(*band), share + 1e-6, 1.0) > 0


def test_flips_and_advantages():
    assert told_correct(value(0.7), 0.3).item() == pytest.approx(0.58)
    gain, loss = expected_parts(told_correct(value(1.0), 0.2), told_correct(value(0.5), 0.2))
    assert (gain.item(), loss.item()) == pytest.approx((0.8, -0.2))  # A+ = 1, A- = -1
    gain, loss = expected_parts(value(0.25), value(0.2))
    assert (gain.item(), loss.item()) == pytest.approx((0.25 * 2, -0.75 * 0.5))
    for decided in (0.0, 1.0):
        assert [part.item() for part in expected_parts(value(decided), value(decided))] == [0, 0]
    assert [part.item() for part in known_parts(value(-2.0))] == [0, -2]


def of_contexts(visits, correct, group_correct, log_ratio) -> Contexts:
    columns = zip(*[[visits, correct, group_correct, log_ratio]], strict=True)
    return Contexts(*[torch.tensor(c, dtype=torch.float64).flatten() for c in columns])


def test_reversed_where_the_direction_is_weak_and_the_policy_past_its_reference():
    def shares(visits, correct, log_ratio, flip=0.0, rule=OWPO):
        found = reversals(of_contexts(visits, correct, 0.5, log_ratio), rule, flip)
        return found.reversed, found.surely, found.possibly

    assert shares(10**6, 0.55, 1.0) == (1, 1, 1)
    assert shares(20, 0.55, 1.0) == (1, 0, 1)
    assert shares(10**6, 0.65, 1.0) == (0, 0, 0)
    assert shares(10**6, 0.65, 1.0, flip=0.2) == (1, 1, 1)  # told 0.59: E[A] / E|A| = 0.18
    assert shares(10**6, 0.45, 1.0) == (0, 0, 0)
    assert shares(10**6, 0.45, -1.0) == (1, 1, 1)
    assert shares(20, 0.45, 1.0) == (0, 0, 1)
    assert shares(20, 0.55, 1.0, rule=NO_ASYM) == (0, 0, 0)
    assert shares(10**6, 0.55, 1.0, rule=weighted(0.8, 1.0)) == (1, 1, 1)
    assert shares(10**6, 0.56, 1.0, rule=weighted(0.8, 1.0)) == (0, 0, 0)
    assert shares(10**6, 0.59, 1.0, rule=mopd(5.0)) == (1, 1, 1)  # 5 * 0.18 < 1
    assert shares(10**6, 0.5, 1.0) == (None, None, None)  # no direction to run against


def test_sure_reversals_are_seen_and_seen_ones_possible():
    generator = torch.Generator().manual_seed(0)
    visits = torch.randint(16, 4000, (500,), generator=generator).double()
    correct = (torch.rand(500, generator=generator).double() * visits).round() / visits
    near = (correct + 0.1 * torch.randn(500, generator=generator).double()).clamp(0.01, 0.99)
    contexts = Contexts(visits, correct, near, torch.randn(500, generator=generator).double())
    for flip in (0.0, 0.3):
        found = reversals(contexts, OWPO, flip)
        assert 0 < found.surely < found.reversed < found.possibly < 1
        assert found.force < found.reversed
        assert reversals(contexts, NO_ASYM, flip).possibly == 0


PROMPT = torch.tensor([0, 0, 0, 1])
TOKENS = torch.tensor([[3, 4, 1], [3, 5, 0], [3, 4, 2], [3, 4, 1]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=torch.bool)


def test_a_context_is_a_prompt_a_prefix_and_a_token():
    ids = context_ids(PROMPT, TOKENS, MASK)
    first, second, third = ids.T.tolist()
    assert first[0] == first[1] == first[2] != first[3]
    assert second[0] == second[2]
    assert len({second[0], second[1], second[3]}) == 3
    assert third[1] == -1
    assert len({third[0], third[2], third[3]}) == 3
    assert sorted(ids[MASK].unique().tolist()) == list(range(8))


def test_shares_are_of_visits():
    correct = torch.tensor([True, False, False, True])
    contexts = contexts_of(PROMPT, TOKENS, MASK, correct, torch.where(TOKENS == 4, 1.0, 0.0))
    assert contexts.visits.sum() == 11
    at = contexts.visits.argmax()  # "3" of prompt 0
    assert (contexts.visits[at], contexts.correct[at], contexts.group_correct[at]) == (3, 1 / 3, 1 / 3)
    found = measure_contexts(contexts, {"owpo": OWPO}, [0.0], min_visits=2, past=0.2)
    assert (found["tokens"], found["contexts"]) == (11, 2)
    assert found["covered"] == pytest.approx(5 / 11)
    assert (found["ahead"], found["behind"], found["directed"]) == pytest.approx((2 / 5, 0, 2 / 5))
    (row,) = found["reversals"]
    assert row["reversed"] == 0  # of "34" a half is correct, of all a third: E[A] / E|A| = 1/3
    none = measure_contexts(contexts, {"owpo": OWPO}, [0.0], min_visits=4, past=0.2)
    assert (none["covered"], none["ahead"], none["reversals"][0]["reversed"]) == (0, None, None)


@pytest.fixture(scope="module")
def policy(tiny_model):
    return load_policy(str(tiny_model), dtype="float64")


def a_sample() -> Sample:
    """Two prompts with four responses each; of the second none is correct."""
    generator = torch.Generator().manual_seed(0)
    prompts = [[5, 6]] * 4 + [[7]] * 4
    mask = torch.arange(5) < torch.tensor([5, 3, 2, 4, 1, 5, 3, 2]).unsqueeze(1)
    responses = Responses(
        prompts=[next(p for p in ([5, 6], [7]) if p == prompt) for prompt in prompts],
        tokens=torch.randint(2, 12, mask.shape, generator=generator),
        mask=mask,
        sampler_logp=torch.zeros(mask.shape),
        truncated=torch.zeros(len(prompts), dtype=torch.bool),
    )
    correct = torch.tensor([[True, False, False, True], [False] * 4])
    log_ratio = 0.4 * torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    return Sample(responses, correct, log_ratio.masked_fill(~mask, 0.0), 1.0, micro_batch_tokens=8)


# Llama's norms compute in float32, also in a float64 model: sums agree to its rounding.
def loss_gradient(policy, sample, name, advantage_B, **settings):
    """By autograd of the objective itself, on-policy, minus the gradient of the summed loss, [D]."""
    logp, _ = response_logprobs(policy, sample.responses, 1.0)
    batch = TokenBatch(
        logp=logp,
        old_logp=logp.detach(),
        ref_logp=logp.detach() - sample.log_ratio_BT,
        advantage=advantage_B,
        mask=sample.responses.mask,
    )
    loss = objective(name, **settings)(batch).loss.sum()
    found = torch.autograd.grad(-loss, policy.trained_parameters())
    return torch.cat([gradient.flatten() for gradient in found])


def test_coordinates_in_the_basis_are_the_objectives_own_gradients(policy):
    sample = a_sample()
    advantage = torch.tensor([1.0, -0.5, -0.5, 2.0, 0.0, -1.0, 1.0, -2.0], dtype=torch.float64)
    basis = Basis(OWPO, 5.0, [0.0])
    coefficients = basis.coefficients(sample.log_ratio_BT, [known_parts(advantage)])
    gradients = weighted_gradients(policy, sample.responses, coefficients, 1.0, micro_batch_tokens=8)
    for name in RULES:
        direct = loss_gradient(policy, sample, name, advantage)
        assert (basis.coordinates(name, 0.0) @ gradients - direct).norm() < 1e-6 * direct.norm()


@pytest.mark.parametrize("name", ["dapo", "owpo"])
def test_the_expectation_over_flips_is_the_mean_of_the_drawn_gradients(policy, name):
    """Every response is told correct or wrong; the chance of each weighs the objective's own gradient."""
    sample, flip = a_sample(), 0.3
    basis = Basis(OWPO, 5.0, [0.0, flip])
    gradients = weighted_gradients(
        policy, sample.responses, expected_coefficients(sample, basis), 1.0, micro_batch_tokens=100
    )
    told = torch.where(sample.correct_PG, 1 - flip, flip).flatten().double()
    share = torch.tensor([0.5, 0.3], dtype=torch.float64).repeat_interleave(4)  # 0.5 stays, 0 becomes 0.3
    right, wrong = ((1 - share) / share).sqrt(), -(share / (1 - share)).sqrt()
    expected = torch.zeros_like(gradients[0])
    for row in range(8):
        alone = torch.zeros(8, dtype=torch.float64)
        for chance, advantage in ((told[row], right[row]), (1 - told[row], wrong[row])):
            alone[row] = advantage
            expected += chance * loss_gradient(policy, sample, name, alone)
    assert (basis.coordinates(name, flip) @ gradients - expected).norm() < 1e-6 * expected.norm()


def test_cosines_from_products():
    vectors = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    product = products(vectors, vectors)
    first, second, zero = torch.eye(3, dtype=torch.float64)
    assert cosine(product, first, second) == pytest.approx(math.sqrt(0.5))
    assert cosine(product, first, second - first) == pytest.approx(0)
    assert cosine(product, first, zero) is None
    mean, low, high = mean_interval(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert (mean, high - mean) == pytest.approx((0.5, 12.706 * 0.5), rel=1e-3)
    assert low + high == pytest.approx(1)


@pytest.fixture
def words(recipe_data, tmp_path, tiny_model):
    (tmp_path / "recipe.toml").write_text(as_toml(recipe_data), encoding="utf-8")
    reference = write_tiny_model(tmp_path / "reference", seed=1)
    return [
        "expectation", str(tiny_model), "--reference", str(reference), "--like", str(tmp_path / "recipe.toml"),
        "--prompts", "4", "--samples", "64", "--batches", "4", "--min-visits", "4", "--flip", "0.2",
    ]  # fmt: skip


def test_from_the_command_line(words, tmp_path, capsys):
    out = tmp_path / "found"
    assert main([*words, "--json", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("folder") == str(out)
    assert found == json.loads((out / "expectation.json").read_text())
    assert found["settings"]["w_low"] == 0.8
    assert 0 < found["accuracy"] < 1
    assert 0 < found["contexts"]["covered"] < 1
    rows = found["contexts"]["reversals"]
    assert {(row["rule"], row["flip"]) for row in rows} >= {("owpo", 0.0), ("no_asym", 0.2), ("mopd", 0.2)}
    assert all(row["reversed"] == 0 for row in rows if row["rule"] == "no_asym")
    updates = {(row["rule"], row["flip"]): row for row in found["updates"]["rules"]}
    assert updates["dapo", 0.0]["to_clean"] == pytest.approx(1)
    assert updates["opd", 0.0]["to_clean"] == pytest.approx(updates["opd", 0.2]["to_clean"])
    assert updates["owpo", 0.2]["to_clean"] < updates["owpo", 0.0]["to_clean"]
    assert (found["batches"]["prompts"], found["batches"]["group_size"]) == (4, 16)
    page = (out / "expectation.md").read_text()
    assert "| flip 0 | flip 0.2 |" in page
    assert main(words) == 0
    assert "runs against" in capsys.readouterr().out


def test_a_policy_that_is_its_own_reference(words, tiny_model, capsys):
    assert main([*words, "--reference", str(tiny_model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["possibly"] for row in found["contexts"]["reversals"]} == {0}
    for row in found["batches"]["rules"]:
        assert (row["batches"] > 0) == (row["rule"] != "opd")
        if row["rule"] == "owpo":
            assert row["over_dapo"] == [0, 0, 0]
    for row in found["updates"]["rules"]:
        assert row["to_dapo"] == (None if row["rule"] == "opd" else pytest.approx(1))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--flip", "0.5"], "flip 0.5 is not in [0, 0.5)"),
        (["--prompts", "8"], "has 7 problems, and 8 prompts are asked for; lower --prompts"),
        (["--min-visits", "65"], "min_visits = 65 must be in 1 ... 64"),
        (["--batch", "5", "8"], "take 1 ... 4 prompts and 2 ... 32 responses"),
        (["--batches", "1"], "give no interval; take at least 2"),
        (["--reference", "nowhere/at-all/"], "reference: "),
    ],
)
def test_wrong_input_is_one_sentence(words, capsys, more, message):
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err
