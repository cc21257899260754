"""What is expected against what the allocator hands out while the real code runs."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from owpo.core.registry import objective
from owpo.estimate import fit, memory
from owpo.estimate.fit import Room, check_memory, refusal, with_changes
from owpo.estimate.memory import estimate_memory, micro_batch_of, models_of, surely_below
from owpo.estimate.shape import NoEstimate, shape_of
from owpo.policy import Policy, Responses
from owpo.policy.decoding import Decoder, cache_bytes
from owpo.policy.logprobs import micro_batches, reference_logprobs
from owpo.policy.sampler import sample_batches
from owpo.recipes import build_config
from owpo.run import train
from owpo.training.session import new_optimizer
from owpo.training.update import TrainingRows, optimiser_update

PROMPT = 24


def allocated_peak(work) -> int:
    """The most that the CPU allocator had handed out at one time during `work`, above what there was before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    sizes = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(sizes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    assert most > 0
    return most


def a_recipe(recipe_data, length, **training):
    data = recipe_data | {
        "rollout": {"prompts": 4, "group_size": 4, "max_new_tokens": length, "dynamic_sampling": False},
        "training": {"learning_rate": 1e-3, **training},
    }
    return data


def a_config(kind, layers, **changes):
    settings = {
        "vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 1024,
        "initializer_range": 0.3, "eos_token_id": None, "bos_token_id": None,
    }  # fmt: skip
    return AutoConfig.for_model(kind, **(settings | changes))


def a_policy(kind, layers, dtype="float32"):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(a_config(kind, layers)).eval()
    policy = Policy(model, None, getattr(torch, dtype))
    assert policy.takes_layouts
    return policy


def full_rows(length: int) -> Responses:

    prompts = [[5] * PROMPT for _ in range(4)]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 300, (16, length), generator=generator)
    return Responses(
        prompts=[prompts[row // 4] for row in range(16)],
        tokens=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        sampler_logp=torch.zeros(tokens.shape),
        truncated=torch.ones(16, dtype=torch.bool),
    )


def expected(policy, config, phase) -> dict[str, int]:
    shape = shape_of(policy.model.config)
    models = memory.Models(shape, policy.model.config, shape)
    estimate = estimate_memory(config, models, prompt_tokens=PROMPT)
    return next(each for each in estimate.phases if each.name == phase).items


@pytest.mark.parametrize("length", [16, 200])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kind", "layers", "dtype", "budget"),
    [
        ("llama", 5, "float32", 16384),
        ("qwen2", 2, "bfloat16", 600),
        ("qwen3", 4, "float32", 600),
        ("qwen3", 5, "bfloat16", 16384),
    ],
)
def test_an_update_takes_what_is_expected(recipe_data, kind, layers, dtype, budget, checkpointing, length):
    data = a_recipe(recipe_data, length, micro_batch_tokens=budget, gradient_checkpointing=checkpointing)
    data["run"]["dtype"] = dtype
    config = build_config(data, "test")
    policy = a_policy(kind, layers, dtype)
    responses = full_rows(length)
    rows = TrainingRows(
        responses=responses,
        group=torch.arange(4).repeat_interleave(4),
        advantage=torch.tensor([1.0, -1.0]).repeat(8),
        active=torch.ones(16, dtype=torch.bool),
        ref_logp=torch.full(responses.tokens.shape, -5.0),
    )
    optimizer = new_optimizer(policy, config.training)

    def update() -> None:
        result = optimiser_update(
            policy, optimizer, objective("owpo"), rows,
            reduction="token-mean", max_tokens=length, temperature=1.0, micro_batch_tokens=budget, grad_clip=1.0,
            seed=0, gradient_checkpointing=checkpointing,
        )  # fmt: skip
        assert result.bad is None and result.num_tokens == 16 * length

    update()  # the optimiser's state is there from now on
    state = sum(value.nbytes for each in optimizer.state.values() for value in each.values())
    items = expected(policy, config, "update")
    assert items["optimiser"] == pytest.approx(state, rel=0.01)
    measured = allocated_peak(update)
    assert sum(
        items.get(name, 0) for name in ("gradients", "activations", "logits and other work")
    ) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(("kind", "dtype"), [("qwen2", "bfloat16"), ("llama", "float32")])
def test_scoring_takes_what_is_expected(recipe_data, kind, dtype):
    data = a_recipe(recipe_data, 100, micro_batch_tokens=1000)
    data["run"]["dtype"] = dtype
    policy = a_policy(kind, 4, dtype)
    responses = full_rows(100)
    items = expected(policy, build_config(data, "test"), "scoring")
    measured = allocated_peak(lambda: reference_logprobs(policy, responses, 1.0, 1000))
    assert items.get("activations", 0) + items["logits and other work"] == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(("prompt", "group"), [(10, 4), (70, 4), (70, 1)])
def test_the_cache_is_as_large_as_the_decoders(prompt, group):
    policy = a_policy("qwen2", 3)
    decoder = Decoder(policy, 8, group, prompt, 80)
    with torch.inference_mode():
        decoder.admit([[5] * prompt for _ in range(8 // group)], [group] * (8 // group))
        for _ in range(80):
            decoder.step(torch.full((8,), 7))
    buffers = [pair for kept in (decoder._own, decoder._prompts) for pair in kept._layers.values()]
    held = sum(states.nbytes for pair in buffers for states in pair)
    assert cache_bytes(8, group, prompt, 80, layers=3, token_bytes=2 * 2 * 16 * 4) == held


@pytest.mark.parametrize(("kind", "dtype", "length"), [("qwen3", "float32", 150), ("llama", "bfloat16", 40)])
def test_sampling_takes_what_is_expected(recipe_data, kind, dtype, length, monkeypatch):
    data = a_recipe(recipe_data, length)
    data["run"]["dtype"] = dtype
    config = build_config(data, "test")
    policy = a_policy(kind, 4, dtype)
    monkeypatch.setattr(Policy, "eos_ids", (299,))
    monkeypatch.setattr(Policy, "pad_id", 0)
    policy.model.get_output_embeddings().weight.data[299] = (
        0  # hardly ever drawn, so all come to their full length
    )
    prompts = [[5] * PROMPT for _ in range(4)]

    def sample() -> None:
        batches = sample_batches(
            policy,
            prompts,
            group_size=4,
            max_new_tokens=length,
            temperature=1.0,
            top_p=1.0,
            seed=0,
            batch_size=16,
        )
        assert sum(int(batch.lengths.sum()) for batch in batches) > 15 * length

    items = expected(policy, config, "sampling")
    parts = ("cache", "activations", "logits and other work", "responses")
    assert sum(items.get(name, 0) for name in parts) == pytest.approx(allocated_peak(sample), rel=0.25)


def test_the_fullest_micro_batch_is_the_real_one(recipe_data):
    for length, budget in ((16, 16384), (200, 900), (200, 500), (200, 100), (50, 460)):
        config = build_config(a_recipe(recipe_data, length, micro_batch_tokens=budget), "test")
        (prompts, group), is_all = micro_batch_of(config, PROMPT)
        split = micro_batches(full_rows(length), budget, shares_prompts=True)
        assert is_all == (len(split) == 1)
        # A micro-batch may begin inside a group and end in the next one, whose prompt it then has as well.
        assert prompts * group == pytest.approx(max(map(len, split)), abs=1)


def test_the_quick_bound_is_above_every_estimate(recipe_data):
    for kind in ("llama", "qwen3"):
        for budget in (300, 16384):
            policy = a_policy(kind, 5)
            config = build_config(a_recipe(recipe_data, 200, micro_batch_tokens=budget), "test")
            shape = shape_of(policy.model.config)
            models = memory.Models(shape, policy.model.config, shape)
            total = estimate_memory(config, models, prompt_tokens=PROMPT).fullest.total
            assert not surely_below(config, models, PROMPT, total)
            assert surely_below(config, models, PROMPT, 100 * total)


def test_parameters_are_counted_exactly_and_tied_ones_once():
    for tied in (False, True):
        config = a_config("qwen2", 2, tie_word_embeddings=tied)
        real = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        assert shape_of(config).parameters == real


@pytest.mark.parametrize(
    ("rollout", "training", "share", "names"),
    [
        ({}, {}, 0.6, ["training.micro_batch_tokens"]),
        (
            {"batch_size": 512, "prompts": 32, "group_size": 16},
            {"micro_batch_tokens": 256},
            0.7,
            ["rollout.batch_size"],
        ),
    ],
)
def test_what_cannot_fit_is_told_with_an_entry_that_makes_it_fit(
    recipe_data, rollout, training, share, names
):
    data = a_recipe(recipe_data, 40, **training)
    data["rollout"] |= {"prompts": 16, "group_size": 16} | rollout
    config = build_config(data, "test")
    models = models_of(config)
    estimate = estimate_memory(config, models, prompt_tokens=20)
    free = int(share * estimate.fullest.total)
    sentence = refusal(config, models, estimate, Room(free, "free"))
    assert f"({estimate.fullest.name})" in sentence
    assert any(f"{name} = " in sentence and "makes it fit" in sentence for name in names), sentence
    place, value = sentence.split(". ")[-1].split(" makes")[0].split(" = ")
    value = {"true": True, "bfloat16": "bfloat16"}.get(value) or int(value)
    changed = with_changes(config, {place: value})
    assert estimate_memory(changed, models, prompt_tokens=20).fullest.total <= free
    assert refusal(config, models, estimate, Room(estimate.fullest.total, "free")) is None
    assert refusal(config, models, estimate, Room(None, "not known")) is None


def test_where_weights_alone_are_too_much_only_a_smaller_model_helps(recipe_data):
    config = build_config(a_recipe(recipe_data, 40), "test")
    models = models_of(config)
    estimate = estimate_memory(config, models, prompt_tokens=20)
    sentence = refusal(config, models, estimate, Room(4 * models.parameters, "free"))
    assert "Nothing but a smaller model, or an objective that reads no reference makes it fit" in sentence


def test_a_training_that_cannot_fit_is_refused_before_anything_is_written(recipe_data, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "room_on", lambda device: Room(200_000, "free here"))
    config = build_config(recipe_data, "test")
    with pytest.raises(
        ValueError, match=r"expected to take .*KiB are free here.*run\.memory_check to 'warn'"
    ):
        train(config)
    assert not (tmp_path / "run").exists()
    warned = []

    class Listener(train.__globals__["Display"]):
        def warn(self, text):
            warned.append(text)

    recipe_data["run"]["memory_check"] = "warn"
    recipe_data["ratchet"]["steps"] = 1
    train(build_config(recipe_data, "test"), display=Listener())
    assert "expected to take" in warned[0]


def test_of_an_adapter_nothing_is_told(recipe_data):
    recipe_data["model"]["lora"] = {}
    with pytest.raises(NoEstimate, match=r"model\.lora"):
        models_of(build_config(recipe_data, "test"))


def test_where_nothing_is_known_nothing_is_refused(recipe_data, monkeypatch):
    monkeypatch.setattr(fit, "room_on", lambda device: Room(1, "free here"))
    recipe_data["model"]["path"] = "./nowhere"
    assert check_memory(build_config(recipe_data, "test"), prompt_tokens=3) is None
    with pytest.raises(NoEstimate, match=r"nowhere/config\.json"):
        models_of(build_config(recipe_data, "test"))


def test_a_containers_limit_counts(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")
    assert fit._below_limit(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert fit._below_limit(tmp_path) is None
