"""The house holds: imports point down only, and nothing heavy loads before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import cpu_seconds

ROOT = Path(__file__).resolve().parent.parent

# Package -> the packages it may import. Commands (lmfast/cli, modules directly in lmfast/, __main__) may import all of
# them, and are imported by none.
ALLOWED = {
    "lmfast_kernels": set(),
    "lmfast.sharding": set(),
    "lmfast.tokenizer": {"lmfast.sharding"},
    "lmfast.data": {"lmfast.tokenizer", "lmfast.sharding"},
    "lmfast.model": {"lmfast_kernels"},
    "lmfast.inference": {"lmfast.model", "lmfast.data", "lmfast.tokenizer"},
    "lmfast.training": {"lmfast.model", "lmfast.data", "lmfast.tokenizer", "lmfast_kernels"},
}
EVERYWHERE = {
    "lmfast.counted",
    "lmfast.errors",
    "lmfast.files",
    "lmfast.hardware",
    "lmfast.interrupts",
    "lmfast.streams",
    "lmfast.suggestions",
    "lmfast.units",
}
SETTINGS = {"lmfast.settings": {"lmfast.model"}}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "lmfast_kernels":
        return "lmfast_kernels"
    if parts[0] != "lmfast":
        return None
    name = ".".join(parts[:2])
    if parts[-1] == "__main__":
        return "command"
    return name if name in ALLOWED or name in EVERYWHERE or name in SETTINGS else "command"


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(path: Path) -> list[str]:
    relative = path.relative_to(ROOT).as_posix()
    own = room_of(
        relative.removeprefix("kernels/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    )
    if own == "command":
        return []
    allowed = (ALLOWED | SETTINGS).get(own, set()) | EVERYWHERE | {own}
    if own in ("lmfast.training", "lmfast.inference"):
        allowed = allowed | SETTINGS.keys()
    wrong = []
    for module in imported_modules(path):
        room = room_of(module)
        if room is not None and room not in allowed:
            wrong.append(f"{relative} ({own}) imports {module} ({room})")
    return wrong


def test_imports_point_down():
    files = [*ROOT.glob("kernels/**/*.py"), *ROOT.glob("lmfast/**/*.py")]
    wrong = [line for path in files if path != ROOT / "lmfast/__init__.py" for line in violations(path)]
    assert len(files) > 30
    assert not wrong, "\n".join(wrong)


def test_the_check_sees_an_upward_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "lmfast/model/layers.py"
    path.parent.mkdir(parents=True)
    path.write_text("def f():\n    from lmfast.training.loop import train_loop\n")
    assert violations(path) == [
        "lmfast/model/layers.py (lmfast.model) imports lmfast.training.loop.train_loop (lmfast.training)"
    ]


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lmfast", {"torch", "numba", "numpy"}),
        ("import lmfast.settings", {"torch", "numba"}),
        ("import lmfast.train, lmfast.generate, lmfast.quickstart", {"torch", "numba"}),
        (
            "import lmfast.training.sinks, lmfast.training.report, lmfast.training.loop, lmfast.data.stats",
            {"wandb", "matplotlib"},
        ),
        ("import lmfast.flops, lmfast.flops_output, lmfast.report", {"wandb", "matplotlib"}),
        ("import lmfast.tokenizer.bpe, lmfast.tokenizer.__main__", {"torch"}),
        (
            "import lmfast.data.batches, lmfast.data.token_file, lmfast.data.stories, lmfast.data.stories.builtin",
            {"torch"},
        ),
        ("import lmfast_kernels", {"lmfast"}),
    ],
)
def test_nothing_heavy_loads_before_it_is_used(statement, absent):
    assert not absent & modules_after(statement)


@pytest.mark.skipif(sys.platform == "win32", reason="no processor time of children on Windows")
def test_commands_answer_at_once():
    # README promises 0.2 s and 0.5 s; a loaded machine, whose caches are shared, gets twice that before this fails.
    assert cpu_seconds("-c", "import lmfast") < 0.4
    assert cpu_seconds("-m", "lmfast", "--help") < 0.4
    assert cpu_seconds("-m", "lmfast", "train", "--help") < 1.0


def test_public_names():
    import lmfast

    for name in lmfast.__all__:
        assert getattr(lmfast, name).__name__ == name
    modules = {path.stem for path in (ROOT / "lmfast").rglob("*.py")}
    assert not modules & set(lmfast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Tokeniser'"):
        _ = lmfast.Tokeniser


# The grammar's words and sentences: data, which tests/data/stories/test_corpus.py holds to their promises.
DATA_ONLY = {"words.py", "sentences.py", "plots_family.py", "plots_friends.py"}


# Parts split off a file for its length are tested where their face is.
FACE_OF = {
    "byte_characters": "formats",
    "gpt2_files": "formats",
    "tokenizer_json": "formats",
    "training": "bpe",
    "attention_forward": "attention",
    "aot_cases": "aot",
    "autograd": "attention",
    "json_file": "check",
    "attention_backward": "attention",
    "attention_blocks": "attention",
    "check_correct": "check",
    "check_speed": "check",
    "check_report": "check",
    "interfaces": "objectives",
    "post_training_settings": "post_training",
    "kernels": "decoder",
    "plan": "decoder",
    "task": "run",
    "vector_ir": "vectors",
}


def test_tests_mirror_the_code():
    """Every source file has its test file, in the same room."""
    missing = []
    for path in [*ROOT.glob("kernels/lmfast_kernels/*.py"), *ROOT.glob("lmfast/**/*.py")]:
        relative = path.relative_to(ROOT)
        if path.name == "__init__.py" or path.name in DATA_ONLY:
            continue
        room = (
            ROOT
            / "tests"
            / relative.parent.as_posix().removeprefix("lmfast").removesuffix("lmfast_kernels").strip("/")
        )
        stem = FACE_OF.get(path.stem, path.stem.strip("_"))
        if not any(room.rglob(f"test_{stem}.py")):
            missing.append(relative.as_posix())
    assert not missing
