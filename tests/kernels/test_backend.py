"""backend.py: dispatch by LMFAST_KERNELS and platform; launches are visible to torch.compile on a GPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lmfast_kernels
from lmfast_kernels import backend, cpu_library

for name in lmfast_kernels.__all__:
    getattr(lmfast_kernels, name)  # imports its module, which registers it in torch.ops
ROOT = Path(__file__).resolve().parents[2]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | environment
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("operator", backend.CHOICES)
def test_cpu_uses_pytorch(operator):
    assert not backend.use_triton(operator, torch.zeros(1))


class OnCuda:
    """The attributes that dispatch reads, for a tensor on a device that this machine lacks."""

    def __init__(self, dtype):
        self.dtype, self.device = dtype, torch.device("cuda")


def test_cuda_uses_the_table(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(backend, "MODE", "auto")
    for operator, (eager, compiled) in backend.CHOICES.items():
        assert backend.use_triton(operator, OnCuda(torch.bfloat16)) == (eager == "triton")
        with monkeypatch.context() as compiling:
            compiling.setattr(torch.compiler, "is_compiling", lambda: True)
            assert backend.use_triton(operator, OnCuda(torch.bfloat16)) == (compiled == "triton")
        assert not backend.use_triton(operator, OnCuda(torch.float64))


def test_compiled_code_uses_the_second_column():
    def function(x):
        return x + 1 if backend.choice("swiglu") == "triton" else x - 1

    assert backend.CHOICES["swiglu"] == ("triton", "torch")
    assert function(torch.zeros(1)) == 1
    assert torch.compile(function, fullgraph=True, backend="eager")(torch.zeros(1)) == -1


def test_override(monkeypatch):
    monkeypatch.setattr(backend, "MODE", "torch")
    assert not backend.use_triton("attention", OnCuda(torch.bfloat16))
    monkeypatch.setattr(backend, "MODE", "triton")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        backend.use_triton("attention", torch.zeros(1))
    monkeypatch.setattr(backend, "MODE", "cuda")
    with pytest.raises(ValueError, match="LMFAST_KERNELS=cuda: use auto, triton or torch"):
        backend.use_triton("attention", torch.zeros(1))


@pytest.fixture
def hopper(monkeypatch):
    """Simulates an H100 with a cuDNN that PyTorch prefers; other tests leave deterministic algorithms enabled."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: False)
    yield monkeypatch
    torch.use_deterministic_algorithms(deterministic)


def attention_for(requires_grad=True):
    return backend.attention_choice(torch.zeros(1, requires_grad=requires_grad))


def test_auto_attention_uses_cudnn_for_training_on_hopper(hopper):
    assert backend.CHOICES["attention"] == ("auto", "auto")
    assert attention_for() == "cudnn" and attention_for(requires_grad=False) == "triton"
    with torch.no_grad():
        assert attention_for() == "triton"
    hopper.setattr(torch.compiler, "is_compiling", lambda: True)
    assert attention_for(requires_grad=False) == "cudnn"
    torch.use_deterministic_algorithms(True)
    assert attention_for() == "triton"


@pytest.mark.parametrize(
    "capability, version, wanted",
    [
        ((10, 0), 91501, "cudnn"),
        ((9, 0), 91500, "triton"),
        ((9, 0), None, "triton"),
        ((8, 0), 91900, "triton"),
        ((12, 0), 91900, "triton"),
    ],
)
def test_attention_depends_on_capability_and_cudnn_version(capability, version, wanted, hopper):
    hopper.setattr(torch.backends.cudnn, "version", lambda: version)
    hopper.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    assert attention_for() == wanted


def test_attention_override(hopper):
    for name in ("triton", "torch", "cudnn"):
        with backend.use_choice("attention", name):
            assert attention_for() == name
    with (
        backend.use_choice("attention", "flash"),
        pytest.raises(ValueError, match="set LMFAST_ATTENTION to auto"),
    ):
        attention_for()
    hopper.setattr(backend, "MODE", "triton")
    assert attention_for() == "triton"
    done = run_python(
        "from lmfast_kernels import backend; print(backend.CHOICES['attention'])", LMFAST_ATTENTION="cudnn"
    )
    assert done.stdout.strip() == "('cudnn', 'cudnn')", done.stderr


