"""The steps traced for an absent H100; without torch's CUDA build, only parsing of generated code."""

import os
import subprocess
import sys

import pytest
import torch

from bench import fake_device, gpu_trace
from bench.gpu_trace import Launch, counts, launches, problems
from bench.machine import ROOT

CODE = """\
# kernel path: /tmp/torchinductor/x.py
# Topologically Sorted Source Nodes: [x_2], Original ATen: [aten._to_copy, aten.t]
# Source node to ATen node mapping:
triton_poi_fused__to_copy_t_1 = async_compile.triton('triton_poi_fused__to_copy_t_1', '''
def triton_poi_fused__to_copy_t_1(): ...
''', device_str='cuda')


# kernel path: /tmp/torchinductor/y.py
# Topologically Sorted Source Nodes: [x_6], Original ATen: [aten.transpose, aten.clone]
triton_poi_fused_clone_transpose_4 = async_compile.triton('triton_poi_fused_clone_transpose_4', '''
''', device_str='cuda')

_rms_norm_forward_kernel_0 = async_compile.triton('_rms_norm_forward_kernel', '''
''', device_str='cuda')


class Runner:
    def call(self, args):
        primals_1, primals_2 = args
        args.clear()
        assert_size_stride(primals_1, (4, 1024), (1024, 1))
        with torch.cuda._DeviceGuard(0):
            torch.cuda.set_device(0)
            buf0 = empty_strided_cuda((4, 1024), (1024, 1), torch.bfloat16)
            # Topologically Sorted Source Nodes: [x], Original ATen: [aten.t]
            stream0 = get_raw_stream(0)
            triton_poi_fused__to_copy_t_1.run(primals_1, buf0, 1024, stream=stream0)
            del primals_1
            _rms_norm_forward_kernel_0.run(buf0, primals_2, 1, 1, stream=stream0)
            extern_kernels.mm(reinterpret_tensor(buf0, (1, 1), (1, 1), 0), buf0, out=buf0)
            buf1 = torch.ops.aten._scaled_dot_product_cudnn_attention.default(buf0, buf0, buf0)
            buf2 = buf1[0]
            buf3 = torch.ops.lmfast.linear_cross_entropy.default(buf2)
            buf4 = buf2; del buf2  # reuse
        return (buf3, )

runner = Runner(partitions=[])
call = runner.call
"""


def test_launches_are_read_from_generated_code():
    found, unknown = launches(CODE)
    assert not unknown
    assert found == [
        Launch("cast", "triton_poi_fused__to_copy_t"),
        Launch("ours", "_rms_norm_forward_kernel"),
        Launch("product", "extern_kernels.mm"),
        Launch("library", "aten._scaled_dot_product_cudnn_attention"),
        Launch("ours", "lmfast.linear_cross_entropy"),
    ]


def test_a_layer_is_the_difference_of_two_and_three():
    norm, product = Launch("ours", "norm"), Launch("product", "mm")
    rows = counts([norm, product, norm, product, norm], [norm, product] * 3 + [norm], 12)
    assert rows == [("ours", "norm", 1, 1, 13), ("product", "mm", 1, 0, 12)]


def graph_of(function, *shapes):
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function, tracing_mode="fake")(*(torch.empty(shape) for shape in shapes))


def test_problems():
    assert problems("step", graph_of(lambda w: w.bfloat16() + 1, (4, 4)), CODE) == []
    copied = CODE.replace("triton_poi_fused__to_copy_t_1.run", "triton_poi_fused_clone_transpose_4.run")
    assert problems("step", graph_of(lambda w: w + 1, (4, 4)), copied) == [
        "step: triton_poi_fused_clone_transpose copies a layout"
    ]
    strange = CODE.replace("buf4 = buf2; del buf2  # reuse", "u0 = buf2.item()")
    assert problems("step", graph_of(lambda w: w + 1, (4, 4)), strange) == [
        "step: unknown line in the generated code: u0 = buf2.item()"
    ]
    twice = graph_of(lambda w: w.bfloat16() + w.bfloat16(), (4, 4))
    assert problems("step", twice, CODE) == ["step: w_1 is cast 2 times and copied 0 times"]
    copy = graph_of(lambda w: w.clone() + 1, (4, 4))
    assert problems("step", copy, CODE) == ["step: w_1 is cast 0 times and copied 1 times"]


def test_waiting_for_the_device_is_a_problem():
    graph = torch.fx.Graph()
    graph.output(graph.call_function(torch.ops.aten._local_scalar_dense.default, (graph.placeholder("x"),)))
    found = problems("step", torch.fx.GraphModule(torch.nn.Module(), graph), CODE)
    assert found == ["step: aten._local_scalar_dense.default waits for the device"]


@pytest.mark.exhaustive  # a minute and a half of processor time
@pytest.mark.skipif(fake_device.missing() is not None, reason=str(fake_device.missing()))
def test_the_steps_match_the_saved_listing():
    """Graphs, waits, copies and spills are errors. `python -m bench.gpu_trace --save` updates the listing."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("TRITON_", "LMFAST_"))
    }
    command = [sys.executable, "-m", "bench.gpu_trace", "--compile"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    path = gpu_trace.listing_path()
    if path.exists():
        assert path.read_text() in done.stdout, (
            f"{path} is not what the steps launch now; renew it with --save"
        )
