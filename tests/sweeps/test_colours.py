from lmfast.sweeps.colours import group_colours
from lmfast.training.plotting import COLOURS


def test_few_groups_have_the_colours_of_reports_and_many_have_a_sequence():
    assert group_colours(0) == [] and group_colours(3) == list(COLOURS[:3]) and len(group_colours(8)) == 8
    many = group_colours(30)
    assert len(set(many)) == 30 and all(len(colour) == 7 and int(colour[1:], 16) >= 0 for colour in many)


def test_all_colours_can_be_seen_on_white():
    for colour in group_colours(40):
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        luminance = sum(w * c**2.2 for w, c in zip((0.2126, 0.7152, 0.0722), (red, green, blue), strict=True))
        assert 1.05 / (luminance + 0.05) > 3, colour  # WCAG 2 for graphics