def test_without_triton():
    code = """
import sys
sys.modules["triton"] = None
import torch, lmfast_kernels
from lmfast_kernels import backend
assert backend.triton is None
x = torch.randn(3, 8)
lmfast_kernels.rms_norm(x, torch.ones(8))
q = torch.randn(1, 2, 5, 8)
lmfast_kernels.attention(*[lmfast_kernels.rope(q, q, torch.ones(5, 4), torch.ones(5, 4))[0]] * 3)
backend.MODE = "triton"
try:
    lmfast_kernels.swiglu(x, x)
except ValueError as error:
    print(error)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "Triton is not installed" in done.stdout


def test_record_collects_launches():
    pytest.importorskip("triton")
    from lmfast_kernels.swiglu import _forward

    gate = torch.empty(4, 8, device="meta")
    with backend.record((8, 0)) as recording:
        _forward.body(gate, gate)
        assert backend.capability(torch.device("meta")) == (8, 0)
    (kernel, args, kwargs), *others = recording.launches
    assert not others and kernel.__name__ == "_swiglu_forward_kernel"
    assert args[0].shape == (4, 8) and kwargs["BLOCK"] == 8 and kwargs["enable_fp_fusion"]


TRACED = {
    "rms_norm": lambda t: torch.ops.lmfast.rms_norm_forward(t["x"], t["weight"], None, 1e-5)[0],
    "rms_norm backward": lambda t: torch.ops.lmfast.rms_norm_backward(
        t["x"], t["x"], t["weight"], t["rstd"], t["x"]
    )[0],
    "swiglu": lambda t: torch.ops.lmfast.swiglu_forward(t["x"], t["x"]),
    "swiglu backward": lambda t: torch.ops.lmfast.swiglu_backward(t["x"], t["x"], t["x"])[0],
    "rope": lambda t: torch.ops.lmfast.rope(t["x"], t["x"], t["table"], t["table"], None, False)[0],
    "attention": lambda t: torch.ops.lmfast.attention_forward(t["x"], t["x"], t["x"], None, True, 0.25, 0)[0],
    "attention of documents in a window": lambda t: torch.ops.lmfast.attention_forward(
        t["x"], t["x"], t["x"], t["ids"], True, 0.25, 9
    )[0],
    "attention backward": lambda t: torch.ops.lmfast.attention_backward(
        t["x"], t["x"], t["x"], t["x"], t["x"], t["lse"], t["ids"], True, 0.25, 9
    )[0],
    "decode_attention": lambda t: torch.ops.lmfast.decode_attention(t["q"], t["x"], t["x"], t["lengths"], 7),
    "decode_linear": lambda t: torch.ops.lmfast.decode_linear(
        t["row"], t["matrix"], t["weight"], t["row"], 1e-5, False
    )[0],
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", TRACED)
def test_compile_sees_the_kernels_on_a_gpu(name, dynamic, monkeypatch):
    """Traced for CUDA with fake tensors, an operator consists of Triton launches that Inductor can see.

    With symbolic sizes, tiles and warps are still numbers, and no guard contains the bit operations that
    round a symbol up to a power of two.
    """
    pytest.importorskip("triton")
    from torch._dynamo.source import ConstantSource
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    shapes = {"x": (2, 4, 33, 24), "q": (2, 4, 24), "weight": (24,), "table": (35, 12), "lse": (2, 4, 33)}
    shapes |= {"rstd": (264,), "lengths": (2,), "ids": (2, 33), "row": (2, 1, 24), "matrix": (33, 24)}
    environment = ShapeEnv()
    fake = FakeTensorMode(shape_env=environment)

    def tensor(key):
        dtype = torch.int32 if key in ("lengths", "ids") else torch.float32
        shape = shapes[key]
        if dynamic:
            sizes = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DUCK] * len(shape))
            meta = torch.empty(shape, device="meta")
            shape = fake.from_tensor(meta, source=ConstantSource(key), symbolic_context=sizes).shape
        with fake:
            return torch.empty(shape, dtype=dtype, device="cuda")

    def functional(tensors):
        with FunctionalTensorMode() as mode:
            wrapped = {k: FunctionalTensor(torch._to_functional_tensor(t), mode) for k, t in tensors.items()}
            return torch._from_functional_tensor(TRACED[name](wrapped).elem)

    tensors = {key: tensor(key) for key in shapes}
    known = len(kernel_side_table.id_to_kernel)
    with fake:
        graph = make_fx(functional)(tensors)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert any("triton_kernel_wrapper_functional" in target for target in targets), targets
    assert not any("lmfast" in target for target in targets), targets
    launched = list(kernel_side_table.id_to_kernel.values())[known:]
    configs = [config for kernel in launched for config in getattr(kernel, "configs", [])]
    assert configs and all(type(config.num_warps) is int for config in configs), configs
    assert not any("bitwise" in str(guard.expr) for guard in environment.guards)


def test_launches_of_opaque_operators_store_nothing():
    """PyTorch's wrapper would store an autotuner for every launch, of which a long run has millions."""
    pytest.importorskip("triton")
    from torch._higher_order_ops.triton_kernel_wrap import TraceableTritonKernelWrapper

    from lmfast_kernels.linear_cross_entropy import _loss_kernel

    before = backend.launches["_loss_kernel"]
    launcher = backend.launch(_loss_kernel)
    assert launcher.launcher.kernel is _loss_kernel
    assert not isinstance(launcher.launcher, TraceableTritonKernelWrapper)
    assert backend.launches["_loss_kernel"] == before + 1


