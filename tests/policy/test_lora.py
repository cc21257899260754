"""Adapters on a frozen base: equal to the merged model, switched without a trace, and files that PEFT reads."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from policy_builders import byte_level_tokenizer, random_responses, sample, save_folder, tiny_policy
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config

from owpo.policy import (
    Policy,
    Responses,
    add_adapter,
    content_hash,
    load_beside,
    load_policy,
    load_weights,
    merged,
    policy_hash,
    response_logprobs,
    save_policy,
)
from owpo.policy.lora import on_same_base, reset_adapter, target_names
from owpo.policy.weights import policy_state, unique_state

RESPONSES = random_responses([3, 5, 2], [6, 4, 5], vocab_size=50)


def adapted(policy: Policy, **changes) -> Policy:
    settings = {"rank": 4, "alpha": 8, "targets": "all-linear", "seed": 5, "base": "nowhere"}
    return add_adapter(policy, **(settings | {"base_hash": content_hash(policy.model)} | changes))


def stir(policy: Policy, seed: int = 0, size: float = 0.1) -> Policy:
    """The policy with both factors of its adapter away from where they began."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in policy_state(policy).values():
        tensor.add_(size * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
    return policy


def sibling(policy: Policy, seed: int, size: float = 0.1) -> Policy:
    """Another adapter on the same base."""
    own = {name: tensor.clone() for name, tensor in policy_state(policy).items()}
    return stir(on_same_base(policy, own), seed, size)


def logp(policy: Policy, responses: Responses = RESPONSES) -> torch.Tensor:
    with torch.no_grad():
        return response_logprobs(policy, responses, 1.0)[0]


def whole(policy: Policy, kind: str = "llama", seed: int = 0, **changes) -> Policy:
    """The same policy as a model with weights W + alpha / rank * B A, worked out here."""
    twin = tiny_policy(kind, policy.compute_dtype, seed, **changes)
    weights = dict(twin.model.named_parameters())
    state = policy_state(policy)
    with torch.no_grad():
        for name, a in state.items():
            if name.endswith("lora_A.weight"):
                b = state[name.replace("lora_A", "lora_B")]
                target = name.removeprefix("base_model.model.").replace("lora_A.", "")
                weights[target] += policy.adapter.alpha / policy.adapter.rank * b @ a
    return twin


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2", "granite", "cohere"])
def test_policy_and_reference_on_one_base_equal_two_whole_models(kind: str) -> None:
    policy = stir(adapted(tiny_policy(kind)), seed=1)
    reference = sibling(policy, seed=2)
    found, expected = logp(policy), logp(whole(policy, kind))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logp(reference), logp(whole(reference, kind)), atol=1e-5, rtol=0)
    assert (found - logp(reference)).abs().max() > 0.01
    assert torch.equal(logp(policy), found)


def test_a_new_adapter_is_the_base_and_its_seed_decides_it() -> None:
    base = tiny_policy()
    expected = logp(base)
    weights = {name: value.clone() for name, value in unique_state(base.model).items()}
    policy = adapted(base)
    assert torch.equal(logp(policy), expected)
    assert torch.equal(logp(on_same_base(policy, None)), expected)
    twin, other = adapted(tiny_policy()), adapted(tiny_policy(), seed=6)
    assert policy_hash(policy) == policy_hash(twin) != policy_hash(other)

    start = policy_hash(policy)
    stir(policy)
    assert (logp(policy) - expected).abs().max() > 0.01
    assert policy_hash(policy) != start
    reset_adapter(policy.adapter)
    assert policy_hash(policy) == start
    a = next(value for name, value in policy_state(policy).items() if name.endswith("q_proj.lora_A.weight"))
    assert 0.9 / 32**0.5 < a.abs().max() <= 1 / 32**0.5
    plain = {name.replace("base_layer.", ""): value for name, value in policy.model.state_dict().items()}
    assert all(torch.equal(plain[name], value) for name, value in weights.items())


def test_hash_tells_base_and_scale_apart() -> None:
    policy = adapted(tiny_policy())
    changes = [{"base_hash": "another"}, {"alpha": 9}]
    hashes = [
        policy_hash(replace(policy, adapter=replace(policy.adapter, **change))) for change in [{}, *changes]
    ]
    assert len(set(hashes)) == 3
    assert policy_hash(on_same_base(policy, None)) == content_hash(tiny_policy().model)


