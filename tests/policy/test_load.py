from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors as hub_errors
from policy_builders import (
    EOS,
    byte_level_tokenizer,
    character_tokenizer,
    random_responses,
    save_folder,
    tiny_config,
    tiny_policy,
)
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from owpo.policy import (
    Policy,
    check_same_vocabulary,
    content_hash,
    copy_weights,
    load_policy,
    load_weights,
    response_logprobs,
    save_policy,
)

TEXT = "12+34=46, isn't it?\nYes  é"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("make", [character_tokenizer, byte_level_tokenizer])
def test_the_saved_tokenizer_is_the_one_that_loads(tmp_path: Path, kind: str, make) -> None:
    folder, saved = save_folder(tmp_path / "base", kind, make()), make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        policy = load_policy(folder)
    assert policy.encode(TEXT) == saved.encode(TEXT)
    assert policy.tokenizer.get_vocab() == saved.get_vocab()
    assert (policy.eos_ids, policy.pad_id) == ((EOS,), 0)
    auto = AutoTokenizer.from_pretrained(folder)
    is_replaced = auto.encode(TEXT) != saved.encode(TEXT)
    warned = [str(entry.message) for entry in caught if "AutoTokenizer replaces" in str(entry.message)]
    assert bool(warned) is is_replaced
    # A saved policy reads back the same, and says the same again.
    save_policy(policy, tmp_path / "again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = load_policy(str(tmp_path / "again"))
    assert again.encode(TEXT) == saved.encode(TEXT)
    assert content_hash(again.model) == content_hash(policy.model)
    responses = random_responses([3], [5], 50)
    assert torch.equal(
        response_logprobs(policy, responses, 1.0)[0], response_logprobs(again, responses, 1.0)[0]
    )


def test_auto_tokenizer_does_replace_the_tokenizer_beside_qwen2(tmp_path: Path) -> None:
    """The reason for the comparison; once this fails, the warning's tests have nothing to find."""
    folder = save_folder(tmp_path, "qwen2", character_tokenizer())
    with pytest.warns(UserWarning, match=r"AutoTokenizer replaces .* by a Qwen2Tokenizer that encodes"):
        load_policy(folder)


def test_a_tokenizer_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, "llama", character_tokenizer())
    added = {"3": {"content": "<new>", "special": True}}  # id 3 is the digit 0 in tokenizer.json
    edit_json(tmp_path / "tokenizer_config.json", added_tokens_decoder=added)
    with pytest.raises(
        ValueError, match=r"cannot be loaded as saved: .* '<new>' the id 56, where 3 was saved"
    ):
        load_policy(folder)


def test_prompt_never_ends_with_eos(tmp_path: Path) -> None:
    policy = tiny_policy()
    plain = policy.encode("12+3")
    policy.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A <eos>", special_tokens=[("<pad>", 0), ("<eos>", EOS)]
    )
    assert policy.tokenizer("12+3")["input_ids"] == [0, *plain, EOS]
    assert policy.encode("12+3") == [0, *plain]
    assert policy.decode([0, *plain, EOS]) == "12+3"
    assert policy.decode(torch.tensor(plain)) == "12+3"


def test_weights_stay_float32_under_bfloat16(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, "llama", character_tokenizer())
    policy = load_policy(folder, dtype="bfloat16")
    assert policy.compute_dtype == torch.bfloat16
    assert {parameter.dtype for parameter in policy.model.parameters()} == {torch.float32}
    with policy.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with policy.autocast(), load_policy(folder).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert load_policy(folder, dtype="float64").model.dtype == torch.float64


def test_no_dropout_in_either_mode(tmp_path: Path) -> None:
    folder = save_folder(tmp_path, "llama", character_tokenizer(), attention_dropout=0.5)
    policy, responses = load_policy(folder), random_responses([3], [5], 50)
    assert not policy.model.training
    expected, _ = response_logprobs(policy, responses, 1.0)
    policy.model.train()
    assert torch.equal(response_logprobs(policy, responses, 1.0)[0], expected)


def test_content_hash_by_hand_and_what_changes_it() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
            self.a = torch.nn.Parameter(torch.tensor([[3.0]]))
            self.c = self.a  # tied

    by_hand = hashlib.sha256()
    by_hand.update(b"a torch.float32 [1, 1]\n" + torch.tensor([3.0]).numpy().tobytes())
    by_hand.update(b"b torch.float32 [2]\n" + torch.tensor([1.0, 2.0]).numpy().tobytes())
    model = Two()
    assert content_hash(model) == by_hand.hexdigest()  # type: ignore[arg-type]
    with torch.no_grad():
        model.b[1] = torch.nextafter(torch.tensor(2.0), torch.tensor(3.0))
    assert content_hash(model) != by_hand.hexdigest()  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_copied_and_loaded_in_place(tmp_path: Path, tied: bool) -> None:
    policy = tiny_policy("qwen3", tie_word_embeddings=tied)
    other = tiny_policy("qwen3", seed=1, tie_word_embeddings=tied)
    addresses = [parameter.data_ptr() for parameter in other.model.parameters()]
    start = content_hash(other.model)
    assert content_hash(policy.model) != start
    save_policy(other, tmp_path)
    copy_weights(policy, other)
    assert content_hash(other.model) == content_hash(policy.model)
    load_weights(other, tmp_path)
    assert content_hash(other.model) == start
    assert [parameter.data_ptr() for parameter in other.model.parameters()] == addresses


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    policy, wider = tiny_policy(), tiny_policy(intermediate_size=56)
    with pytest.raises(
        ValueError, match=r"layers.0.mlp.down_proj.weight is float32 \[32, 48\] in the source"
    ):
        copy_weights(policy, wider)
    with pytest.raises(ValueError, match=r"float32 .* in the source and float64"):
        copy_weights(policy, tiny_policy(dtype=torch.float64))
    save_policy(wider, tmp_path)
    before = content_hash(policy.model)
    with pytest.raises(ValueError, match="weights cannot be copied"):
        load_weights(policy, tmp_path)
    assert content_hash(policy.model) == before


