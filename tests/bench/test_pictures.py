"""README's pictures are made from the saved results and in sync with them."""

from bench import pictures


def test_the_bars_show_what_is_saved():
    assert (pictures.PICTURES / "bench.svg").read_text(encoding="utf-8") == pictures.benchmarks()


def test_the_report_shows_the_saved_run():
    """Coordinates depend on matplotlib's version, so the file names what it shows."""
    saved, drawn = (pictures.PICTURES / "report.svg").read_text(encoding="utf-8"), pictures.run_report()
    assert f"<!-- from {pictures.source_hash()} -->" in saved
    for text in (*pictures.CURVES, "floor 0.322"):
        assert f">{text}<" in saved and f">{text}<" in drawn
