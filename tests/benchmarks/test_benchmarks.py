"""The benchmarks at toy size: what they build is what they say, and they run without a peer."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import ceilings
import decode
import gpu
import measuring
import step
import work
from models import EOS, NEVER, PUBLISHED, ending_rate, random_prompts, save_model, small_shape
from step_settings import QUICK, SETTINGS, Setting, answers, grade

from owpo.policy import load_policy, sample_batches

TINY = small_shape(32, 40, 64)


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Of the model that ends at about half of 24 tokens, and of the one that never does."""
    made = {}
    for name, rate in (("ragged", ending_rate(24, 0.5)), ("full", NEVER)):
        folder = tmp_path_factory.mktemp(name)
        save_model(folder, TINY, rate)
        made[name] = load_policy(str(folder))
    return made


def lengths_of(policy, new):
    prompts = random_prompts(32, 4, TINY.vocab)
    parts = sample_batches(
        policy, prompts, group_size=16, max_new_tokens=new, temperature=1.0, top_p=1.0, seed=0
    )
    return torch.cat([part.lengths for part in parts])


def test_lengths_are_ragged_with_the_mean_that_was_asked_for(policies):
    lengths = lengths_of(policies["ragged"], 24).double()
    assert lengths.mean().item() == pytest.approx(12, rel=0.12)  # 512 responses: four standard errors
    assert lengths.max() == 24
    assert (lengths <= 3).double().mean() > 0.1
    assert (lengths_of(policies["full"], 24) == 24).all()


def test_the_rate_of_the_end_gives_the_mean():
    rate = ending_rate(10, 0.5)
    mean = sum(n * rate * (1 - rate) ** (n - 1) for n in range(1, 10)) + 10 * (1 - rate) ** 9
    assert mean == pytest.approx(5)


def test_lengths_drawn_for_the_training_pass_are_like_the_sampled_ones():
    lengths = work.ragged_lengths(4000, 24, ending_rate(24, 0.5))
    assert sum(lengths) / len(lengths) == pytest.approx(12, rel=0.05)
    assert (min(lengths), max(lengths)) == (1, 24)


def test_rewards_are_set_beforehand():
    """Half of every mixed group, all of every flat one, in whatever order the responses come."""
    setting = Setting(name="test", flat=0.25, prompts=8, group_size=4)
    asked = answers(setting) * setting.group_size
    right = dict.fromkeys(asked, 0)
    for answer in asked:
        right[answer] += grade("anything", answer)
    assert sorted(right.values()) == [2] * 6 + [4] * 2


def test_rows_of_a_micro_batch():
    rows = {setting.name: setting.micro_batch_rows for setting in SETTINGS}
    assert rows["medium"] == 128
    assert rows["medium-updates"] == 32
    assert rows["long"] == 64  # 64 x 272 tokens are nearer to 16,384 than 32 x 272
    for setting in SETTINGS:
        assert setting.rows // setting.updates % rows[setting.name] == 0


def test_settings_cover_what_they_have_to():
    assert {setting.width for setting in SETTINGS} == {128, 512}
    assert {setting.new for setting in SETTINGS} == {12, 64, 256}
    assert {setting.prompt for setting in SETTINGS} == {16, 512}
    assert {setting.flat for setting in SETTINGS} == {0.0, 0.5, 0.9}
    assert {setting.vocab for setting in SETTINGS} == {100, 152_000}
    assert all(
        round(setting.flat * setting.prompts) == setting.flat * setting.prompts for setting in SETTINGS
    )
    assert set(QUICK) < {setting.name for setting in SETTINGS}


def test_a_step_of_ours_is_measured():
    """The real run in a process of its own; its phases are all of its time."""
    setting = Setting(name="toy", width=32, new=6, prompt=4, flat=0.5, vocab=40, prompts=4, group_size=4)
    records = step.measure(setting, ["owpo"], repeats=2)["owpo"]
    assert len(records) == 2
    for record in records:
        assert record["flat_share"] == 0.5
        assert sum(record["phases"].values()) == pytest.approx(record["seconds"])
        assert sum(record["cpu_phases"].values()) == pytest.approx(record["cpu_seconds"])
        assert min(record["phases"][name] for name in ("generation", "reference", "forward-backward")) > 0
        assert record["tokens"] == round(record["mean_length"] * setting.rows)
        assert record["peak_mib"] > 50
    assert "forward-backward" in step.show(setting, {"owpo": records})


def test_a_side_that_fails_is_told_with_its_words(tmp_path, monkeypatch):
    (tmp_path / "step_owpo.py").write_text("raise SystemExit('out of luck')")
    monkeypatch.setattr(step, "HERE", tmp_path)
    with pytest.raises(RuntimeError, match="owpo ended:\nout of luck"):
        step.measure(Setting(name="toy", width=32, new=6, vocab=40), ["owpo"], repeats=1)


def test_ratios_are_of_neighbouring_steps():
    made = {"cpu_seconds": 1.0, "seconds": 2.0, "tokens_per_second": 8.0, "peak_mib": 50.0}
    theirs = [made, {**made, "cpu_seconds": 4.0}]
    ours = [made, {**made, "cpu_seconds": 1.0}]
    line = step.summary({"toy": {"owpo": ours, "trl": theirs}}).splitlines()[-1]
    assert line.startswith("toy         0.62 (0.25 to 1.00)  1.00 (1.00 to 1.00)")


def test_useful_tokens_end_with_the_first_eos():
    tokens = torch.tensor([[5, EOS, 0, EOS], [5, 6, 7, 8], [EOS, 5, 5, 5]])
    assert decode.useful_tokens(tokens) == 2 + 4 + 1


