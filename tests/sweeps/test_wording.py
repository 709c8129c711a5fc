import math

from lmfast.sweeps.wording import metric_label, score_text, setting_text, shortened, values_text


def test_scores_have_four_decimals_and_missing_ones_a_dash():
    values = (1.23456, 0.0001234, 12345.6, None, math.nan, math.inf)
    assert [score_text(v) for v in values] == ["1.2346", "0.000123", "12,346", "–", "–", "–"]
    assert [score_text(v, signed=True) for v in (0.5, -0.5)] == ["+0.5000", "−0.5000"]


def test_settings_are_written_as_in_yaml():
    values = {True: "true", None: "null", 1e-5: "1e-05", 0.00123456: "0.001235", 2_000_000: "2,000,000"}
    for value, text in {**values, "muon": "muon", 3.0: "3", 1e4: "10,000", 1e12: "1e+12"}.items():
        assert setting_text(value) == text


def test_several_settings_in_a_line():
    values = {"lr": 0.1, "size": 8}
    assert values_text(values) == "lr 0.1, size 8"
    assert values_text(values, ["size", "absent"], named=False) == "8"
    assert values_text(values, named=False, separator=" · ") == "0.1 · 8"


def test_labels():
    assert metric_label("val_loss") == "validation loss" and metric_label("tasks/a_b") == "tasks/a_b"
    assert shortened("abcdef", 4) == "abc…" and shortened("abc", 4) == "abc"
