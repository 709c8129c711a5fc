"""README's section "How fast", made of the files in bench/results/ and of nothing else: `python -m bench.report --readme`.

In: those files. Out: Markdown between two markers of README.md: every comparison with a peer in the tables of targets, and
of the suite's runs the training steps, each with the file that holds it. Where two files hold the same comparison the
newer one is quoted; files of small sizes (--quick, no --full) never are. Refused: results of two machines in one table,
and a file that does not say when it was measured.
A test holds README equal to this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import machine, saved
from bench.table import duration
from lmfast.errors import UserError
from lmfast.files import atomic_write

README = machine.ROOT / "README.md"
BEGIN = "<!-- made by python -m bench.report --readme -->"
END = "<!-- end -->"
QUOTED_OF_SUITE = ("training",)  # the tokenizer and decoding have tables of their own
ORDER = ("tokenizer", "training", "generation")
PROOFS = ("_quick", "_small")  # how names of files end whose sizes only prove that a table works


def newest(runs: Sequence[Mapping]) -> list[tuple[saved.Entry, Mapping]]:
    """(entry with a peer, its run), each name once, from the run that was measured last."""
    for run in runs:
        if not run.get("datetime"):
            raise UserError(
                f"{run['source']}.json: has no datetime, so what is newer is not known; measure again, or add the time"
            )
    found: dict[tuple, tuple[saved.Entry, Mapping]] = {}
    for run in sorted(runs, key=lambda run: run["datetime"]):
        for entry in saved.entries(run):
            quoted = not saved.is_suite(run) or entry.group in QUOTED_OF_SUITE
            if entry.peers and quoted:
                found[entry.group, entry.name] = (entry, run)
    return sorted(found.values(), key=lambda pair: (*ORDER, pair[0].group).index(pair[0].group))


def section(runs: Sequence[Mapping]) -> str:
    """The text between the markers, which it includes."""
    pairs = newest([run for run in runs if not saved.machine_of(run)["gpu"]])
    if not pairs:
        raise UserError(
            f"{saved.RESULTS}: holds no comparison with a peer; run python -m bench.tokenizer_table --full"
        )
    devices = {saved.device(run) for _, run in pairs}
    if len(devices) > 1:
        raise UserError(f"README quotes one machine, and bench/results has {' and '.join(sorted(devices))}")
    on_gpu = [run for run in runs if saved.machine_of(run)["gpu"]]
    gpu = "see below" if on_gpu else "not measured"
    lines = [
        BEGIN,
        f"Measured on {devices.pop()}; GPUs: {gpu}. Medians; the ratio says how many times as fast ours is, pair by pair in",
        "turns (quartiles). The last column is the commit that was measured, and the file with every time taken.",
        "",
        "| | ours | peer | ratio | from |",
        "|---|---|---|---|---|",
    ]
    for entry, run in pairs:
        for peer in entry.peers:
            r = peer.ratio
            spread = f" ({r['low']:.2f}–{r['high']:.2f})" if r["rounds"] > 1 else " (one round)"
            lines.append(
                f"| {entry.name} | {duration(entry.seconds)} | {peer.name} {duration(peer.seconds)} | "
                f"{r['median']:.2f}{spread} | "
                f"[{saved.machine_of(run)['commit']}](bench/results/{run['source']}.json) |"
            )
    return "\n".join([*lines, *gpu_lines(on_gpu), END])


def gpu_lines(runs: Sequence[Mapping]) -> list[str]:
    """A table for each GPU: every row with a target, each name from the run that was measured last."""
    found: dict[str, dict[str, tuple[Mapping, Mapping]]] = {}
    for run in sorted(runs, key=lambda run: run.get("datetime") or ""):
        for row in run.get("rows", []):
            if row["must"] is not None or row["aim"] is not None:
                found.setdefault(saved.machine_of(run)["gpu"], {})[row["name"]] = (row, run)
    lines = []
    for device, rows in found.items():
        lines += ["", f"On one {device}, bf16; a target is what an H100 should reach:", ""]
        lines += ["| | measured | target | from |", "|---|---|---|---|"]
        for row, run in rows.values():
            limit = "at most" if row["at_most"] else "at least"
            wanted, kind = (row["aim"], "aim: ") if row["must"] is None else (row["must"], "")
            told = f"{kind}{limit} " + (f"{wanted:,.0f}" if wanted >= 100 else f"{wanted:.3g}")
            told += "" if row["verdict"] in ("must", "aim", "-") else f", {row['verdict']}"
            commit = saved.machine_of(run)["commit"]
            lines.append(
                f"| {row['name']} | {row['shown']} | {told} | [{commit}](bench/results/{run['source']}.json) |"
            )
    return lines


def results() -> list[dict]:
    """Every file in bench/results, but those of small sizes."""
    return saved.read(path for path in sorted(saved.RESULTS.glob("*.json")) if not path.stem.endswith(PROOFS))


def refresh(path: Path, text: str) -> None:
    """Puts `text` where the markers are in the file. Raises UserError where they are not."""
    whole = path.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path}: does not have the lines {BEGIN} and {END} where the section belongs")
    with atomic_write(path) as beside:
        beside.write_text(before + text + after, encoding="utf-8")
