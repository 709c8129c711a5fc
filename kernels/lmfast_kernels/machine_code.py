"""Inspects a cubin: registers, stack, instructions, and reads of registers that were never written.

In: the bytes of a cubin of any architecture. Uses cuobjdump and nvdisasm, which Triton includes.

A read of a register that no earlier instruction writes is a bug of the assembler, because Triton leaves nothing undefined:
ptxas 12.8 produces such reads if FP8 values are packed for one store and separated for another, and the second then
stores undefined values (docs/LOG.md, 2026-11-27). Tests on small inputs may not detect that.
"""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from lmfast_kernels import backend

_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\S*)\s*([^;]*);", re.MULTILINE)
_REGISTER = re.compile(r"(?<![\w.])R(\d+)\b")
_NO_RESULT = tuple(
    "BAR BMOV BRA CALL CCTL DSETP EXIT FSETP HSETP2 ISETP LDGSTS NANOSLEEP PLOP3 R2P R2UR RED RET ST SYNCS UBLK UTC UTMA "
    "WARPGROUP WARPSYNC".split()
)  # prefixes of the names of instructions without a result


def _tool(name: str, *options: str, cubin: bytes) -> str:
    """The output for a cubin of a CUDA toolkit program that Triton's package includes."""
    tool = Path(backend.triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [str(tool), *options, file.name], capture_output=True, text=True, check=True
        ).stdout


def resources(cubin: bytes) -> tuple[int, int]:
    """(registers per thread, bytes of stack per thread)."""
    report = _tool("cuobjdump", "--dump-resource-usage", cubin=cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report)
    if found is None:
        raise RuntimeError(f"cuobjdump's report has no register line: {report!r}")
    return int(found[1]), int(found[2]) + int(found[3])


def disassemble(cubin: bytes) -> str:
    """The machine code as text, one instruction per line."""
    code = _tool("nvdisasm", "-c", cubin=cubin)
    if not re.search(r"\bEXIT\b", code):
        raise RuntimeError(f"nvdisasm's output has no EXIT instruction: {code[:200]!r}")
    return code


def instruction_counts(code: str) -> Counter[str]:
    """The count of each instruction in disassembled code, without modifiers: {"HGMMA": 32, "LDL": 0, …}."""
    return Counter(operation.partition(".")[0] for _, operation, _ in _INSTRUCTION.findall(code))


def unwritten_reads(code: str) -> list[str]:
    """Instructions of disassembled code that read a register which no preceding instruction writes.

    Conservative: a write counts even if a predicate may skip it, and with the maximum width of its instruction; code is
    read in textual order. Ignores instructions that replace part of a register and keep the rest, which
    may be undefined: PRMT, and LOP3 if it sets or clears a single bit (predicates are stored this way).
    """
    written: set[int] = set()
    found = []
    for address, operation, operands in _INSTRUCTION.findall(code):
        registers = [int(number) for number in _REGISTER.findall(operands)]
        if not registers:
            continue
        name = operation.partition(".")[0]
        first = re.match(r"(?:U?P\w+,\s*)?R\d+\b", operands)  # SHFL and ATOM name a predicate first
        result = registers[0] if first and not name.startswith(_NO_RESULT) else None
        reads = registers if result is None else registers[1:]
        if name == "PRMT" or (name == "LOP3" and _changes_one_bit(operands)):
            reads = [register for register in reads if register != result]
        found += [
            f"{address}: {operation} {operands.strip()} reads R{register}"
            for register in reads
            if register not in written
        ]
        if result is not None:
            written.update(range(result, result + _width(name, operation)))
    return found


def _changes_one_bit(operands: str) -> bool:
    """Whether the constant of a LOP3 has one bit set, or all but one."""
    constant = re.search(r"\b0x([0-9a-f]+)\b", operands)
    value = int(constant[1], 16) if constant else 0
    return value.bit_count() in (1, 31)


def _width(name: str, operation: str) -> int:
    """Registers that an instruction may write."""
    if name.endswith("GMMA") or name in ("LDTM", "UTCLD"):
        return 256
    if name.endswith("MMA") or "128" in operation or name == "LDSM":
        return 4
    return (
        2
        if "64" in operation or "WIDE" in operation or name in ("CS2R", "LDC") or name.startswith("D")
        else 1
    )
