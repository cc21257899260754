"""In float64 TRL's gradients and the local engine's are one number, but for three places that compute in float32.

TRL's fused head does, whatever the model's dtype (`trl/kernels/chunked_logprob.py`: statistics, log-probs and the sums
of the backward pass), and so do transformers' RMSNorm and rotary cosines, which meet other sums in a packed row, and
other positions in a row that is padded at the left. With them as they are the two agree as float32 does; with float64
in their place there is nothing left that differs.
"""

from pathlib import Path

import pytest
import torch
from conftest import write_tiny_model
from fixed_batch import fixed_rows, local_gradients
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding
from trl.trainer import utils as trl_utils
from trl_batches import as_trl, trainer_of, trl_gradients


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("trl")
    return write_tiny_model(folder / "model"), write_tiny_model(folder / "reference", seed=1)


class WholeHead:
    """In the place of TRL's kernel: the plain log-softmax, in the dtype of what it is given."""

    @staticmethod
    def apply(hidden, weight, bias, labels, temperature, *_):
        logp = torch.log_softmax(hidden @ weight.T / temperature, dim=-1)
        entropy = -(logp.exp() * logp).sum(dim=-1).detach()
        return logp.gather(1, labels.unsqueeze(1)).squeeze(1), entropy, None, None, None


def whole_norm(self, hidden):
    scale = hidden.square().mean(dim=-1, keepdim=True) + self.variance_epsilon
    return self.weight * hidden * scale.rsqrt()


def whole_rotary(self, x, position_ids):
    half = self.inv_freq.to(x.dtype) * position_ids.unsqueeze(-1).to(x.dtype)
    angle = torch.cat([half, half], dim=-1)
    return angle.cos(), angle.sin()


def difference(models, folder, name) -> tuple[float, float]:
    """Of loss and gradients, relative to the loss and to the largest gradient."""
    trainer = trainer_of(models[0], folder, objective=name)
    trainer.model.double()
    rows = fixed_rows(*models, dtype="float64")
    expected_loss, expected = local_gradients(models[0], rows, trainer.objective, None, "float64")
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    loss, found = trl_gradients(trainer, [as_trl(rows, trainer, part.tolist()) for part in order.chunk(4)])
    assert {gradient.dtype for gradient in [*found.values(), *expected.values()]} == {torch.float64}
    largest = max((found[name] - gradient).abs().max() for name, gradient in expected.items())
    return abs(loss / expected_loss - 1), float(largest / max(each.abs().max() for each in expected.values()))


OBJECTIVES = ["owpo", "dapo", "gspo", "mopd"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_the_local_engines_to_ten_digits(models, tmp_path, monkeypatch, name):
    monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", WholeHead)
    monkeypatch.setattr(LlamaRMSNorm, "forward", whole_norm)
    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", whole_rotary)
    loss, gradient = difference(models, tmp_path, name)
    assert loss < 1e-10
    assert gradient < 1e-10


@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_the_three_in_float32_they_agree_to_six(models, tmp_path, name):
    loss, gradient = difference(models, tmp_path, name)
    assert loss < 1e-6
    assert gradient < 1e-6
