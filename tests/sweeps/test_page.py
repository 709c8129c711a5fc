import dataclasses
import math
import re
import sys

import pytest

from lmfast.sweeps.page import write_page
from lmfast.sweeps.trials import Trial
from tests.sweeps.synthetic import ablation, learning_rate_sweep, scaling_sweep


def page_of(results, folder):
    write_page(results, folder / "page.html")
    return (folder / "page.html").read_text("utf-8")


def test_a_learning_rate_sweep(tmp_path):
    page = page_of(learning_rate_sweep(tmp_path), tmp_path)
    for text in (
        "28 trials: 23 complete, 5 diverged",
        "Lowest validation loss: <b>1.7577</b> (mean of 2 seeds) with <b>learning_rate 0.003, batch_size 32</b>",
        '<a href="trials/0012/report.html">report of trial 0012</a>',
        "Validation loss against learning_rate",
        "learning_rate: 0.003\nbatch_size: 32\n</pre>",
        "--total-tokens 8000000",
        "diverged or failed with some seeds only",
    ):
        assert text in page, text
    assert page.count("<svg") == 3 and page.count('role="img" aria-label=') == 3
    # Opens offline: only relative links to reports.
    links = re.findall(r"""(?:src|href)=["'](?!#)([^"']*)""", page)
    assert links and all(re.fullmatch(r"trials/\d{4}/report\.html", link) for link in links)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert not list(tmp_path.glob(".*partial"))


def test_equal_input_gives_equal_pages(tmp_path):
    results = learning_rate_sweep(tmp_path)
    assert page_of(results, tmp_path) == page_of(results, tmp_path)


def test_an_ablation_has_a_row_plot_and_differences(tmp_path):
    page = page_of(ablation(tmp_path), tmp_path)
    assert "difference from plain" in page and "validation loss of each group" in page
    assert "with <b>variant muon</b>" in page and "norm: muon\n</pre>" in page


def test_a_scaling_law_is_fitted_if_the_page_asks(tmp_path):
    pytest.importorskip("scipy")
    page = page_of(scaling_sweep(tmp_path / "a"), tmp_path)
    assert "L(N, D)" in page and "compute-optimal</text>" in page
    assert "Scaling law</h2>" not in page_of(scaling_sweep(tmp_path / "b", page={}), tmp_path)
    few = scaling_sweep(tmp_path / "c", sizes=1)
    assert "No fit. The law has five parameters" in page_of(few, tmp_path)


def test_many_settings_have_a_plot_each(tmp_path):
    results = learning_rate_sweep(tmp_path)
    trials = [
        dataclasses.replace(
            t, values={"learning_rate": t.values["learning_rate"], "w": t.number % 5, "on": True}
        )
        for t in results.trials
    ]
    page = page_of(dataclasses.replace(results, trials=trials, space={}), tmp_path)
    assert "Other settings" in page and "validation loss against w" in page


@pytest.mark.parametrize("count", [0, 1])
def test_a_sweep_that_has_just_begun(tmp_path, count):
    results = learning_rate_sweep(tmp_path)
    begun = [Trial(0, {"learning_rate": 1.0}, "running", tmp_path / "new", None)][:count]
    page = page_of(dataclasses.replace(results, trials=begun), tmp_path)
    assert (
        "No trial has completed" in page and ("1 running" in page) == bool(count) and "best.yaml" not in page
    )


def test_a_single_trial(tmp_path):
    results = learning_rate_sweep(tmp_path)
    page = page_of(dataclasses.replace(results, trials=results.trials[:1]), tmp_path)
    assert (
        "1 trial: 1 complete" in page and "seeds" not in page.split("<h2>Curves")[0] and "best.yaml" in page
    )


def test_missing_and_infinite_values_do_not_break_the_page(tmp_path):
    results = learning_rate_sweep(tmp_path)
    values = [math.nan, math.inf, -math.inf, None]
    odd = [dataclasses.replace(t, value=v) for t, v in zip(results.trials, values, strict=False)]
    more = Trial(
        90, {"learning_rate": math.nan, "batch_size": None, "seed": 0}, "complete", tmp_path / "x", 2.0
    )
    assert "1.7577" in page_of(
        dataclasses.replace(results, trials=[*odd, *results.trials[4:], more]), tmp_path
    )
    only = dataclasses.replace(results, trials=odd)
    assert "No trial has completed" in page_of(only, tmp_path)


def test_text_is_escaped_and_need_not_be_utf_8(tmp_path):
    results = dataclasses.replace(
        learning_rate_sweep(tmp_path), name="<b>$x$\udcff", metric="</pre>", settings={"d<": "<script>"}
    )
    page = page_of(results, tmp_path)
    assert (
        "<b>$x$" not in page
        and "</pre>\n" not in page.replace("</pre></div>", "")
        and "<script>\n<" not in page
    )
    assert page.count("<script>") == 1 and "d&lt;: &lt;script&gt;" in page


def test_without_matplotlib_the_tables_remain(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = page_of(scaling_sweep(tmp_path), tmp_path)
    assert "<svg" not in page and "matplotlib is not installed" in page and "best.yaml" in page
    assert page.count("<table") >= 2
