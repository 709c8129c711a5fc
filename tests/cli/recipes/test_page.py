"""recipe.html: stages, predictions against measurements, results, and text that is escaped."""

import re

from lmfast.cli.recipes.graph import steps_in_order
from lmfast.cli.recipes.page import write_page
from lmfast.cli.recipes.records import Record
from lmfast.cli.recipes.specification import read_recipe


def test_the_page(trained_run, tmp_path):
    (tmp_path / "r.yaml").write_text(
        f"about: a <b> model\nfolder: {tmp_path}\nstages:\n"
        f"  base: {{command: train, config: quickstart, out_dir: {trained_run}}}\n"
        "  text: {command: generate, checkpoint: $base}\n"
        "  gguf: {command: export, run: $base, format: gguf}\n"
    )
    recipe = read_recipe(str(tmp_path / "r.yaml"))
    steps = steps_in_order(recipe)
    (tmp_path / "text.txt").write_text("a story <|endoftext|>")
    done = Record({"x": 1}, finished=True, seconds=100.0, memory=10**9)
    done.predicted_seconds, done.predicted_memory = 110.0, 0.95e9
    records = {"base": done, "text": Record({"x": 1}, finished=True), "gguf": None}
    page = write_page(recipe, steps, records).read_text()
    assert "2 of 3 stages done" in page and "a &lt;b&gt; model" in page
    assert "(+10%)" in page and "(-5%)" in page and "1 min 40 s" in page and "1,000.0 MB" in page
    assert "a story &lt;|endoftext|&gt;" in page and "<td>not run</td>" in page
    assert re.search(r'href="[^"]*report.html"', page)
    assert f"lmfast serve {trained_run}" in page and "config: quickstart" in page
    assert page == write_page(recipe, steps, records).read_text()


def test_commands_quote_the_run(trained_run, tmp_path):
    run = tmp_path / "my run"
    run.symlink_to(trained_run)
    (tmp_path / "r.yaml").write_text(
        f"folder: {tmp_path}\nstages:\n  base: {{command: train, config: quickstart, out_dir: {run}}}\n"
    )
    recipe = read_recipe(str(tmp_path / "r.yaml"))
    page = write_page(recipe, steps_in_order(recipe), {"base": Record({"x": 1}, finished=True)})
    assert f"lmfast serve &#x27;{run}&#x27;" in page.read_text()
