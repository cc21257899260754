"""A model's attention, taken over: tokens of many texts stand in one row, and a layout says who sees whom.

transformers looks its attention up by a name in the model's configuration. We put a name of our own there: with a
layout, each layer hands its queries, keys and values to it; without one, it is the SDPA attention that was there
before. Everything else of a model (projections, norms, positions, MLPs) works token by token, so with a layout it sees
one row without padding, in which a prompt stands once however many responses it has.

Shape legend: N tokens of one pass, H hidden width, h query heads, k key/value heads, D width of a head.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from owpo.policy.packing import pack

NAME = "owpo"

# What an architecture may hand to its attention beside queries, keys and values, and layouts do not compute.
_UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")


class Layout(Protocol):
    """Who sees whom in a pass, and where keys and values are kept."""

    def attend(
        self, layer: int, query_NhD: Tensor, key_NkD: Tensor, value_NkD: Tensor, scale: float
    ) -> Tensor:
        """The attention's output, [N, h, D]; called once a layer."""
        ...


class UnknownAttention(ValueError):
    """The architecture computes its attention in a way that layouts do not know."""


def hidden_states(model: PreTrainedModel, tokens_N: Tensor, position_N: Tensor, layout: Layout) -> Tensor:
    """The last hidden states, [N, H].

    Args:
        position_N: of each token in its own text.

    Raises:
        UnknownAttention: the architecture needs its own attention.
    """
    decoder = model.get_decoder()
    if decoder.config._attn_implementation == "sdpa":
        # For good, and not for this call: gradient checkpointing runs the layers again in the backward pass.
        decoder.config._attn_implementation = NAME
    if decoder.config._attn_implementation != NAME:
        raise UnknownAttention(f"{type(model).__name__} has no SDPA attention that could be taken over")
    output = decoder(
        input_ids=tokens_N.unsqueeze(0),
        position_ids=position_N.unsqueeze(0),
        # A mask of four dimensions is handed on as it is, so that none is made; the layout stands in its place.
        attention_mask=position_N.new_zeros(1, 1, 1, 1),
        use_cache=False,
        layout=layout,
    )
    return output.last_hidden_state.squeeze(0)


def layout_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' signature: [1, heads, N, D] in, [1, N, h, D] out. There is no dropout (`load_policy`)."""
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    foreign = [name for name in _UNKNOWN if options.get(name) is not None]
    if foreign or value.shape[-1] != query.shape[-1]:
        raise UnknownAttention(f"{type(module).__name__} has {', '.join(foreign) or 'heads of two widths'}")
    # Under autocast the rotation gives float32; the products are to be in the values' dtype.
    query_NhD, key_NkD, value_NkD = (
        states.squeeze(0).transpose(0, 1).to(value.dtype) for states in (query, key, value)
    )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = module.layer_idx
    assert isinstance(layer, int)
    return layout.attend(layer, query_NhD, key_NkD, value_NkD, scale).unsqueeze(0), None


@torch.no_grad()
def takes_layouts(model: PreTrainedModel) -> bool:
    """Whether hidden states with a layout are the model's own, tried on two texts of a few tokens.

    Not so where attention has a window, a cap or sinks, or where a layer passes state from token to token.
    """
    config = model.config.get_text_config(decoder=True)
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return False
    device = model.device
    tokens = torch.arange(14, device=device) % min(config.vocab_size, 11)
    prompts, responses_BT = [tokens[:3].tolist(), tokens[3:5].tolist()], tokens[5:14].view(3, 3)
    packed = pack(prompts, [0, 0, 1], responses_BT, torch.tensor([3, 2, 3]))
    try:
        ours_NH = hidden_states(model, packed.tokens_N, packed.position_N, packed)[packed.predictor]
    except UnknownAttention:
        return False
    own = []
    for prompt, response, length in zip((0, 0, 1), responses_BT, (3, 2, 3), strict=True):
        text = torch.cat([torch.tensor(prompts[prompt], device=device), response[: length - 1]])
        hidden_SH = model.get_decoder()(input_ids=text.unsqueeze(0), use_cache=False).last_hidden_state[0]
        own.append(hidden_SH[len(prompts[prompt]) - 1 :])
    difference = (ours_NH - torch.cat(own)).abs().max()
    return bool(difference <= 1e-3 * torch.cat(own).abs().max())


AttentionInterface.register(NAME, layout_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
