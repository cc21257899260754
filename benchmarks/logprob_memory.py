"""Peak memory of the log-probs' forward and backward pass, with and without full logits.

    python benchmarks/logprob_memory.py [--vocab 152000] [--tokens 4096] [--hidden 512] [--json]

Each way runs in a process of its own. On the CPU the figure is the process's largest resident set minus that
before the pass, hidden states and weights in place; on CUDA it is torch's own maximum minus the same. Both
include the gradients of hidden states and weights, which either way has to hold.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from owpo.policy.head import selected_logprobs


def chunked(hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor) -> Tensor:
    """The library's."""
    return selected_logprobs(hidden_NH, weight_VH, None, target_N, 1.0)[0]


def chunked_with_entropy(hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor) -> Tensor:
    """The library's as a training step calls it: the entropy of every token comes along."""
    return selected_logprobs(hidden_NH, weight_VH, None, target_N, 1.0, with_entropy=True)[0]


def full_logits(hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor) -> Tensor:
    """The plain way."""
    logp_NV = (hidden_NH @ weight_VH.T).log_softmax(dim=-1)
    return logp_NV.gather(1, target_N.unsqueeze(1)).squeeze(1)


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "chunked": chunked,
    "chunked_with_entropy": chunked_with_entropy,
    "full_logits": full_logits,
}


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(way: str, vocab: int, tokens: int, hidden: int, device: torch.device) -> dict[str, float]:
    """Peak above the inputs in MiB, seconds, and the gradients' norms (the same for both ways)."""
    torch.manual_seed(0)
    # Filled in place: a temporary copy would raise the largest resident set before the pass begins.
    hidden_NH = torch.empty(tokens, hidden, device=device).normal_().requires_grad_()
    weight_VH = torch.empty(vocab, hidden, device=device).normal_(std=0.02).requires_grad_()
    target_N = torch.randint(vocab, (tokens,), device=device)
    # The matrix product's own buffers and threads are not what is compared.
    (hidden_NH.detach()[:8] @ weight_VH.detach()[:8].T).sum().item()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before, start = peak_bytes(device), time.perf_counter()
    WAYS[way](hidden_NH, weight_VH, target_N).mean().backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds, after = time.perf_counter() - start, peak_bytes(device)
    assert hidden_NH.grad is not None
    assert weight_VH.grad is not None
    return {
        "peak_mib": (after - before) / 2**20,
        "seconds": seconds,
        "hidden_grad_norm": hidden_NH.grad.norm().item(),
        "weight_grad_norm": weight_VH.grad.norm().item(),
    }


def measure_in_child(way: str, arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab", type=int, default=152_000)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help="measure this way alone, in this process")
    args = parser.parse_args()
    if args.way:
        device = torch.device(args.device)
        print(json.dumps(measure(args.way, args.vocab, args.tokens, args.hidden, device)))
        return
    sizes = {"vocab": args.vocab, "tokens": args.tokens, "hidden": args.hidden, "device": args.device}
    arguments = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    results = {way: measure_in_child(way, arguments) for way in WAYS}
    for result in results.values():
        result["of_full_logits"] = result["peak_mib"] / results["full_logits"]["peak_mib"]
    if args.json:
        print(json.dumps({**sizes, **results}))
        return
    print(f"V = {args.vocab}, {args.tokens} tokens, hidden {args.hidden}, float32, {args.device}")
    for way, result in results.items():
        share = f"{result['of_full_logits']:6.1%} of full logits"
        print(f"{way:22}{result['peak_mib']:8.0f} MiB  {share}  {result['seconds']:7.2f} s")


if __name__ == "__main__":
    main()
