"""Compiles every kernel without a GPU and reports registers, spills and instructions: `python -m lmfast_kernels.aot`.

Each case of aot_cases.py calls an operator's body on meta tensors while `backend.record` records the launches, so the
configuration and strides are those that dispatch would use on that architecture. Triton includes an assembler, so
no CUDA toolkit is needed. Out: a table (and --json) of registers per thread, bytes of stack (spilled registers),
instructions that access local memory (LDL, STL), shared memory, resident blocks per multiprocessor, and the matrix
instructions: HGMMA (Hopper), UTCHMMA (Blackwell) or HMMA (older, at most half of Hopper's rate).
Exit code 1 if a kernel spills more than SPILL_LIMIT bytes, has more than LOCAL_LIMIT local memory accesses, needs more
shared memory than a block can have, or reads a register that was never written (machine_code.py).

sm_120 (RTX 50) and, on request (--arch), sm_89 (RTX 40) use the tiles of sm_80, because their blocks have 99 KiB of
shared memory. `lmfast_kernels.check` measures the time of kernels.
"""

import argparse
import multiprocessing
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lmfast_kernels import backend
from lmfast_kernels.aot_cases import ARCHITECTURES, Case, cases
from lmfast_kernels.fp8_linear import E4M3, E5M2
from lmfast_kernels.json_file import write_json
from lmfast_kernels.machine_code import disassemble, instruction_counts, resources, unwritten_reads

DEFAULT = ("sm_80", "sm_90", "sm_100", "sm_120")
SHARED_PER_SM = {name: kib * 1024 for name, kib in zip(ARCHITECTURES, (164, 228, 228, 100, 100))}  # bytes
SHARED_PER_BLOCK = {name: size - 1024 for name, size in SHARED_PER_SM.items()}  # the opt-in maximum
WARPS_PER_SM = dict(zip(ARCHITECTURES, (64, 64, 64, 48, 48)))
SPILL_LIMIT = 32  # bytes of stack per thread, eight registers
LOCAL_LIMIT = 32  # instructions that load or store them: twice per register, in two copies of a loop
POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    E4M3: "*fp8e4nv",
    E5M2: "*fp8e5",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Compiled:
    """The compiler's result for one kernel in one configuration."""

    architecture: str
    operator: str
    label: str
    kernel: str
    config: str
    registers: int
    stack_bytes: int
    shared_bytes: int
    blocks_per_sm: int
    instructions: str
    local_accesses: int = 0
    unwritten_reads: int = 0

    @property
    def sound(self) -> bool:
        spills = self.stack_bytes > SPILL_LIMIT or self.local_accesses > LOCAL_LIMIT
        return (
            not spills
            and not self.unwritten_reads
            and self.shared_bytes <= SHARED_PER_BLOCK[self.architecture]
        )