def test_a_kernel_runs_on_the_device_of_its_tensors(monkeypatch):
    pytest.importorskip("triton")
    from torch._library.triton import set_wrap_triton_enabled

    from lmfast_kernels.swiglu import _swiglu_forward_kernel

    with set_wrap_triton_enabled(False):  # as PyTorch does around an eager call
        launcher = backend.wrap_triton(_swiglu_forward_kernel)
    calls = []

    class Entered:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            calls.append(self.device)

        def __exit__(self, *_):
            calls.append("left")

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: calls.append((grid, args[1:], kwargs))

    monkeypatch.setattr(torch.cuda, "device", Entered)
    monkeypatch.setattr(launcher.launcher, "kernel", Kernel())
    x = SimpleNamespace(device=torch.device("cuda", 1))
    launcher[(3,)](x, 5, BLOCK=16)
    options = {"BLOCK": 16, "enable_fp_fusion": True}
    assert calls == [torch.device("cuda", 1), ((3,), (5,), options), "left"]


def test_consumer_blackwell_uses_tiles_that_fit():
    for found, wanted in (((12, 0), (8, 0)), ((10, 0), (10, 0)), ((9, 0), (9, 0)), ((8, 9), (8, 9))):
        with backend.record(found):
            assert backend.capability(torch.device("meta")) == wanted


@pytest.mark.ci
def test_transformers_next_to_our_package_and_environment_variable():
    """transformers looks for packages by name; neither may break the other."""
    pytest.importorskip("transformers")
    code = """
import lmfast_kernels, transformers
from transformers import LlamaForCausalLM
print(lmfast_kernels.attention.__module__, lmfast_kernels.backend.MODE)
"""
    done = run_python(code, LMFAST_KERNELS="torch")
    assert done.returncode == 0 and "lmfast_kernels.attention torch" in done.stdout, done.stderr[-2000:]


def test_constants_are_marked_as_torch_marks_them():
    @backend.constant_in_compiled_code
    def ours():
        return 1

    def theirs():
        return 1

    marks = vars(torch.compiler.assume_constant_result(theirs))
    assert marks and vars(ours) == marks
    for function in (backend.dot_precision, backend.cudnn_attention_preferred, cpu_library.available):
        assert vars(function) == marks
