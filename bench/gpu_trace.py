"""What the 124M training step and decoding step launch on an H100, without one: `python -m bench.gpu_trace [--save]`.

The model, objective and loop are the project's own (configs/owt_124m.yaml; bench/training_step.py runs `train_loop`),
once with the attention that dispatch chooses and once with our kernels. They are traced on a fake device
(bench/fake_device.py) with two and with three layers, whose difference is the cost of a layer. Out: a listing of the
kernels that Inductor generated and of the operators that run outside the compiled graphs; --save writes it to
docs/gpu_trace/, so that reviews show changes. --compile also compiles every Triton kernel of both steps for
sm_90 and prints registers, stack and shared memory.

Exit code 1, with a line each, if the step is not one graph, waits for the device, copies a layout, casts a weight
more than once, or if a kernel spills. Nothing is measured. Needs the CUDA build of torch, Triton and gcc; no GPU.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench import fake_device
from bench.gpu_training_job import read_config
from bench.machine import ROOT
from bench.training_step import OurSteps
from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_decoder import TorchDecoder
from lmfast.model.config import ModelConfig
from lmfast.model.device import make_deterministic
from lmfast.model.transformer import TransformerLM
from lmfast_kernels import aot, backend

CONFIG, DECODED = "owt_124m", 1  # sequences that are decoded at once
FOLDER = ROOT / "docs" / "gpu_trace"
MOVES = set(
    "alias as_strided cat clone contiguous copy copy_ detach empty empty_like empty_strided expand new_empty permute "
    "reshape select slice split split_with_sizes squeeze stack t transpose unbind unsafe_split unsqueeze view _unsafe_view"
    .split()
)  # fmt: skip
CASTS = {"_to_copy", "convert_element_type"}
SYNCS = re.compile(r"_local_scalar_dense|nonzero|masked_select|\bitem\b|\.unique|is_nonzero|equal\.default")
DEFINITION = re.compile(
    r"^(?P<comments>(?:#.*\n)*)(?P<name>\w+) = async_compile\.triton\('(?P<function>\w+)', '''(?P<source>[\s\S]*?)'''",
    re.MULTILINE,
)
ORIGINS = re.compile(r"Original ATen: \[(.*)\]")
LAUNCH = re.compile(
    r"(?:^|= )(?:(?P<triton>\w+)\.run|(?P<extern>extern_kernels\.\w+)|"
    r"torch\.ops\.(?P<op>\w+\.\w+)(?:\.\w+)?|(?P<aten>aten\.\w+)(?:\.\w+)?)\("
)
QUIET = re.compile(
    r"args\.clear|assert_|del |with torch\.cuda\._DeviceGuard|torch\.cuda\.set_device|\w+ = empty_strided_cuda|"
    r"(raw_)?stream0 = |\w+ = copy_if_misaligned|#|return |\w+ = \w+(; del \w+)?(  # reuse)?$|\w+ = \w+\[\d+\]$|"
    r"\w+ = reinterpret_tensor|[\w, ]+ = args$|def call|with |pass$"
)


@dataclass(frozen=True)
class Launch:
    """One call in generated code that puts work on the device."""

    kind: str  # ours, product, library, copy, cast, fused
    name: str


@dataclass(frozen=True)
class Trace:
    """A step: its compiled graphs, {name: graph}, and how often each operator was called outside of them."""

    graphs: dict[str, fake_device.Generated]
    operators: Counter[str]


def kind(name: str, comments: str) -> str:
    """What a generated Triton kernel does, by the ATen operators that the comments above it name."""
    if not name.startswith("triton_"):
        return "ours"
    origins = ORIGINS.search(comments)
    operators = (
        {origin.split(".")[1] for origin in origins[1].split(", ") if "." in origin} if origins else set()
    )
    if operators and operators <= MOVES:
        return "copy"
    if operators & CASTS and operators <= MOVES | CASTS:
        return "cast"
    return "fused"


def launches(code: str) -> tuple[list[Launch], list[str]]:
    """(launches in their order, lines that are neither launches nor known to be harmless) of generated code."""
    kinds = {match["name"]: kind(match["name"], match["comments"]) for match in DEFINITION.finditer(code)}
    body = re.split(r"\n(?=\S)", code[code.index("def call(") :])[0]
    found, unknown = [], []
    for line in filter(None, map(str.strip, re.split(r"\n", body))):
        match = LAUNCH.search(line)
        if match is None or line.startswith("#"):
            if not QUIET.match(line) and not line.startswith("self."):
                unknown.append(line)
        elif match["triton"]:
            found.append(Launch(kinds.get(match["triton"], "fused"), re.sub(r"_\d+$", "", match["triton"])))
        elif match["extern"]:
            found.append(Launch("product", match["extern"]))
        else:
            name = match["op"] or match["aten"]
            found.append(Launch("ours" if name.startswith("lmfast.") else "library", name))
    return found, unknown


def problems(name: str, graph: torch.fx.GraphModule, code: str) -> list[str]:
    """Operators that must not be in a step's compiled graph, one line each."""
    calls, unknown = launches(code)
    found = [f"{name}: unknown line in the generated code: {line[:90]}" for line in unknown]
    found += [
        f"{name}: {node.target} waits for the device"
        for node in graph.graph.nodes
        if node.op == "call_function" and SYNCS.search(str(node.target))
    ]
    found += [f"{name}: {call.name} copies a layout" for call in calls if call.kind == "copy"]
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and getattr(value, "dtype", None) == torch.float32 and value.dim() == 2:
            casts = [user for user in node.users if _dtype(user) not in (None, torch.float32)]
            copies = [user for user in node.users if "clone" in str(user.target)]
            if len(casts) > 1 or copies:
                found.append(f"{name}: {node.name} is cast {len(casts)} times and copied {len(copies)} times")
    return found