def _signature(
    kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, str], dict[tuple[int], Any], dict[tuple[int], Any], dict[str, Any]]:
    """(types, constants, alignments, options), specialised as Triton's launcher does."""
    names = [parameter.name for parameter in kernel.params]
    bound = dict(zip(names, args)) | {name: value for name, value in kwargs.items() if name in names}
    options = {name: value for name, value in kwargs.items() if name not in names}
    types: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    alignments: dict[tuple[int], Any] = {}
    for i, parameter in enumerate(kernel.params):
        value = bound[parameter.name]
        if parameter.is_constexpr:
            types[parameter.name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            types[parameter.name], alignments[(i,)] = POINTERS[value.dtype], [["tt.divisibility", 16]]
        elif value == 1:
            types[parameter.name], constants[(i,)] = "constexpr", 1
        else:
            types[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                alignments[(i,)] = [["tt.divisibility", 16]]
    return types, constants, alignments, options


def compile_case(case: Case, architecture: str) -> list[Compiled]:
    """Compiles every kernel that the case launches."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    capability = ARCHITECTURES[architecture]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if case.tf32 else "highest")
    try:
        with backend.record(capability) as recording:
            case.launch()
    finally:
        torch.set_float32_matmul_precision(before)
    results = []
    for kernel, args, kwargs in recording.launches:
        if case.kernel not in (None, kernel.__name__):
            continue
        types, constants, alignments, options = _signature(kernel, args, kwargs)
        target = GPUTarget("cuda", capability[0] * 10 + capability[1], 32)
        compiled = backend.triton.compile(
            ASTSource(kernel, types, constants, alignments), target=target, options=options
        )
        registers, stack = resources(compiled.asm["cubin"])
        code = disassemble(compiled.asm["cubin"])
        found = instruction_counts(code)
        matrix = sorted(name for name in found if name.endswith("MMA"))
        warps, shared = compiled.metadata.num_warps, compiled.metadata.shared
        per_warp = -(-registers * 32 // 256) * 256  # registers are allocated in units of 256 per warp
        blocks = min(
            65536 // (per_warp * warps),
            SHARED_PER_SM[architecture] // (shared + 1024),
            WARPS_PER_SM[architecture] // warps,
            32,
        )
        config = {
            key: value for key, value in kwargs.items() if key.startswith(("BLOCK", "ROWS", "STAGES", "num_"))
        }
        text = " ".join(f"{key.removeprefix('BLOCK_').removeprefix('num_')}={v}" for key, v in config.items())
        results.append(
            Compiled(
                architecture, case.operator, case.label, kernel.__name__.strip("_").removesuffix("_kernel"),
                text, registers, stack, shared, blocks, "+".join(matrix) or "-", found["LDL"] + found["STL"],
                len(unwritten_reads(code)),
            )
        )  # fmt: skip
    return results


def _work(job: tuple[str | None, int, str]) -> list[Compiled]:
    only, index, architecture = job
    return compile_case(cases(only)[index], architecture)


def _row(entry: Compiled) -> str:
    if entry.unwritten_reads:
        remark = f"   <-- reads {entry.unwritten_reads} registers that were never written"
    else:
        remark = "" if entry.sound else "   <-- over the limit"
    return (
        f"{entry.architecture:7}{entry.kernel:23}{entry.config:35}{entry.registers:>4}{entry.stack_bytes:>6}"
        f"{entry.local_accesses:>6}{entry.shared_bytes / 1024:>6.1f}{entry.blocks_per_sm:>4}  {entry.instructions}"
        f"{remark}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lmfast_kernels.aot", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument(
        "--arch", action="append", choices=sorted(ARCHITECTURES), help=f"default: {', '.join(DEFAULT)}"
    )
    parser.add_argument("--only", choices=sorted(backend.CHOICES), help="one operator")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args(arguments)
    if backend.triton is None or backend.INTERPRETING:
        print("lmfast_kernels.aot: needs Triton; install it and unset TRITON_INTERPRET", file=sys.stderr)
        return 2
    jobs = [
        (options.only, index, architecture)
        for architecture in options.arch or DEFAULT
        for index, case in enumerate(cases(options.only))
        if architecture in case.architectures
    ]
    print(
        f"{'arch':7}{'kernel':23}{'configuration':35}{'regs':>4}{'stack':>6}{'local':>6}{'KiB':>6}{'/SM':>4}  matrix"
    )
    table, heading = [], ""
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(len(jobs), os.cpu_count() or 1)) as pool:
        for results in pool.imap(_work, jobs):
            for entry in results:
                if heading != (heading := f"{entry.operator}: {entry.label}"):
                    print(heading)
                print(_row(entry), flush=True)
                table.append(entry)
    unsound = [entry for entry in table if not entry.sound]
    print(
        f"{len(table)} kernels compiled, {len(unsound)} over {SPILL_LIMIT} bytes of spills or the shared memory limit, "
        "or with reads of registers that were never written"
    )
    if options.json is not None:
        write_json(options.json, [asdict(entry) for entry in table])
    return 1 if unsound else 0


if __name__ == "__main__":
    sys.exit(main())
