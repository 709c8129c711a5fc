"""Colours of groups: those of reports for up to eight, a sequence of hues for more, in the order of the settings."""

from lmfast.training.plotting import COLOURS

ANCHORS = ("#1e40af", "#0e8a8a", "#3f8f1f", "#a67c00", "#e2580c", "#c81e4f", "#8b2fc9")
"""hues that are dark enough on white; neighbours in the sequence have similar ones"""


def group_colours(count: int) -> list[str]:
    """A colour for each of `count` groups."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [_mixed(i / (count - 1) * (len(ANCHORS) - 1)) for i in range(count)]


def _mixed(place: float) -> str:
    """The colour between two anchors."""
    left = min(int(place), len(ANCHORS) - 2)
    share = place - left
    channels = zip(_channels(ANCHORS[left]), _channels(ANCHORS[left + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in channels)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