def test_gradients_of_both_factors_follow_the_chain_rule() -> None:
    """From the gradient G of the whole weights: dA = s B'G, dB = s G A', s = alpha / rank."""
    policy = stir(adapted(tiny_policy(dtype=torch.float64)))
    weight_BT = torch.randn(RESPONSES.mask.shape, generator=torch.Generator().manual_seed(1)).double()

    def loss(of: Policy) -> torch.Tensor:
        return (response_logprobs(of, RESPONSES, 1.0)[0] * weight_BT).sum()

    loss(policy).backward()
    twin = whole(policy)
    loss(twin).backward()
    full = dict(twin.model.named_parameters())
    state, slot = policy_state(policy), policy.adapter.slot
    assert {id(p) for p in policy.trained_parameters()} == {
        id(p) for p in policy.model.parameters() if p.requires_grad
    }
    for name, a in state.items():
        if not name.endswith("lora_A.weight"):
            continue
        b_name = name.replace("lora_A", "lora_B")
        gradient = full[name.removeprefix("base_model.model.").replace("lora_A.", "")].grad
        scale, b = policy.adapter.alpha / policy.adapter.rank, state[b_name]
        torch.testing.assert_close(slot.parameters[name].grad, scale * b.T @ gradient, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(
            slot.parameters[b_name].grad, scale * gradient @ a.T, rtol=1e-8, atol=1e-10
        )


@pytest.mark.parametrize("other", ["adapter", "base"])
def test_another_policys_pass_between_forward_and_backward_changes_nothing(other: str) -> None:
    policy = stir(adapted(tiny_policy()))
    reference = sibling(policy, 2, 1.0) if other == "adapter" else on_same_base(policy, None)

    def gradients(between: bool) -> list[torch.Tensor]:
        policy.model.zero_grad(set_to_none=True)
        value = response_logprobs(policy, RESPONSES, 1.0)[0].sum()
        if between:
            logp(reference)
            sample(reference, [[3, 4]], group_size=2, max_new_tokens=3, temperature=1.0, top_p=1.0, seed=0)
        value.backward()
        assert all(parameter.requires_grad for parameter in policy.trained_parameters())
        return [parameter.grad.clone() for parameter in policy.trained_parameters()]

    expected = gradients(between=False)
    assert all(gradient.abs().max() > 0 for gradient in expected)
    assert all(torch.equal(one, two) for one, two in zip(expected, gradients(between=True), strict=True))
    optimizer = torch.optim.AdamW(policy.trained_parameters(), lr=0.1, foreach=True)
    before, of_reference = logp(policy), logp(reference)
    optimizer.step()
    assert (logp(policy) - before).abs().max() > 0.01
    assert torch.equal(logp(reference), of_reference)


def test_a_backward_pass_that_computes_layers_again_does_so_with_the_learners_adapter() -> None:
    policy = stir(adapted(tiny_policy()))
    reference = sibling(policy, 2, 1.0)

    def gradients() -> list[torch.Tensor]:
        policy.model.zero_grad(set_to_none=True)
        value = response_logprobs(policy, RESPONSES, 1.0)[0].sum()
        logp(reference)
        value.backward()
        return [parameter.grad.clone() for parameter in policy.trained_parameters()]

    expected = gradients()
    policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy.model.train()
    assert all(torch.equal(one, two) for one, two in zip(expected, gradients(), strict=True))


def test_the_slot_is_given_back_also_after_an_error() -> None:
    policy = stir(adapted(tiny_policy()))
    expected = logp(policy)
    with pytest.raises(RuntimeError, match="on purpose"), sibling(policy, 3).autocast():
        raise RuntimeError("on purpose")
    with on_same_base(policy, None).autocast(), sibling(policy, 4).autocast():
        pass
    assert torch.equal(logp(policy), expected)


def test_sampling_uses_the_adapter() -> None:
    settings = {"group_size": 8, "max_new_tokens": 6, "temperature": 1.0, "top_p": 1.0, "seed": 3}
    base = adapted(tiny_policy(dtype=torch.float64))
    policy = sibling(base, 1, 0.3)
    found = sample(policy, [[3, 4, 5], [6]], **settings)
    expected = sample(whole(policy), [[3, 4, 5], [6]], **settings)
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.sampler_logp, expected.sampler_logp, atol=1e-5, rtol=0)
    of_base = sample(base, [[3, 4, 5], [6]], **settings)
    assert of_base.tokens.shape != found.tokens.shape or not torch.equal(of_base.tokens, found.tokens)


