"""A process in which torch believes an H100 is present, to trace and compile on machines without a GPU.

`missing()` returns what this machine lacks for it (the CUDA build of torch, Triton, gcc). `restart()` starts the same
command again with bench/fake_cuda.c preloaded, which answers the CUDA calls of device guards; there `pretend()` gives
torch and Triton the properties of an H100, and `Device()` is a mode under which tensors on DEVICE are fake. What
torch.compile generates is kept in `generated` instead of being run: a compiled graph is called as its FX graph, on
fake tensors, so whole training loops run, and whatever would make the host wait for the device (`.item()`, `.tolist()`,
nonzero) raises an error. Nothing is measured here.

Replaces private functions of torch; made with torch 2.11 and 2.13. Same approach: pytorch/pytorch#160431 and #171425.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch._higher_order_ops.triton_kernel_wrap import (
    triton_kernel_wrapper_functional,
    triton_kernel_wrapper_mutation,
)
from torch._subclasses.fake_tensor import FakeTensorMode

DEVICE = torch.device("cuda:0")
CAPABILITY = (9, 0)
MARK = "LMFAST_FAKE_DEVICE"
H100 = types.SimpleNamespace(
    name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30,
    warp_size=32, max_threads_per_multi_processor=2048, max_threads_per_block=1024,
    regs_per_multiprocessor=65536, shared_memory_per_multiprocessor=233472, shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448, L2_cache_size=50 * 2**20, clock_rate=1_980_000,
    memory_clock_rate=2_619_000, memory_bus_width=5120, gcnArchName="", is_integrated=0, uuid="",
    pci_bus_id=0, pci_device_id=0, pci_domain_id=0,
)  # fmt: skip


def missing() -> str | None:
    """What this machine lacks for a fake device, or None."""
    if sys.platform != "linux":
        return "the fake device needs Linux"
    if torch.version.cuda is None:
        return "the fake device needs the CUDA build of torch"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "the fake device needs Triton"
    return None if shutil.which("gcc") else "the fake device needs gcc"


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process with the fake CUDA library, which is built in `folder`."""
    library = folder / "libcuda.so.1"  # the driver's own name: whoever opens it later gets this one
    source = Path(__file__).with_name("fake_cuda.c")
    options = ["-w", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", str(library)]
    subprocess.run(["gcc", *options, str(source)], check=True)
    paths = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return os.environ | {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": ":".join(paths), MARK: str(folder)}


def restart() -> None:
    """Starts this command again in the environment of the fake device, unless it already runs there."""
    if MARK in os.environ:
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *sys.orig_argv[1:]]
        raise SystemExit(subprocess.run(command, env=environment(Path(folder))).returncode)


@dataclass
class Generated:
    """One graph as Inductor received it and the Python code it made of it."""

    graph: torch.fx.GraphModule
    code: str


generated: list[Generated] = []


class Device(FakeTensorMode):
    """Within, tensors are fake. Counts in `operators` what is called from outside compiled graphs while `counting`."""

    avoid_device_init = True  # else `torch.tensor(x, device=…)` copies x to the device before it becomes fake

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.operators: Counter[str] = Counter()
        self.counting, self.depth = False, 0
        for higher_order in (triton_kernel_wrapper_mutation, triton_kernel_wrapper_functional):
            rules = higher_order.python_key_table  # by the mode's very class
            rules.setdefault(Device, rules[FakeTensorMode])

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.counting and not self.depth and not _launches_nothing(function):
            self.operators[str(function)] += 1
        self.depth += 1
        try:
            return super().__torch_dispatch__(function, types, args, kwargs)
        finally:
            self.depth -= 1


def _launches_nothing(function) -> bool:
    return (
        function.is_view
        or function.namespace in ("prim", "profiler")
        or function is torch.ops.aten.detach.default
    )


def pretend(device: Device) -> None:
    """Replaces torch's and Triton's queries of a device, for the rest of this process. `device` is the mode in use."""
    import torch._dynamo  # it looks functions of torch.cuda up when it is imported
    import torch._inductor.compile_fx
    import torch.cuda.random
    import triton
    from torch._inductor.runtime import triton_helpers
    from torch.nn.utils import clip_grad
    from triton.backends.compiler import GPUTarget

    cuda = torch.cuda
    cuda.is_available = cuda.is_bf16_supported = lambda *a, **k: True
    cuda.device_count, cuda.current_device = lambda: 1, lambda: 0
    cuda.get_device_properties = cuda._get_device_properties = lambda *a, **k: H100
    cuda.get_device_capability, cuda.get_device_name = lambda *a, **k: CAPABILITY, lambda *a, **k: H100.name
    cuda._lazy_init = cuda.random._lazy_init = lambda: None
    cuda.synchronize = cuda.set_rng_state = lambda *a, **k: None
    cuda.get_rng_state = lambda *a, **k: torch.zeros(16, dtype=torch.uint8)
    cuda.current_stream = lambda *a, **k: types.SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    clip_grad._has_foreach_support = lambda *a, **k: (
        True
    )  # it knows tensors by their class, and a fake one has its own
    torch.Tensor.pin_memory = lambda self, *a, **k: self

    class Driver:
        utils = types.SimpleNamespace(
            get_device_properties=lambda *_: {
                "max_shared_mem": H100.shared_memory_per_block_optin,
                "multiprocessor_count": H100.multi_processor_count,
                "warpSize": H100.warp_size,
            }
        )

        def get_current_target(self):
            return GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], H100.warp_size)

        def get_active_torch_device(self):
            return DEVICE

        def get_current_device(self):
            return 0

        def get_current_stream(self, device=None):
            return 0

        def get_device_interface(self):
            return torch.cuda

    triton.runtime.driver.set_active(Driver())
    triton_helpers.set_driver_to_gpu = lambda: None
    _stop_after_code_generation(device)


def _stop_after_code_generation(device: Device) -> None:
    import torch._inductor.config as config
    from torch._inductor.fx_passes import fuse_attention, misc_patterns, pad_mm
    from torch._inductor.graph import GraphLowering

    config.compile_threads, config.force_disable_caches = 1, True
    config.joint_graph_constant_folding = False  # it computes on the device
    config.use_static_cuda_launcher = False  # it would keep no cubin to inspect
    # These trace their patterns with tensors on the device. None of them matches our graphs' operators.
    for module, name in (
        (fuse_attention, "_sfdp_init"),
        (misc_patterns, "_misc_patterns_init"),
        (pad_mm, "_pad_mm_init"),
    ):
        setattr(module, name, lambda *a, **k: None)
    folder = Path(tempfile.mkdtemp(dir=os.environ.get(MARK)))

    def compile_to_module(lowering: GraphLowering):
        code = lowering.codegen()[0]
        found = Generated(lowering.orig_gm, getattr(code, "value", code))
        generated.append(found)
        path = folder / f"graph_{len(generated)}.py"
        path.write_text(found.code)
        lowering.cache_key, lowering.cache_path, lowering.cache_linemap = path.stem, str(path), []

        def call(arguments: list) -> list:
            counting, device.counting = device.counting, False
            try:
                with device:
                    return list(found.graph(*arguments))
            finally:
                device.counting = counting

        return types.SimpleNamespace(call=call, __file__=str(path))

    GraphLowering.compile_to_module = compile_to_module
