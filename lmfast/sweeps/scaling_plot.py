"""The plot of a scaling law: contours of equal loss over tokens and parameters, the trials, and the compute-optimal line."""

from collections.abc import Sequence
from typing import Any

from lmfast.sweeps.scaling_law import Point, ScalingLaw
from lmfast.training.plotting import add_legend, picture

SIZE, FONT = (4.7, 3.6), 9.5
FARTHEST = 30.0
MARGIN = 1.7  # factor between the outermost points and the edge
CELLS = 60  # of the grid in each direction


def scaling_plot(name: str, law: ScalingLaw, points: Sequence[Point]) -> str:
    """The picture. name: of the sweep."""
    label = "contours of equal loss over training tokens and parameters, with the compute-optimal line"

    def draw(axes: Any) -> None:
        import numpy as np
        from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

        (bottom, top), (left, right) = shown_ranges(law, points)
        tokens, parameters = np.geomspace(left, right, CELLS), np.geomspace(bottom, top, CELLS)
        losses = law.loss(*np.meshgrid(parameters, tokens, indexing="ij"))
        contours = axes.contour(tokens, parameters, losses, levels=9, colors="#9aa1a9", linewidths=0.9)
        axes.clabel(contours, fontsize=7.5, colors="#495057", fmt=lambda value: f"{value:.4g}")
        (seen,) = axes.plot(
            [p.tokens for p in points], [p.parameters for p in points], "o", ms=4.5, color="#2563eb", zorder=3
        )
        edges = np.geomspace(6 * left * bottom, 6 * right * top, 100)
        best = np.array([law.optimum(flops) for flops in edges])
        (line,) = axes.plot(best[:, 1], best[:, 0], color="#d9480f", lw=1.8)
        axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
        axes.set(xlabel="D, training tokens", ylabel="N, parameters")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(EngFormatter(sep=" "))
            axis.set_minor_formatter(NullFormatter())
        place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2}
        add_legend(axes, [(seen, "trials"), (line, "compute-optimal")], ncols=2, **place)

    return picture(f"{name}: scaling law", draw, label, SIZE, FONT)


def shown_ranges(law: ScalingLaw, points: Sequence[Point]) -> list[tuple[float, float]]:
    """The ranges of N and D: the trials and, within a factor of 30, the optima for the compute of the cheapest and the most
    expensive one."""
    costs = [6 * p.parameters * p.tokens for p in points]
    optima = [law.optimum(min(costs)), law.optimum(max(costs))]
    ranges = []
    for i in (0, 1):
        values = [point[i] for point in points]
        low, high = min(values), max(values)
        near = [min(max(optimum[i], low / FARTHEST), high * FARTHEST) for optimum in optima]
        ranges.append((min(low, *near) / MARGIN, max(high, *near) * MARGIN))
    return ranges
