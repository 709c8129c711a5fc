import re

from lmfast.training.plotting import add_legend, can_plot, interval_medians, picture


def test_a_long_series_becomes_a_curve_of_medians():
    xs, ys = interval_medians(list(range(20_000)), [9000 if i % 3 == 0 else 100 for i in range(20_000)])
    assert len(xs) == len(ys) == 200 and xs == sorted(xs) and set(ys) == {100}
    assert interval_medians([1, 2], [3, 4]) == ([1, 2], [3, 4]) and interval_medians([], []) == ([], [])


def test_a_picture_is_one_labelled_figure_with_no_id_of_another():
    assert can_plot()

    def draw(axes):
        (line,) = axes.plot([1, 2], [3, 4], marker="o", gid="class:g7")
        add_legend(axes, [(line, "_$x$")])

    first = picture("first", draw, label='loss & "rate"')
    second = picture("second", draw)
    assert first.startswith('<figure role="img" aria-label="loss &amp; &quot;rate&quot;">')
    assert first.count("<svg") == 1
    assert 'aria-label="second"' in second and ">_$x$</text>" in second
    ids = re.findall(r' id="([^"]*)"', first)
    assert ids and len(ids) == len(set(ids)) and not set(ids) & set(re.findall(r' id="([^"]*)"', second))
    assert first.count('class="g7"') == 1
    assert all(f"#{name}" in first for name in ids)
    assert first == picture("first", draw, label='loss & "rate"')
