"""Imports point down only, and nothing heavy is loaded before it is used."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.processes import assert_starts_within

ROOT = Path(__file__).resolve().parent.parent

# Package -> the packages it may import. Commands (lmfast/cli, modules directly in lmfast/, __main__) may import all of
# them, and none imports them.
ALLOWED = {
    "lmfast_kernels": set(),
    "lmfast.sharding": set(),
    "lmfast.tokenizer": {"lmfast.sharding"},
    "lmfast.data": {"lmfast.tokenizer", "lmfast.sharding"},
    "lmfast.model": {"lmfast_kernels"},
    "lmfast.inference": {"lmfast.model", "lmfast.data", "lmfast.tokenizer", "lmfast_kernels"},
    "lmfast.training": {"lmfast.model", "lmfast.data", "lmfast.tokenizer", "lmfast_kernels"},
    "lmfast.interop": {
        "lmfast.training",
        "lmfast.inference",
        "lmfast.model",
        "lmfast.data",
        "lmfast.tokenizer",
    },
    "lmfast.evaluation": {
        "lmfast.training",
        "lmfast.inference",
        "lmfast.interop",
        "lmfast.model",
        "lmfast.data",
        "lmfast.tokenizer",
    },
    "lmfast.sweeps": {"lmfast.training", "lmfast.model", "lmfast.data"},
    "lmfast.serving": {
        "lmfast.training",
        "lmfast.inference",
        "lmfast.model",
        "lmfast.data",
        "lmfast.tokenizer",
    },
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


def layer(module: str) -> str | None:
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
    own = layer(
        relative.removeprefix("kernels/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    )
    if own == "command":
        return []
    allowed = (ALLOWED | SETTINGS).get(own, set()) | EVERYWHERE | {own}
    if own in ("lmfast.training", "lmfast.inference", "lmfast.interop", "lmfast.sweeps"):
        allowed = allowed | SETTINGS.keys()
    wrong = []
    for module in imported_modules(path):
        target = layer(module)
        if target is not None and target not in allowed:
            wrong.append(f"{relative} ({own}) imports {module} ({target})")
    return wrong


def test_imports_point_down():
    files = [*ROOT.glob("kernels/**/*.py"), *ROOT.glob("lmfast/**/*.py")]
    wrong = [line for path in files if path != ROOT / "lmfast/__init__.py" for line in violations(path)]
    assert len(files) > 30
    assert not wrong, "\n".join(wrong)


def test_the_check_detects_an_upward_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "lmfast/model/layers.py"
    path.parent.mkdir(parents=True)
    path.write_text("def f():\n    from lmfast.training.loop import train_loop\n")
    assert violations(path) == [
        "lmfast/model/layers.py (lmfast.model) imports lmfast.training.loop.train_loop (lmfast.training)"
    ]


def modules_after(*statements: str) -> list[set[str]]:
    """The modules loaded after each statement, in one fresh process."""
    code = "import sys\n" + "".join(f"{statement}\nprint(*sys.modules)\n" for statement in statements)
    # With a GPU, lmfast_kernels needs torch._inductor.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return [set(line.split()) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "from lmfast import Tokenizer, train_bpe; t = Tokenizer({i: bytes([i]) for i in range(256)}, []);"
            "assert t.decode(t.encode('hello')) == 'hello'",
            {"torch", "numba", "numpy"},
        ),
        ("import lmfast.settings", {"torch", "numba"}),
        (
            "import lmfast.train, lmfast.generate, lmfast.quickstart, lmfast.inference.chat",
            {"torch", "numba"},
        ),
        ("import lmfast.tokenizer.training, lmfast.cli.tokenizer.commands", {"torch", "numba"}),
        (
            "import lmfast.data.batches, lmfast.data.token_file, lmfast.data.stories, lmfast.data.stories.builtin",
            {"torch"},
        ),
        ("import lmfast.serving.openapi, lmfast.serving.answers, lmfast.serving.metrics", {"torch", "numba"}),
    ],
)
def test_nothing_heavy_loads_before_it_is_used(statement, absent):
    (loaded,) = modules_after(statement)
    assert not absent & loaded


def test_what_loads_torch_loads_nothing_else_before_it_is_used():
    package, kernels, training, reports = modules_after(
        "import lmfast_kernels",
        "from lmfast_kernels.rope import rope\nassert lmfast_kernels.rope is rope and lmfast_kernels.swiglu",
        "import lmfast.training.sinks, lmfast.training.report, lmfast.training.loop, lmfast.data.stats",
        "import lmfast.flops, lmfast.flops_output, lmfast.report",
    )
    assert "torch" not in package and "torch" in kernels and not {"lmfast", "torch._dynamo"} & kernels
    assert not {"wandb", "matplotlib"} & training
    assert not {"wandb", "matplotlib"} & reports


def test_small_inputs_do_not_load_numba(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat<|endoftext|>" * 2000)
    (tmp_path / "run.py").write_text(
        "from lmfast import Tokenizer\n"
        "from lmfast.tokenizer.__main__ import main\n"
        "main('train --input text.txt --output tok --vocab-size 270'.split())\n"
        "main('encode --input text.txt --output ids.npy --tokenizer tok'.split())\n"
        "main('decode --input ids.npy --output again.txt --tokenizer tok'.split())\n"
        "tokenizer = Tokenizer.load('tok')\n"
        "ids = list(tokenizer.encode_iterable([open('text.txt').read()]))\n"
        "assert tokenizer.decode(ids) == open('text.txt').read() == open('again.txt').read()\n"
    )
    code = f"import os, runpy; os.chdir({str(tmp_path)!r}); runpy.run_path('run.py')"
    assert "numba" not in modules_after(code)[-1]


# Packages that are slow to load or optional: an import inside a function must be of one of these, or of a module
# that loads one which the importing module does not load.
SLOW = {
    "torch",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "triton",
    "numba",
    "numpy",
    "rich",
    "matplotlib",
    "wandb",
}
ABSENT_SOMEWHERE = {"fcntl", "msvcrt"} | {
    re.split(r"[<>=\[]", name)[0].replace("-", "_")
    for names in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ].values()
    for name in names
}


def module_name(path: Path) -> str:
    relative = path.relative_to(ROOT).as_posix().removeprefix("kernels/")
    return relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports_of(tree: ast.AST, known: set[str]) -> tuple[set[str], list[tuple[int, str]]]:
    """(modules imported at the top, (line, module) imported inside functions); imports for type checkers are omitted."""
    top: set[str] = set()
    inside: list[tuple[int, str]] = []

    def visit(node: ast.AST, in_function: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            names = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom) and child.module:
                full = [f"{child.module}.{alias.name}" for alias in child.names]
                names = [name if name in known else child.module for name in full]
            for name in names:
                inside.append((child.lineno, name)) if in_function else top.add(name)
            visit(
                child, in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            )

    visit(tree, False)
    return top, inside


def slow_packages(module: str, top: dict[str, set[str]], seen: set[str] | None = None) -> set[str]:
    """The slow or optional packages that importing `module` loads."""
    seen = set() if seen is None else seen
    if module in seen:
        return set()
    seen.add(module)
    if module not in top:
        parts = module.split(".")
        prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
        return prefixes & (SLOW | ABSENT_SOMEWHERE) | ({"torch"} if module == "safetensors.torch" else set())
    return set().union(*(slow_packages(name, top, seen) for name in top[module]))


def needless_imports(root: Path) -> list[str]:
    files = [*root.glob("kernels/**/*.py"), *root.glob("lmfast/**/*.py")]
    paths = {module_name(path): path for path in files}
    found = {name: imports_of(ast.parse(path.read_text()), set(paths)) for name, path in paths.items()}
    top = {name: imports[0] for name, imports in found.items()}
    return [
        f"{name}:{line} imports {target}"
        for name, (_, inside) in found.items()
        for line, target in inside
        if not slow_packages(target, top) - slow_packages(name, top)
    ]


def test_imports_inside_functions_save_time():
    """The rule is in CONTRIBUTING.md, "Imports"."""
    needless = needless_imports(ROOT)
    assert not needless, "\n".join(needless)


def test_the_check_detects_a_needless_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name, text in {
        "heavy": "import torch\nfrom lmfast.light import g",
        "light": "def g():\n    import json\n    import lmfast.heavy\n    import fcntl",
        "other": "import lmfast.heavy\ndef f():\n    from lmfast.heavy import g\n    import numba",
    }.items():
        (tmp_path / "lmfast").mkdir(exist_ok=True)
        (tmp_path / f"lmfast/{name}.py").write_text(text)
    assert sorted(needless_imports(tmp_path)) == [
        "lmfast.light:2 imports json",
        "lmfast.other:3 imports lmfast.heavy",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="no processor time of children on Windows")
def test_commands_start_fast():
    # README promises 0.2 s and 0.5 s; on a busy machine, whose caches are shared, the limit is twice that.
    assert_starts_within(0.4, "-c", "import lmfast")
    assert_starts_within(0.4, "-m", "lmfast", "--help")
    assert_starts_within(1.0, "-m", "lmfast", "train", "--help")


def test_public_names():
    import lmfast

    for name in lmfast.__all__:
        assert getattr(lmfast, name).__name__ == name
    modules = {path.stem for path in (ROOT / "lmfast").rglob("*.py")}
    assert not modules & set(lmfast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Tokeniser'"):
        _ = lmfast.Tokeniser


# The grammar's words and sentences: data, tested by tests/data/stories/test_corpus.py.
DATA_ONLY = {"words.py", "sentences.py", "plots_family.py", "plots_friends.py"}


# Files that are tested with another one: file → the file whose test covers it.
TEST_FILES = {
    "loss": "ranks",
    "projections": "layers",
    "functional": "tensor_model",
    "gradients": "tensor_model",
    "tensor_parts": "tensor_model",
    "two_dimensional": "tensor_parallel",
    "tensor_following": "tensor_parallel",
    "tensor_shards": "tensor_model",
    "following": "fsdp",
    "sharded": "fsdp",
    "sharded_muon": "fsdp",
    "sharded_state": "fsdp",
    "state": "run",
    "whole_weights": "fsdp",
    "activations": "memory",
    "byte_characters": "formats",
    "gpt2_files": "formats",
    "tokenizer_json": "formats",
    "training": "bpe",
    "attention_forward": "attention",
    "aot_cases": "aot",
    "autograd": "attention",
    "merge_tables": "merge_kernels",
    "answering": "app",
    "guard": "app",
    "http": "app",
    "model_decoder": "decode",
    "served_model": "app",
    "neutral_parameters": "parameters",
    "json_file": "check",
    "attention_backward": "attention",
    "attention_blocks": "attention",
    "check_correct": "check",
    "check_speed": "check",
    "check_report": "check",
    "gguf_vocabulary": "gguf",
    "hugging_face_config": "hugging_face",
    "hugging_face_tensors": "hugging_face",
    "safetensors_folder": "importing",
    "interfaces": "objectives",
    "intervals": "loop",
    "choosing": "running",
    "code_folder": "code_cache",
    "encode_summary": "encoding",
    "post_training_settings": "post_training",
    "optuna_objects": "study",
    "plan": "decoder",
    "run_messages": "run",
    "run_opening": "run",
    "run_plan": "loop",
    "step": "loop",
    "stop_signals": "run",
    "task": "run",
    "task_tokenizer": "task_model",
    "team": "attendance",
    "torch_weights": "weights",
}


# Files in lmfast/cli that do the work of a command are tested with the command.
COMMAND_PARTS = {
    "chatting": "chat",
    "evaluating": "evaluate",
    "evaluating_tasks": "evaluate_tasks",
    "generating": "generate",
    "opening": "generate",
    "post_training": "sft",
    "pretraining": "train",
    "prompts": "generate",
    "reporting_tokens": "report",
    "serving": "serve",
    "sweeping": "sweep",
}


def test_tests_mirror_the_code():
    """Every source file has its test file, in the same folder."""
    missing = []
    for path in [*ROOT.glob("kernels/lmfast_kernels/*.py"), *ROOT.glob("lmfast/**/*.py")]:
        relative = path.relative_to(ROOT)
        if path.name == "__init__.py" or path.name in DATA_ONLY:
            continue
        folder = (
            ROOT
            / "tests"
            / relative.parent.as_posix().removeprefix("lmfast").removesuffix("lmfast_kernels").strip("/")
        )
        stem = TEST_FILES.get(path.stem, path.stem.strip("_"))
        if relative.parent.as_posix() == "lmfast/cli" and path.stem in COMMAND_PARTS:
            folder, stem = ROOT / "tests", COMMAND_PARTS[path.stem]
        if not any(folder.rglob(f"test_{stem}.py")):
            missing.append(relative.as_posix())
    assert not missing


def defines_a_protocol(path: Path) -> bool:
    classes = [
        node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ClassDef)
    ]
    return any(
        re.match(r"(typing\.)?Protocol\b", ast.unparse(base)) for node in classes for base in node.bases
    )


def test_public_modules_are_type_checked_strictly():
    """Public modules: those in the API reference, and those that define a Protocol."""
    api = (ROOT / "docs/api/lmfast.md").read_text("utf-8")
    public = {
        f"{name.replace('.', '/')}.py" for name in re.findall(r"^::: (lmfast\..+)\.\w+$", api, re.MULTILINE)
    }
    assert "lmfast/model/config.py" in public
    public |= {p.relative_to(ROOT).as_posix() for p in ROOT.glob("lmfast/**/*.py") if defines_a_protocol(p)}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["basedpyright"]
    assert sorted(settings["strict"]) == sorted({"lmfast/__init__.py", *public})


def test_few_type_errors_are_ignored_and_each_has_a_reason():
    sources = [*ROOT.glob("kernels/**/*.py"), *ROOT.glob("lmfast/**/*.py")]
    lines = [line for path in sources for line in path.read_text("utf-8").splitlines()]
    ignores = [line for line in lines if re.search(r"#\s*(type|pyright):", line)]
    assert len(ignores) <= 20
    without = [line for line in ignores if not re.search(r"# pyright: ignore\[\w+\]  # \w+", line)]
    assert not without