def test_different_vocabularies_are_named() -> None:
    policy = tiny_policy()
    check_same_vocabulary(policy, tiny_policy("qwen3", seed=1))
    byte_level = replace(policy, tokenizer=byte_level_tokenizer())
    sizes = f"of {len(policy.tokenizer)} and {len(byte_level.tokenizer)} tokens: '<unk>' is 2 and None"
    with pytest.raises(ValueError, match=sizes):
        check_same_vocabulary(policy, byte_level)
    model = AutoModelForCausalLM.from_config(tiny_config("llama", 64))
    larger = Policy(model, policy.tokenizer, torch.float32)
    check_same_vocabulary(policy, larger)
    with pytest.raises(ValueError, match=f"logits for {len(policy.tokenizer)} tokens, the policy for 64"):
        check_same_vocabulary(larger, policy)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_folder(tmp_path_factory.mktemp("bases") / "tiny-base", "llama", character_tokenizer()))


def test_settings_that_are_not_known(base: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown dtype 'bf16'.* Did you mean 'bfloat16'\?"):
        load_policy(str(base), dtype="bf16")
    with pytest.raises(ValueError, match=r"unknown device 'cuba'\. Did you mean 'cuda'\?"):
        load_policy(str(base), device="cuba")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees no CUDA GPU; use 'cpu'"):
            load_policy(str(base), device="cuda:0")


def test_folder_that_is_not_there(base: Path) -> None:
    with pytest.raises(ValueError, match=r"does not exist\. Did you mean '.*tiny-base'\?"):
        load_policy(str(base.parent / "tiny-bse"))
    with pytest.raises(ValueError, match="is a file, not a model folder"):
        load_policy(str(base / "config.json"))


@pytest.mark.parametrize(
    ("removed", "sentence"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "holds no weights"),
        ("tokenizer*", "holds no tokenizer"),
    ],
)
def test_folder_that_lacks_a_file(base: Path, tmp_path: Path, removed: str, sentence: str) -> None:
    folder = shutil.copytree(base, tmp_path / "copy")
    for path in folder.glob(removed):
        path.unlink()
    with pytest.raises(ValueError, match=sentence):
        load_policy(str(folder))


def test_pickled_weights_are_not_read(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "copy")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickle .* convert them once"):
        load_policy(str(folder))


def test_damaged_and_incomplete_weights(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "copy")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_policy(str(folder))
    weights.write_bytes(whole)
    edit_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"lacks \d+ of its model's weights, model.layers.2"):
        load_policy(str(folder))


def test_tokens_that_do_not_fit(tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    small = tiny_config("llama", 40)
    AutoModelForCausalLM.from_config(small).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    with pytest.raises(
        ValueError, match=r"larger than its model: token '\\n' has id 55, the output layer has 40"
    ):
        load_policy(str(tmp_path / "small"))
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        load_policy(save_folder(tmp_path / "endless", "llama", tokenizer, eos_token_id=None))


def test_a_configured_eos_that_is_an_ordinary_token_is_left_out(tmp_path: Path) -> None:
    digit = character_tokenizer().convert_tokens_to_ids("7")
    folder = save_folder(tmp_path, "llama", character_tokenizer(), eos_token_id=[EOS, digit])
    with pytest.warns(UserWarning, match=rf"names \[{digit}\] as EOS"):
        policy = load_policy(folder)
    assert policy.eos_ids == (EOS,)


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        (hub_errors.OfflineModeIsEnabled("offline"), "the hub cannot be reached; go online"),
        (hub_errors.LocalEntryNotFoundError("not cached"), "the hub cannot be reached; go online"),
        (ConnectionError("no route"), "the hub cannot be reached; go online"),
        (None, "cannot be loaded: what transformers said"),
    ],
)
def test_hub_failures_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, cause: Exception | None, sentence: str
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError("what transformers said\nand more") from cause

    monkeypatch.setattr("owpo.policy.tokenizer.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(ValueError, match=rf"^model 'owner/name' .*{sentence}") as caught:
        load_policy("owner/name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (hub_errors.GatedRepoError, "accept its terms"),
        (hub_errors.RepositoryNotFoundError, "neither a folder here nor a model on the hub"),
        (hub_errors.RevisionNotFoundError, "check `revision`"),
    ],
)
def test_hub_answers_are_one_sentence(monkeypatch: pytest.MonkeyPatch, kind: type, sentence: str) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError("what transformers said") from kind.__new__(kind)

    monkeypatch.setattr("owpo.policy.tokenizer.AutoTokenizer.from_pretrained", fail)
    with pytest.raises(ValueError, match=sentence):
        load_policy("owner/name")
