"""Gradients of the whole policy for coefficients that are given, and the angles between them.

A loss -c log pi has the gradient -c grad log pi, so that one forward pass serves any number of coefficients, and a rule
that is a sum of others needs no pass of its own: vectors are kept as coordinates in a few gradients, and every cosine
comes from the products of these.

Shape legend: B responses, T response tokens, K gradients, D parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from owpo.policy.logprobs import micro_batches, response_logprobs
from owpo.policy.model import Policy
from owpo.policy.responses import Responses

_CHUNK = 2**20


def weighted_gradients(
    policy: Policy, responses: Responses, coefficient_KBT: Tensor, temperature: float, micro_batch_tokens: int
) -> Tensor:
    """sum_bt c_kbt grad log pi_bt over the trained parameters, [K, D]; what stands at padding is not read."""
    parameters = policy.trained_parameters()
    size = sum(parameter.numel() for parameter in parameters)
    gradient_KD = parameters[0].new_zeros(len(coefficient_KBT), size, requires_grad=False)
    for index in micro_batches(responses, micro_batch_tokens, shares_prompts=policy.takes_layouts):
        index = index.to(policy.device)
        part = responses.rows(index)
        logp_BT, _ = response_logprobs(policy, part, temperature)
        part_KBT = coefficient_KBT[:, index, : logp_BT.shape[1]].to(logp_BT.dtype)
        for k, part_BT in enumerate(part_KBT):
            found = torch.autograd.grad(
                logp_BT, parameters, part_BT, retain_graph=k + 1 < len(part_KBT), materialize_grads=True
            )
            gradient_KD[k] += torch.cat([gradient.flatten() for gradient in found])
    return gradient_KD


def products(a_KD: Tensor, b_LD: Tensor) -> Tensor:
    """Inner products of the rows, [K, L], in float64 on the CPU."""
    parts = zip(a_KD.split(_CHUNK, dim=1), b_LD.split(_CHUNK, dim=1), strict=True)
    return torch.stack([a.double() @ b.double().T for a, b in parts]).sum(dim=0).cpu()


def cosine(product_KK: Tensor, a_K: Tensor, b_K: Tensor) -> float | None:
    """Between two vectors given by their coordinates; None where one of them is zero.

    The products may be those of one half of a sample with the other, symmetrised. Then noise of the sample is not in
    them, and the cosine is corrected for attenuation (Spearman, 1904): it may leave [-1, 1], and is None where the
    noise hides a length.
    """
    square = ((a_K @ product_KK @ a_K) * (b_K @ product_KK @ b_K)).item()
    if not (square > 0 and (a_K @ product_KK @ a_K).item() > 0):
        return None
    return (a_K @ product_KK @ b_K).item() / math.sqrt(square)