def test_both_ways_of_decoding_count_alike():
    calls = decode.measure(TINY, 8, share=1.0, batch=16, rounds=2, repeats=1, compiled=False)
    assert {name: [call.tokens for call in made] for name, made in calls.items()} == {
        "owpo": [2 * 16 * 8],
        "generate": [2 * 16 * 8],
    }
    assert "owpo / this" in decode.show(calls)


def test_operations_by_hand():
    """One layer of width 4, 2 heads, 1 for keys and values; one prompt of 3 tokens, responses of 2 and 1."""
    shape = small_shape(4, 10, 8)
    shape = type(shape)(**{**vars(shape), "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 5})
    matrices = 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 5
    assert work.layer_parameters(shape) == matrices
    attended = (1 + 2 + 3) + (4 + 5) + 4
    expected = 2 * matrices * (3 + 2 + 1) + 4 * 4 * attended + 2 * 4 * 10 * 3
    assert work.forward_operations(shape, 3, [2, 1], 2) == expected
    weights = matrices + 4 * 10
    cached = 2 * 2 * 1 * (3 + 4)  # keys and values, 2 numbers each, at 3 tokens and at 4
    assert work.decode_bytes(shape, 8, 3, 2, 4) == 4 * (2 * weights + 8 * cached)


def test_published_shapes_have_the_parameters_they_are_named_for():
    for name, billions in (("Qwen2.5-0.5B", 0.494), ("Qwen2.5-1.5B", 1.54)):
        shape = PUBLISHED[name]
        parameters = work.layer_parameters(shape) + shape.hidden * shape.vocab
        assert parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_an_update_trains_on_the_rows_that_were_made(policies):
    lengths = [3, 5, 2, 6]
    rows = work.training_rows(2, 2, 4, lengths, TINY.vocab)
    assert rows.responses.lengths.tolist() == lengths
    assert work.updater(policies["ragged"], rows, 6)().num_tokens == sum(lengths)


def test_slopes():
    doubled = [[1.0, 1.0], [2.0, 4.0], [4.0, 16.0]]
    assert ceilings.slopes([8, 16, 32], doubled) == pytest.approx([1.0, 2.0])


def test_the_share_of_the_ceiling_is_a_share(monkeypatch):
    monkeypatch.setattr(ceilings, "TRY_S", 0.0)
    shares = ceilings.shares(32, "float32", 1, ceilings.copy_rate(size=2**20))
    for name in ("training share", "decode share", "decode share of the copy"):
        assert 0 < shares[name][0] < 1
    assert "width 32" in ceilings.show_shares({"width 32": shares})


def test_what_the_time_goes_into_adds_up_and_names_the_largest():
    left, right = torch.randn(600, 600), torch.randn(600, 600)
    busy = ceilings.busy_with(lambda: [left @ right for _ in range(20)], most=2)
    assert busy[0][0] == "aten::mm" and busy[0][1] > 0.5
    assert sum(share for _, share in busy) == pytest.approx(1)


def test_processes_below_this_one_are_counted():
    if not Path("/proc").is_dir():
        pytest.skip("no /proc here")
    before = measuring.cpu_seconds()
    busy = "import time, sys; [i * i for i in range(3 * 10**6)]; print('done', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"done\n"
        assert child.pid in measuring.descendants()
        assert measuring.cpu_seconds() - before > 0.05
    assert child.pid not in measuring.descendants()


def test_tables():
    shown = measuring.table(["", "x"], [["first", "1"], ["b", "22"]]).splitlines()
    assert [len(line) for line in shown[1:]] == [9, 9, 9]
    assert measuring.spread([3.0, 1.0, 2.0], ".0f") == "2 (1 to 3)"
    assert math.isclose(measuring.ratios([1.0], [4.0])[0], 0.25)


@pytest.mark.filterwarnings("ignore:AutoTokenizer replaces the tokenizer")
@pytest.mark.parametrize("part", ["train", "memory"])
def test_parts_of_the_gpu_benchmark_run_as_a_toy(part, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("here it would be no toy")
    monkeypatch.setattr(ceilings, "TRY_S", 0.0)
    gpu.main(["--only", part, "--sizes", "toy", "--repeats", "1"])
    result = json.loads(capsys.readouterr().out)
    assert gpu.PARTS[part][1](result).count("\n") >= 3


@pytest.mark.filterwarnings("ignore:AutoTokenizer replaces the tokenizer")
def test_micro_batches_shrink_until_an_update_fits(monkeypatch):
    tried = []

    def updater(_policy, _rows, _longest, budget):
        tried.append(budget)

        def update():
            if budget > 5000:
                raise torch.OutOfMemoryError("too large")

        return update

    monkeypatch.setattr(gpu, "updater", updater)
    budget, seconds = gpu.timed_updates(PUBLISHED["toy"], None, 8, 2)
    assert (tried, budget, len(seconds)) == ([16384, 8192, 4096], 4096, 2)


def test_a_compiler_that_fails_costs_its_own_row_alone(monkeypatch):
    monkeypatch.setattr(ceilings, "TRY_S", 0.0)

    def measure(_shape, _new, *, compiled, **_options):
        if compiled:
            raise RuntimeError("no compiler here")
        return {way: [decode.Call(100, 2.0, 1.0)] for way in ("owpo", "generate")}

    monkeypatch.setattr(gpu.decode, "measure", measure)
    result = gpu.measure_decode("toy", 1)
    assert result["rates"]["ragged"] == {"owpo": [50.0], "generate": [50.0]}
    assert "compiling failed: RuntimeError: no compiler here" in gpu.show_decode(result)
