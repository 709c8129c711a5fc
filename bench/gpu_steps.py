"""The steps of `bash bench/gpu.sh`: which processes, with which limits. The limits of STEPS add up to MINUTES of gpu.py."""

from collections.abc import Sequence

from bench.gpu_jobs import Job, Step
from bench.gpu_smoke import CHECKS

ROWS = "faster", "ours", "peer", "fp8"  # of the whole step, those with targets first
OPTIONS = "faster", "window", "sdpa", "double", "loss-torch", "norm-torch", "rope-triton", "swiglu-triton"


def _warm(row: str) -> Job:
    return Job(f"warm-{row}", "bench.gpu_training", ("--warm", row), essential=False)


# While operators are checked, the steps that are timed later fill the caches of Inductor and Triton. Two steps of 124M at
# full batch and the checks fit a device of 80 GB, three do not.
WARM = (
    _warm("ours"),
    _warm("faster"),
    Job("warm-run", "bench.gpu_run", ("--warm",), essential=False),
    Job("text", "bench.tokenizer_scaling", ("--prepare",), essential=False),
)

STEPS: dict[str, Step] = {
    "correctness": Step(100, (Job("correctness", "bench.gpu_correctness", output="gpu_correctness.json"), *WARM)),
    "training": Step(165, (Job("training", "bench.gpu_training", ("--only", *ROWS), "gpu_training.json"),)),
    "kernels": Step(65, (
        Job("kernels", "lmfast_kernels.check", ("--what", "speed", "--quick"), "gpu_kernels.json", "--json"),
    )),
    "run": Step(55, (Job("run", "bench.gpu_run", ("--minutes", "0.45"), "gpu_run.json"),)),
    "decoding": Step(65, (Job("decoding", "bench.gpu_decoding", output="gpu_decoding.json"),)),
}  # fmt: skip

ON_REQUEST: dict[str, Step] = {
    "options": Step(110, (
        Job("options", "bench.gpu_training", ("--layers", "2", "--only", *OPTIONS), "gpu_training_options.json"),
    )),
    "warm": Step(110, tuple(map(_warm, ROWS[:2]))),
    "warm-others": Step(110, tuple(map(_warm, ROWS[2:]))),
    "scaling": Step(30, (Job("scaling", "bench.tokenizer_scaling", output="tokenizer_scaling.json"),)),
    "tiles": Step(55, (Job("tiles", "bench.gpu_tiles", output="gpu_tiles.json"),)),
    "profile": Step(
        150,
        (Job("profile", "bench.gpu_training", ("--profile", "--only", *ROWS), "gpu_profile.json"),),
    ),
    "recipes": Step(170, (Job("recipes", "bench.gpu_recipes", output="gpu_recipes.json"),)),
    "beyond": Step(
        500, (Job("beyond", "lmfast_kernels.check", ("--what", "correct"), "gpu_beyond.json", "--json"),)
    ),
    "whole-run": Step(500, (Job("whole-run", "bench.gpu_run", ("--minutes", "7.5"), "gpu_whole_run.json"),)),
}  # fmt: skip

SMOKE_LIMIT = 160


def smoke_steps(checks: Sequence[str] = ()) -> dict[str, Step]:
    """Every check, or only these."""
    jobs = tuple(Job(name, "bench.gpu_smoke", (name,)) for name in checks or CHECKS)
    return {"smoke": Step(SMOKE_LIMIT, jobs)}