def test_bfloat16_keeps_the_frozen_weights_in_bfloat16_and_gives_the_same_numbers() -> None:
    """As if they were float32, bit for bit: autocast converts them either way. What is trained stays float32."""
    policy = stir(adapted(tiny_policy(dtype=torch.bfloat16)))
    reference = sibling(policy, 2)
    found = [logp(policy), logp(reference), logp(policy)]
    kinds = {name: p.dtype for name, p in policy.model.named_parameters()}
    assert kinds["model.layers.0.mlp.up_proj.base_layer.weight"] == torch.bfloat16
    assert {p.dtype for p in policy.trained_parameters()} == {torch.float32}
    assert kinds["model.embed_tokens.weight"] == kinds["model.norm.weight"] == torch.float32
    for module in policy.model.get_decoder().modules():
        if type(module) is torch.nn.Linear:
            module.float()
    exact = dict(tiny_policy().model.named_parameters())
    for name, parameter in policy.model.named_parameters():
        if "base_layer" in name:
            parameter.data = exact[name.replace("base_layer.", "")].data
    again = [logp(policy), logp(reference), logp(policy)]
    assert all(torch.equal(one, two) for one, two in zip(found, again, strict=True))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_two_adapters_inside_one_autocast_are_told_apart() -> None:
    """Autocast keeps converted weights by parameter, and both adapters have the same parameters."""
    policy = stir(adapted(tiny_policy(dtype=torch.bfloat16)))
    reference = sibling(policy, 2)
    expected = logp(policy), logp(reference)
    with policy.autocast():
        assert torch.equal(logp(policy), expected[0])
        assert torch.equal(logp(reference), expected[1])
        assert torch.equal(logp(policy), expected[0])


def saved_base(folder: Path) -> str:
    return save_folder(folder, "qwen3", byte_level_tokenizer())


def load_adapted(base: str, **changes) -> Policy:
    policy = load_policy(base)
    return adapted(policy, base=base, **changes)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_folders_are_read_by_us_and_by_peft(tmp_path: Path, targets, monkeypatch) -> None:
    base = saved_base(tmp_path / "base")
    policy = stir(load_adapted(base, targets=targets))
    save_policy(policy, tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").glob("*.safetensors")) == [
        "adapter_model.safetensors"
    ]
    expected = logp(policy)
    again = load_policy(str(tmp_path / "adapter"))
    assert torch.equal(logp(again), expected)
    assert policy_hash(again) == policy_hash(policy)

    peft_model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter"
    )
    ids = torch.tensor([RESPONSES.prompts[1] + RESPONSES.tokens[1, :4].tolist()])
    with torch.no_grad():
        theirs = peft_model(input_ids=ids).logits.log_softmax(-1)[0, 4:-1]
    targets_4 = RESPONSES.tokens[1, :4].unsqueeze(1)
    torch.testing.assert_close(theirs.gather(1, targets_4).squeeze(1), expected[1, :4], atol=1e-5, rtol=0)

    monkeypatch.chdir(tmp_path / "adapter")  # what base_model_name_or_path counts from
    auto = peft.AutoPeftModelForCausalLM.from_pretrained(".")
    with torch.no_grad():
        torch.testing.assert_close(auto(input_ids=ids).logits, peft_model(input_ids=ids).logits)


