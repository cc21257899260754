"""Samples on disk: an evaluation that is stopped anywhere ends with the same samples as one that was not."""

from dataclasses import replace

import pytest
import torch
from conftest import write_tiny_model

from owpo.disk.logs import JSONLLog
from owpo.engines.engine import LocalSampler
from owpo.errors import InputError, RunFailed
from owpo.evaluation.answers import Sampling, answer_problems
from owpo.evaluation.evaluate import evaluation_of
from owpo.evaluation.samples import draw_samples, read_samples, samples_of
from owpo.policy.load import load_policy
from owpo.problems.problem import Problem
from owpo.verify.exact import exact_grader
from owpo.verify.verdict import Judgement, Verdict, VerifierFailed
from owpo.verify.verifier import InPlaceVerifier

PROBLEMS = [Problem(id=f"p{digit}", prompt=f"{digit}=", answer=str(digit)) for digit in range(7)]
SAMPLING = Sampling(group_size=6, max_new_tokens=5, temperature=1.0, top_p=0.9, seed=3, batch_size=8)
VERIFIER = InPlaceVerifier(exact_grader("last_number"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(str(write_tiny_model(tmp_path_factory.mktemp("samples") / "model")))


def draw(path, policy, problems, verifier, sampling, *, max_failed_share=0.2, on_batch=None):
    return draw_samples(
        path,
        LocalSampler(policy),
        problems,
        verifier,
        sampling,
        max_failed_share=max_failed_share,
        on_batch=on_batch,
    )


class Stop(Exception):
    pass


def stop_after(rows):
    def on_batch(done):
        if done >= rows:
            raise Stop

    return on_batch


def test_a_stopped_evaluation_goes_on_to_the_same_samples(policy, tmp_path):
    whole = draw(tmp_path / "whole.jsonl", policy, PROBLEMS, VERIFIER, SAMPLING)
    assert [(s.problem, s.sample) for s in whole] == [(p.id, g) for p in PROBLEMS for g in range(6)]
    for rows in (8, 24, 42):
        file = tmp_path / f"stopped-{rows}.jsonl"
        with pytest.raises(Stop):
            draw(file, policy, PROBLEMS, VERIFIER, SAMPLING, on_batch=stop_after(rows))
        assert len(read_samples(file)) < 42
        assert draw(file, policy, PROBLEMS, VERIFIER, SAMPLING) == whole
        assert file.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_line_cut_by_a_kill_is_drawn_again(policy, tmp_path):
    file = tmp_path / "a.jsonl"
    whole = draw(file, policy, PROBLEMS, VERIFIER, SAMPLING)
    complete = file.read_bytes()
    for cut in (0, 5, len(complete) // 2, len(complete) - 1):
        file.write_bytes(complete[:cut])
        assert draw(file, policy, PROBLEMS, VERIFIER, SAMPLING) == whole
        assert file.read_bytes() == complete


def test_what_is_complete_is_not_sampled_again(policy, tmp_path):
    file = tmp_path / "a.jsonl"
    whole = draw(file, policy, PROBLEMS, VERIFIER, SAMPLING)
    assert draw(file, None, PROBLEMS, None, SAMPLING) == whole


def test_samples_in_memory_and_on_disk_are_the_same(policy, tmp_path):
    groups = answer_problems(LocalSampler(policy), PROBLEMS, VERIFIER, SAMPLING)
    assert samples_of(groups, PROBLEMS, 6) == draw(tmp_path / "a", policy, PROBLEMS, VERIFIER, SAMPLING)


def test_text_with_every_kind_of_line_end_survives(tmp_path, policy):
    file = tmp_path / "a.jsonl"
    samples = draw(file, policy, PROBLEMS, VERIFIER, SAMPLING)
    samples[3] = replace(samples[3], response="a\u2028b\u0085c\x1ed\r\ne")
    JSONLLog(file).replace(*(sample.to_json() for sample in samples))
    assert read_samples(file) == samples


class CountingVerifier:
    """Says when it was given something and when it was asked for it."""

    def __init__(self):
        self.events = []

    def submit(self, responses, answers):
        number = sum(event[0] == "submit" for event in self.events)
        self.events.append(("submit", number))
        verifier = self

        class Pending:
            def wait(self, seconds):
                return True

            def result(self):
                verifier.events.append(("result", number))
                return [Judgement(Verdict.correct)] * len(responses)

        return Pending()

    def close(self):
        pass


def test_a_batch_is_verified_while_the_next_is_sampled(policy):
    verifier = CountingVerifier()
    answer_problems(LocalSampler(policy), PROBLEMS, verifier, SAMPLING)  # 42 rows, 6 batches
    places = {event: place for place, event in enumerate(verifier.events)}
    for number in range(5):
        assert places["submit", number + 1] < places["result", number]
    assert len(verifier.events) == 12


def test_an_evaluation_counts_what_the_samples_say(policy):
    samples = samples_of(answer_problems(LocalSampler(policy), PROBLEMS, VERIFIER, SAMPLING), PROBLEMS, 6)
    told = evaluation_of(samples, (1, 6))
    right = [sum(s.verdict is Verdict.correct for s in samples[6 * n : 6 * n + 6]) for n in range(7)]
    assert told.accuracy.mean == pytest.approx(sum(right) / 42)
    assert told.pass_at == {
        1: pytest.approx(sum(right) / 42),
        6: pytest.approx(sum(r > 0 for r in right) / 7),
    }
    assert sum(told.verdicts.values()) == 42
    assert told.verdicts["correct"] == sum(right)
    assert told.verdicts["timeout"] == told.verdicts["error"] == 0
    assert told.response_length == pytest.approx(sum(s.tokens for s in samples) / 42)
    assert told.truncated_share == pytest.approx(sum(s.truncated for s in samples) / 42)
    assert torch.equal(told.correct_NK.sum(dim=1), torch.tensor(right))


def test_without_what_was_read_there_is_no_majority(policy):
    verifier = InPlaceVerifier(lambda response, answer: Judgement(Verdict.wrong))
    samples = samples_of(answer_problems(LocalSampler(policy), PROBLEMS, verifier, SAMPLING), PROBLEMS, 6)
    assert evaluation_of(samples).majority is None


def failing(response, answer):
    if response.endswith("5"):
        raise ValueError("a five")
    return exact_grader("last_number")(response, answer)


def test_failed_verdicts_are_judged_again_and_nothing_is_sampled_twice(policy, tmp_path):
    whole = draw(tmp_path / "whole", policy, PROBLEMS, VERIFIER, SAMPLING)
    file = tmp_path / "failed"
    failed = draw(file, policy, PROBLEMS, InPlaceVerifier(failing), SAMPLING, max_failed_share=1.0)
    errors = [s for s in failed if s.verdict is Verdict.error]
    assert errors
    assert {s.detail for s in errors} == {"a five"}
    assert draw(file, None, PROBLEMS, VERIFIER, SAMPLING) == whole
    assert file.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_verifier_that_fails_ends_the_evaluation_and_the_samples_are_kept(policy, tmp_path):
    def broken(response, answer):
        raise ValueError("no table")

    file = tmp_path / "a"
    with pytest.raises(
        RunFailed, match=r"100% of the verdicts are timeouts or errors.*'p0', error \(no table\)"
    ):
        draw(file, policy, PROBLEMS, InPlaceVerifier(broken), SAMPLING)
    assert len(read_samples(file)) == 42
    assert draw(file, None, PROBLEMS, VERIFIER, SAMPLING) == draw(
        tmp_path / "whole", policy, PROBLEMS, VERIFIER, SAMPLING
    )


def test_a_verifier_that_is_gone_is_told_in_a_sentence(policy):
    class Gone(CountingVerifier):
        def submit(self, responses, answers):
            class Pending:
                def wait(self, seconds):
                    return True

                def result(self):
                    raise VerifierFailed("3 grading processes in a row died before they began")

            return Pending()

    with pytest.raises(RunFailed, match="3 grading processes in a row died .* mend the verifier and go on"):
        answer_problems(LocalSampler(policy), PROBLEMS, Gone(), SAMPLING)


def test_a_stop_does_not_wait_for_a_verifier_that_hangs(policy):
    class Hanging(CountingVerifier):
        def submit(self, responses, answers):
            class Pending:
                def wait(self, seconds):
                    return False

            return Pending()

    looks = []

    def on_batch(done):
        looks.append(done)
        if len(looks) > 4:
            raise Stop

    with pytest.raises(Stop):
        answer_problems(LocalSampler(policy), PROBLEMS, Hanging(), SAMPLING, on_batch=on_batch)
    assert looks == [8, 16, 16, 16, 16]  # two batches are sampled, the first one's verdicts do not come


@pytest.mark.parametrize(
    "damage",
    [lambda lines: lines[::-1], lambda lines: lines[:4] + lines[5:], lambda lines: [*lines, lines[-1]]],
)
def test_samples_that_do_not_stand_where_they_belong_are_refused(policy, tmp_path, damage):
    file = tmp_path / "a"
    draw(file, policy, PROBLEMS, VERIFIER, SAMPLING)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(damage(lines)))
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"a is damaged \(line \d+ holds .* does not belong there"):
        draw(file, policy, PROBLEMS, VERIFIER, SAMPLING)
    assert file.read_bytes() == before