def _dtype(node: torch.fx.Node) -> torch.dtype | None:
    """The dtype that a cast makes, None for other operators."""
    if any(cast in str(node.target) for cast in CASTS):
        return getattr(node.meta.get("val"), "dtype", None)
    return None


class _Enough(Exception):
    """Ends `train_loop` where its batches end."""


class TwoBatches:
    """Batches of two steps: the first compiles, the operators of the second are counted."""

    def __init__(self, shape: tuple[int, int], device: fake_device.Device):
        self.rows, self.device = np.zeros(shape, np.int64), device

    def step(self, i: int) -> np.ndarray:
        if i == 2:
            raise _Enough
        self.device.counting = i == 1
        return self.rows


def _model(shape: ModelConfig) -> TransformerLM:
    """A model on the fake device, made without drawing its weights: torch 2.13's draws ask the device for numbers."""
    with torch.device("meta"):
        model = TransformerLM(shape)
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(torch.empty_like(p, device=fake_device.DEVICE)))
    if shape.tie_embeddings:
        model.head.weight = model.embedding.weight
    model.reset_tables()
    return model


def _graphs(names: list[str]) -> dict[str, fake_device.Generated]:
    """The graphs since the last call, which must be as many as there are names."""
    found = list(fake_device.generated)
    fake_device.generated.clear()
    if len(found) != len(names):
        raise SystemExit(f"bench.gpu_trace: {len(found)} graphs were compiled where {names} were expected")
    return dict(zip(names, found))


def trace_training(
    device: fake_device.Device, shape: ModelConfig, batch: int, attention: str = "auto"
) -> Trace:
    """Two steps of `train_loop`, bf16 by autocast, compiled; attention: whose (lmfast_kernels.backend.attention_choice)."""
    torch._dynamo.reset()
    device.operators.clear()
    with device, backend.use_choice("attention", attention):
        steps = OurSteps(
            _model(shape),
            TwoBatches((batch, shape.context_length + 1), device),
            fake_device.DEVICE,
            batch,
            True,
        )
        try:
            steps(100)
        except _Enough:
            device.counting = False
    if steps.loss_fn.graphs != 1:
        raise SystemExit(f"bench.gpu_trace: the loss was compiled {steps.loss_fn.graphs} times")
    return Trace(_graphs(["forward", "backward"]), Counter(device.operators))


def trace_decoding(device: fake_device.Device, shape: ModelConfig, batch: int) -> Trace:
    """A compiled decoding step and the greedy choice of the next ids, in bf16, as it is captured by a CUDA graph."""
    torch._dynamo.reset()
    device.operators.clear()
    with device, torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        decoder = TorchDecoder(_model(shape).eval(), batch, Sampling(0.0), compiled=True)
        decoder._advance()
        device.counting = True
        decoder._advance()
        device.counting = False
    return Trace(_graphs(["step"]), Counter(device.operators))


def counts(two: list[Launch], three: list[Launch], layers: int) -> list[tuple[str, str, int, int, int]]:
    """(kind, kernel, launches per layer, other launches, in a model of `layers` layers), from two and three layers."""
    a, b = Counter(two), Counter(three)
    rows = []
    for launch in dict.fromkeys([*two, *three]):
        each = b[launch] - a[launch]
        rows.append((launch.kind, launch.name, each, a[launch] - 2 * each, a[launch] + (layers - 2) * each))
    return rows