def test_an_adapter_that_peft_wrote_is_read(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["v_proj"], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
        theirs.save_pretrained(tmp_path / "theirs")
        policy = load_policy(str(tmp_path / "theirs"))
        ids = torch.tensor([RESPONSES.prompts[1] + RESPONSES.tokens[1, :4].tolist()])
        with policy.autocast():
            torch.testing.assert_close(policy.model(input_ids=ids).logits, theirs(input_ids=ids).logits)


def test_weights_of_a_folder_beside_the_policy_and_in_its_place(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base")
    policy = stir(load_adapted(base))
    save_policy(policy, tmp_path / "one")
    expected = logp(policy)
    stir(policy, seed=9)
    moved = logp(policy)
    beside = load_beside(policy, tmp_path / "one")
    assert beside.model is policy.model
    assert torch.equal(logp(beside), expected)
    assert torch.equal(logp(policy), moved)
    load_weights(policy, tmp_path / "one")
    assert torch.equal(logp(policy), expected)
    with pytest.raises(ValueError, match="another architecture or size"):
        load_beside(load_adapted(base, rank=2), tmp_path / "one")


def test_merged_is_a_plain_model(tmp_path: Path) -> None:
    policy = stir(load_adapted(saved_base(tmp_path / "base")))
    expected = logp(policy)
    plain = merged(policy)
    assert plain.adapter is None
    torch.testing.assert_close(logp(plain), expected, atol=1e-5, rtol=0)
    save_policy(plain, tmp_path / "merged")
    assert torch.equal(logp(load_policy(str(tmp_path / "merged"))), logp(plain))
    names = set(AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict())
    assert set(plain.model.state_dict()) == names


def test_an_adapter_costs_a_few_percent_of_the_model() -> None:
    """A reference of rank 8 on a model of width 512, by the tensors' bytes."""
    policy = tiny_policy("qwen2", hidden_size=512, intermediate_size=1536, num_hidden_layers=4,
                         num_attention_heads=8, num_key_value_heads=2, head_dim=64)  # fmt: skip
    full = sum(tensor.nbytes for tensor in unique_state(policy.model).values())
    reference = sibling(adapted(policy, rank=8), 1)
    own = {tensor.data_ptr() for tensor in policy_state(reference).values()}
    assert own.isdisjoint({parameter.data_ptr() for parameter in policy.model.parameters()})
    share = sum(tensor.nbytes for tensor in policy_state(reference).values()) / full
    assert 0 < share < 0.05


REFUSED_TARGETS = {
    "lm_head": "the output layer or an embedding",
    "embed_tokens": "the output layer or an embedding",
    "q_prj": r"names no module. Did you mean 'q_proj'\? Known: down_proj, gate_proj",
    "self_attn": r"is no linear layer \(model.layers.0.self_attn\)",
}


@pytest.mark.parametrize("target", REFUSED_TARGETS)
def test_targets_that_lora_has_no_place_in(target: str) -> None:
    policy = tiny_policy()
    with pytest.raises(ValueError, match=REFUSED_TARGETS[target]):
        adapted(policy, targets=["q_proj", target])
    assert all(parameter.requires_grad for parameter in policy.model.parameters())


def test_a_decoder_without_plain_linear_layers_has_no_place_for_lora() -> None:
    config = GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no linear layers in its decoder"):
        target_names(AutoModelForCausalLM.from_config(config), "all-linear")


def test_missing_peft_is_a_sentence(monkeypatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else real(name))
    with pytest.raises(ValueError, match=r"needs the package peft: pip install 'owpo\[lora\]'"):
        adapted(tiny_policy())


def spoil_config(folder: Path, **changes) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    base, folder = saved_base(tmp_path / "base"), tmp_path / "adapter"
    policy = load_adapted(base)

    def expect(sentence: str, **settings) -> None:
        with pytest.raises(ValueError, match=sentence):
            load_policy(str(folder), **settings)
        save_policy(policy, folder)

    save_policy(policy, folder)
    expect("known by the hash of its float32 weights", dtype="float64")
    for changes in ({"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ".*q_proj"}):
        spoil_config(folder, **changes)
        expect(f"more than plain LoRA \\({next(iter(changes))} = ")
    spoil_config(folder, r=None)
    expect("adapter_config.json does not say r")
    spoil_config(folder, base_model_name_or_path="../bass")
    expect("stands on the base '../bass', and there is no such folder")
    (folder / "adapter_config.json").write_text("{")
    expect("holds no complete adapter")
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    expect("holds no complete adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.popitem()
    save_file(tensors, folder / "adapter_model.safetensors")
    expect("another architecture or size")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    expect("was trained on a base with hash")


def test_a_whole_model_with_an_adapter_in_its_folder_is_refused(tmp_path: Path) -> None:
    """transformers would put the adapter into it without a word."""
    base = saved_base(tmp_path / "base")
    save_policy(load_adapted(base), tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "base" / name).write_bytes((tmp_path / "adapter" / name).read_bytes())
    with pytest.raises(ValueError, match="holds an adapter that is not read from there"):
        load_policy(base)
