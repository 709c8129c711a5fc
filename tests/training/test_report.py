import json
import re
import sys

from lmfast.training.plotting import COLOURS
from lmfast.training.report import write_report


def make_run(folder, name, offset=0.0, floor=None):
    run = folder / name
    (run / "samples").mkdir(parents=True)
    lines = []
    for s in range(1, 31):
        line = {
            "step": s,
            "tokens": 10 * s,
            "seconds": s / 2,
            "train_loss": 5 / s + offset,
            "learning_rate": 1e-3,
        }
        line |= {"tokens_per_second": 1000 + s, "mfu": 0.4}
        lines.append(line | ({"val_loss": 5 / s + offset, "bits_per_byte": 1.0} if s % 5 == 0 else {}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = {"parameters": 1234567, "device": "A <CPU>", "peak_flops": 2e11, "peak_source": "measured"}
    (run / "run.json").write_text(json.dumps(facts | ({"floor_bits_per_byte": floor} if floor else {})))
    (run / "samples/step_00000030.txt").write_text("Once <b>upon</b> a time")
    (run / "config.yaml").write_text("d_model: 16\n")
    return run


def test_one_run(tmp_path):
    run = make_run(tmp_path, "one", floor=0.3)
    write_report([run], run / "report.html")
    page = (run / "report.html").read_text()
    assert page.count("<svg") == page.count("</svg>") == 6
    for text in (
        "1,234,567",
        "A &lt;CPU&gt;",
        "Once &lt;b&gt;upon",
        "d_model: 16",
        "floor 0.300",
        "0.1667",
        "40.0%",
        "<td>15 s</td>",
    ):
        assert text in page, text
    # Opens offline: nothing is fetched.
    assert not re.findall(r"""(?:src|href)=["'](?!#)[^"']*""", page)


def test_several_runs_side_by_side_and_repeatable(tmp_path):
    runs = [make_run(tmp_path, name, offset) for name, offset in (("a", 0.0), ("b", 1.0))]
    for output in ("x.html", "y.html"):
        write_report(runs, tmp_path / output)
    page = (tmp_path / "x.html").read_text()
    assert page == (tmp_path / "y.html").read_text()
    assert "Loss against steps (thin: training)" in page and "1.1667" in page
    assert page.count(">a</text>") == page.count(">b</text>") == page.count("<svg")  # a name a legend


def test_many_runs_are_rows_and_can_be_distinguished(tmp_path):
    """Common settings are shown once; the ninth run has the first one's colour, dashed."""
    runs = [make_run(tmp_path, f"run-{i}", offset=i / 10) for i in range(9)]
    facts = json.loads((runs[0] / "run.json").read_text()) | {"peak_flops": 3e11}
    (runs[0] / "run.json").write_text(json.dumps(facts))
    write_report(runs, tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    table = page[page.index("<table") : page.index("</table>")]
    assert page.count("A &lt;CPU&gt;") == 1 and "A &lt;CPU&gt;" not in table
    assert (
        table.count("<tr>") == 1 + 9 and table.count("200 GFLOP/s") == 8 and table.count("300 GFLOP/s") == 1
    )
    keys = re.findall(r'class="key" style="([^"]*)"></span>run-(\d)', table)
    assert len({key for key, _ in keys}) == 9 and keys[8][0] == f"border:2px dashed {COLOURS[0]}"


def test_runs_with_equal_names_are_shown_with_their_folders(tmp_path):
    runs = [make_run(tmp_path / name, "run") for name in ("a", "b")]
    write_report(runs, tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert f"</span>{runs[0]}</th>" in page and f"</span>{runs[1]}</th>" in page


def test_a_name_that_is_not_utf_8(tmp_path):
    write_report([make_run(tmp_path, "one\udcff")], tmp_path / "report.html")
    assert "one?" in (tmp_path / "report.html").read_text()


def test_tokens_have_units_on_their_axis(tmp_path):
    run = make_run(tmp_path, "one")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    more = [line | {"tokens": 100_000 * line["step"]} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in more))
    write_report([run], run / "report.html")
    page = (run / "report.html").read_text()
    assert ">2 M</text>" in page and "1e6" not in page


def test_a_run_without_metrics_yet(tmp_path):
    run = tmp_path / "new"
    run.mkdir()
    write_report([run], run / "report.html")
    assert "Nothing was logged yet" in (run / "report.html").read_text()


def test_without_matplotlib_the_tables_remain(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = make_run(tmp_path, "one")
    write_report([run], run / "report.html")
    page = (run / "report.html").read_text()
    assert "matplotlib is not installed" in page and "1,234,567" in page


def test_a_preference_run_shows_its_rewards(tmp_path):
    run = make_run(tmp_path, "dpo")
    names = ("rewards/accuracies", "rewards/margins", "logps/chosen")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {name: line["step"] / 30 for name in names}
        line |= {f"val_{name}": 0.5 for name in names if line["step"] % 5 == 0}
        line |= {"val_logps/chosen_change": -0.125} if line["step"] % 5 == 0 else {}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"stage": "dpo"}))
    write_report([run], run / "report.html")
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 9
    for text in (
        "held-out pairs ranked correctly</th><td>50.0%",
        "margin</th><td>0.500",
        "chosen answers</th><td>-12.5%",
    ):
        assert text in page, text
    assert "loss, mean over pairs" in page and "nats per token" not in page
    write_report([run, make_run(tmp_path, "base")], run / "both.html")
    assert "nats per token (dpo: mean over pairs)" in (run / "both.html").read_text()
    for title in ("Pairs ranked correctly", "Reward margin", "Log-probability of the chosen answers"):
        assert title in page


def test_only_losses_far_above_the_others_are_cut_off(tmp_path):
    run = make_run(tmp_path, "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for first, seen in ((0.7, True), (70.0, False)):
        for line in lines:
            line["train_loss"] = first if line["step"] == 1 else 0.7 - 0.02 * line["step"]
            line.pop("val_loss", None)
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_report([run], run / "report.html")
        assert (">0.7</text>" in (run / "report.html").read_text()) == seen


def lone_run(folder, name, lines):
    run = folder / name
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_a_short_run_stays_visible_next_to_a_long_one(tmp_path):
    """Among all points together, the short run's few would be omitted."""
    long = [{"step": s, "train_loss": 2 + 1 / s} for s in range(1, 2000)]
    short = [{"step": s, "train_loss": 7.0} for s in range(1, 30)]
    write_report([lone_run(tmp_path, "l", long), lone_run(tmp_path, "s", short)], tmp_path / "x.html")
    assert ">7</text>" in (tmp_path / "x.html").read_text()


def test_with_many_runs_the_legend_does_not_hide_the_curves(tmp_path):
    runs = [make_run(tmp_path, f"run-{i}", floor=0.25) for i in range(5)]
    write_report(runs, tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert ">run-0</text>" not in page and page.count(">floor 0.250</text>") == 1


def test_names_are_unchanged_in_the_legend(tmp_path, recwarn):
    """No maths between dollars, no name omitted, no warning about fonts that the browser has."""
    names = [r"$\frac{x$", "$x^2$", "_hidden", "短い"]
    write_report([make_run(tmp_path, name) for name in names], tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    for name in names:
        assert page.count(f">{name}</text>") == page.count("<svg"), name
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]


def test_one_step_is_a_visible_point(tmp_path):
    """A line has no fill, a marker has one."""
    line = {"tokens": 8, "seconds": 0.5, "train_loss": 2.0}
    for steps, marked in ((1, True), (2, False)):
        run = lone_run(tmp_path, f"of-{steps}", [line | {"step": s} for s in range(1, steps + 1)])
        write_report([run], tmp_path / "x.html")
        assert (f"fill: {COLOURS[0]}" in (tmp_path / "x.html").read_text()) == marked


def test_nan_losses_do_not_change_the_other_curve(tmp_path):
    """A run that diverged to NaN and infinity does not stretch the axis of the others."""
    good = [{"step": s, "train_loss": 50.0 if s == 1 else 2 + 1 / s} for s in range(1, 60)]
    bad = [{"step": s, "train_loss": float("nan") if s % 2 else float("inf")} for s in range(1, 60)]
    runs = [lone_run(tmp_path, "bad", bad), lone_run(tmp_path, "good", good)]
    write_report(runs, tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert ">nan</td>" in page and "2.0169" in page
    assert not re.findall(r">[1-5]0</text>", page.split("Curves")[1].split("step</text>")[1])


def test_invalid_metrics_and_samples_are_ignored(tmp_path):
    run = make_run(tmp_path, "run")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('[1]\n{"step": "many", "train_loss": null, "tokens": 301}\n')
    (run / "config.yaml").write_bytes(b"name: caf\xe9\n")
    (run / "samples/step_last.txt").write_text("not a step")
    (run / "samples/step_00000031.txt").write_bytes(b"caf\xe9")
    write_report([run], tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert "<td>30</td>" in page and "<td>301</td>" in page and page.count("caf\ufffd") == 2
    assert "not a step" not in page


def test_many_names_are_not_in_the_headline(tmp_path):
    names = [f"run-{i}" for i in range(5)]
    write_report([make_run(tmp_path, name) for name in names], tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert "<h1>5 runs</h1>" in page and "<title>5 runs</title>" in page