def listing(title: str, two: Trace, three: Trace, layers: int) -> list[str]:
    lines = [title, "=" * len(title)]
    for name in two.graphs:
        a, b = (launches(trace.graphs[name].code)[0] for trace in (two, three))
        rows = counts(a, b, layers)
        each, besides, total = (sum(row[i] for row in rows) for i in (2, 3, 4))
        lines += ["", f"{name}: {total} launches = {layers} layers x {each} + {besides}", ""]
        lines += [f"{'layer':>6}{'besides':>9}{f'{layers} layers':>11}  kind     kernel"]
        lines += [f"{e:6}{o:9}{n:11}  {k:9}{kernel}" for k, kernel, e, o, n in rows]
        lines += ["", "  in order, two layers:"]
        lines += [f"    {launch.kind:9}{launch.name}" for launch in a]
    lines += ["", "operators outside the compiled graphs:"]
    for operator in sorted(two.operators | three.operators):
        number, more = two.operators[operator], three.operators[operator]
        lines.append(
            f"    {number:4}  {operator}" + (f" (+ {more - number} a layer)" if more != number else "")
        )
    return [*lines, ""]


def compile_kernels(trace: Trace, seen: set[str]) -> list[aot.Compiled]:
    """Compiles each Triton kernel in a trace's generated code for sm_90, by Inductor's own precompilation."""
    from torch._inductor.codecache import PyCodeCache

    table = []
    for graph, generated in trace.graphs.items():
        for match in DEFINITION.finditer(generated.code):
            if match["source"] in seen:
                continue
            seen.add(match["source"])
            name = re.sub(r"_\d+$", "", match["name"])
            tuner = getattr(PyCodeCache.load(match["source"]), match["function"])
            tuner._precompile_worker()
            for result in tuner.compile_results:
                cubin, shared = result.kernel.asm["cubin"], result.kernel.metadata.shared
                found = *aot.resources(cubin), shared, 0, "-"
                table.append(aot.Compiled("sm_90", "inductor", graph, name, _config(result.config), *found))
    return table


def _config(config) -> str:
    """Tile sizes and warps of one of Triton's configurations."""
    sizes = " ".join(f"{name}={value}" for name, value in config.kwargs.items())
    return f"{sizes} warps={config.num_warps}".strip()


def listing_path() -> Path:
    """Where this torch's listing is kept: names of kernels differ between its releases."""
    return FOLDER / f"torch_{'.'.join(torch.__version__.split('.')[:2])}.txt"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_trace", description=__doc__.split("\n")[0])
    parser.add_argument("--save", action="store_true", help=f"keep the listing in {FOLDER.relative_to(ROOT)}")
    parser.add_argument("--compile", action="store_true", help="compile every Triton kernel for sm_90")
    parser.add_argument("--code", type=Path, help="write the generated code into this directory")
    options = parser.parse_args(arguments)
    if reason := fake_device.missing():
        print(f"bench.gpu_trace: {reason}", file=sys.stderr)
        return 2
    fake_device.restart()
    device = fake_device.Device()
    fake_device.pretend(device)
    make_deterministic(fake_device.DEVICE)
    settings = read_config(CONFIG)
    shape, batch = settings.model.resolved(), settings.optimizer.batch_size
    lines = [
        f"{CONFIG}, bf16, {fake_device.H100.name}, {listing_path().stem.replace('_', ' ')}",
        "Made by `python -m bench.gpu_trace --save`. Nothing here was measured.",
        "",
    ]
    found, table, seen = [], [], set()
    tokens = f"{batch} x {shape.context_length} tokens"
    steps: dict[str, tuple[str, Callable[[ModelConfig], Trace]]] = {
        "training": (f"Training step, {tokens}", lambda s: trace_training(device, s, batch)),
        "training_triton": (
            f"Training step with our attention, {tokens}",
            lambda s: trace_training(device, s, batch, "triton"),
        ),
        "decoding": (f"Decoding step, {DECODED} sequence(s)", lambda s: trace_decoding(device, s, DECODED)),
    }
    for step, (title, trace) in steps.items():
        two, three = (trace(replace(shape, num_layers=n)) for n in (2, 3))
        lines += listing(title, two, three, shape.num_layers)
        for name, generated in two.graphs.items():
            found += problems(f"{title.split(',')[0]}, {name}", generated.graph, generated.code)
            if options.code:
                options.code.mkdir(parents=True, exist_ok=True)
                (options.code / f"{step}_{name}.py").write_text(generated.code)
        if options.compile:
            table += compile_kernels(two, seen)
    print("\n".join(lines))
    for entry in table:
        print(
            f"{entry.registers:4} registers {entry.stack_bytes:4} bytes of stack {entry.shared_bytes / 1024:6.1f} KiB  "
            f"{entry.kernel} {entry.config}"
        )
        if not entry.sound:
            found.append(
                f"{entry.kernel} spills {entry.stack_bytes} bytes or needs {entry.shared_bytes} of shared memory"
            )
    print("\n".join(found) or "nothing wrong")
    if options.save:
        FOLDER.mkdir(parents=True, exist_ok=True)
        listing_path().write_text("\n".join(lines))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
