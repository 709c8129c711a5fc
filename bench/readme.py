"""README's section "How fast", made from the files in bench/results/ alone: `python -m bench.report --readme`.

In: those files. Out: Markdown between two markers of README.md: every comparison with a peer in the tables of targets, of
the suite's runs the training steps, and every row of a GPU that has a target, each with its file. Where two files hold
the same comparison the newer one is quoted; files of small sizes (--quick, no --full) never are. Rejected: results of
two machines in one table. A test holds README equal to this.
"""

from collections.abc import Sequence
from pathlib import Path

from bench import machine, results
from bench.results import Row, Run
from bench.table import duration
from lmfast.errors import UserError
from lmfast.files import atomic_write

README = machine.ROOT / "README.md"
BEGIN = "<!-- made by python -m bench.report --readme -->"
END = "<!-- end -->"
ORDER = ("tokenizer", "training", "generation")
ELSEWHERE = {"serving": "docs/guides/serve.md", "evaluation": "docs/guides/evaluate.md"}
"""tables that a page of the documentation quotes, with the machine that they were measured on"""
PROOFS = ("_quick", "_small")  # how names of files end whose sizes only prove that a table works


def newest(runs: Sequence[Run], judged: bool = False) -> list[tuple[Row, Run]]:
    """Each row with a peer, or where `judged` with a target, once: from the run that was measured last. Of the suite's
    rows those of training steps; the tokenizer and decoding have separate tables."""
    found: dict[tuple[str, str], tuple[Row, Run]] = {}
    for run in sorted(runs, key=lambda run: run.datetime):
        for row in run.rows:
            group = row.group or run.table
            quoted = (row.must, row.aim) != (None, None) if judged else row.peers
            if quoted and (run.table != "suite" or group == "training"):
                found["" if judged else group, row.name] = (row, run)
    return list(found.values())


def comparisons(runs: Sequence[Run]) -> list[tuple[str, Row, Run]]:
    """(table, row with a peer, its run) of everything that was measured on CPUs, in ORDER."""
    pairs = newest([run for run in runs if not run.machine["gpu"] and run.table not in ELSEWHERE])
    named = [(row.group or run.table, row, run) for row, run in pairs]
    return sorted(named, key=lambda entry: (*ORDER, entry[0]).index(entry[0]))


def link(run: Run) -> str:
    return f"[{run.machine['commit']}](bench/results/{run.source}.json)"


def section(runs: Sequence[Run]) -> str:
    """The text between the markers, which it includes."""
    found = comparisons(runs)
    if not found:
        raise UserError(
            f"{results.RESULTS}: holds no comparison with a peer; run python -m bench.tokenizer_table --full"
        )
    devices = {run.device for _, _, run in found}
    if len(devices) > 1:
        raise UserError(f"README quotes one machine, and bench/results has {' and '.join(sorted(devices))}")
    on_gpu = [run for run in runs if run.machine["gpu"]]
    lines = [
        BEGIN,
        f"Measured on {devices.pop()}; GPUs: {'see below' if on_gpu else 'not measured'}. Medians; the ratio says how many "
        "times as fast ours is, pair by pair in",
        "turns (quartiles). The last column is the commit that was measured, and the file with every time taken.",
        "",
        "| | ours | peer | ratio | from |",
        "|---|---|---|---|---|",
    ]
    for _, row, run in found:
        for peer in row.peers:
            r = peer.ratio
            spread = f" ({r.low:.2f}–{r.high:.2f})" if r.rounds > 1 else " (one round)"
            lines.append(
                f"| {row.name} | {duration(row.median)} | {peer.name} {duration(peer.seconds)} | "
                f"{r.median:.2f}{spread} | {link(run)} |"
            )
    return "\n".join([*lines, *gpu_lines(on_gpu), END])


def gpu_lines(runs: Sequence[Run]) -> list[str]:
    """A table for each GPU: every row with a target."""
    lines = []
    for device in dict.fromkeys(run.machine["gpu"] for run in runs):
        lines += ["", f"On one {device}, bf16; a target is what an H100 should reach:", ""]
        lines += ["| | measured | target | from |", "|---|---|---|---|"]
        for row, run in newest([run for run in runs if run.machine["gpu"] == device], judged=True):
            limit = "at most" if row.at_most else "at least"
            wanted, kind = (row.aim, "aim: ") if row.must is None else (row.must, "")
            target = f"{kind}{limit} " + (f"{wanted:,.0f}" if wanted >= 100 else f"{wanted:.3g}")
            target += "" if row.verdict in ("must", "aim", "-") else f", {row.verdict}"
            lines.append(f"| {row.name} | {row.shown} | {target} | {link(run)} |")
    return lines


def saved_results() -> list[Run]:
    """Every file in bench/results, but those of small sizes."""
    paths = sorted(results.RESULTS.glob("*.json"))
    return [results.read(path) for path in paths if not path.stem.endswith(PROOFS)]


def refresh(path: Path, text: str) -> None:
    """Replaces the text between the markers in the file. Raises UserError if they are missing."""
    whole = path.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path}: does not have the lines {BEGIN} and {END} around the section")
    with atomic_write(path) as temporary:
        temporary.write_text(before + text + after, encoding="utf-8")
