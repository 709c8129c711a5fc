"""machine_code.py: counts, and reads of registers that were never written, in nvdisasm's output for sm_90."""

import pytest

from lmfast_kernels.machine_code import instruction_counts, unwritten_reads


def code(*instructions: str) -> str:
    lines = [
        f"        /*{16 * number:04x}*/                   {text} ;"
        for number, text in enumerate(instructions)
    ]
    return "\n".join(lines) + "\n"


# Of a kernel that stores FP8 values twice, as ptxas 12.8 assembles it: R3 ought to be the pair of which the second value
# is stored, but is never written.
WRONG = code(
    "S2R R0, SR_TID.X",
    "LDC.64 R18, c[0x0][0x218]",
    "@P1 LDG.E.128 R4, desc[UR12][R18.64]",
    "LOP3.LUT R3, R3, 0xffff, RZ, 0xc0, !PT",
    "F2FP.SATFINITE.E4M3.F32.PACK_AB_MERGE_C R4, R4, R5, R7",
    "SHF.R.U32.HI R3, RZ, 0x8, R3",
    "STS.U16 [R0+UR4], R3",
    "EXIT",
)


def test_reads_of_unwritten_registers_are_found():
    assert unwritten_reads(WRONG) == ["0030: LOP3.LUT R3, R3, 0xffff, RZ, 0xc0, !PT reads R3"]
    assert unwritten_reads(WRONG.replace("LOP3.LUT R3, R3, 0xffff", "LOP3.LUT R3, R4, 0xffff")) == []


@pytest.mark.parametrize(
    "instructions",
    [
        ("LDG.E.128 R4, desc[UR12][UR4.64]", "FADD R8, R4, R7"),
        ("LDG.E.64 R4, desc[UR12][UR4.64]", "FADD R8, R4, R5"),
        ("S2R R0, SR_TID.X", "IMAD.WIDE R2, R0, 0x4, RZ", "STG.E desc[UR4][R2.64], R0", "MOV R4, R3"),
        ("S2R R0, SR_TID.X", "SHFL.BFLY PT, R9, R0, 0x10, 0x1f", "FADD R9, R9, R0"),
        ("S2R R0, SR_TID.X", "HMMA.16816.F32.BF16 R8, R0, R0, RZ", "FADD R1, R8, R11"),
        ("S2R R4, SR_TID.X", "PRMT R52, R4, 0x7632, R52"),  # its upper half is never used
        ("LOP3.LUT R45, R45, 0xffffffbf, RZ, 0xc0, !PT",),  # one of several predicates in a register
    ],
)  # fmt: skip
def test_written_and_preserved_registers_are_accepted(instructions):
    assert unwritten_reads(code(*instructions)) == []


@pytest.mark.parametrize(
    ("instructions", "register"),
    [
        (("S2R R0, SR_TID.X", "STS.U16 [R0+UR4], R7"), "R7"),
        (("S2R R0, SR_TID.X", "STS.U16 [R3+UR4+0x80], R0"), "R3"),
        (("LDG.E.64 R4, desc[UR12][UR4.64]", "FADD R8, R4, R6"), "R6"),
        (("ISETP.GE.AND P0, PT, R5, UR4, PT",), "R5"),
        (("S2R R0, SR_TID.X", "@!P0 STG.E.128 desc[UR12][R2.64], R0"), "R2"),
    ],
)
def test_reads_of_stores_addresses_and_comparisons_count(instructions, register):
    (line,) = unwritten_reads(code(*instructions))
    assert line.endswith(f"reads {register}")


def test_instructions_are_counted_without_modifiers_and_predicates():
    assert instruction_counts(WRONG)["LDG"] == 1 and instruction_counts(WRONG)["LOP3"] == 1
    assert instruction_counts(code("@!UP0 HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24")) == {"HGMMA": 1}
