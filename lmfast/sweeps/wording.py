"""Settings and values of a sweep as text."""

import json
from collections.abc import Iterable
from typing import Any

from lmfast.sweeps.groups import finite

METRICS = {
    "val_loss": "validation loss",
    "train_loss": "training loss",
    "bits_per_byte": "bits per byte",
    "tokens_per_second": "tokens per second",
}


def metric_label(metric: str) -> str:
    return METRICS.get(metric, metric)


def score_text(value: float | None, signed: bool = False) -> str:
    """A metric with four decimals, or three significant digits if it is small; a dash if there is none."""
    value = finite(value)
    if value is None:
        return "–"
    sign = "+" if signed else ""
    small, large = abs(value) < 0.001, abs(value) >= 1000
    text = f"{value:{sign},.0f}" if large else f"{value:{sign}.3g}" if small else f"{value:{sign}.4f}"
    return text.replace("-", "−") if signed else text


def setting_text(value: Any) -> str:
    """A setting as in YAML, with at most four significant digits and thousands separators."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and value.is_integer() and 1000 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def values_text(
    values: dict[str, Any], names: Iterable[str] | None = None, named: bool = True, separator: str = ", "
) -> str:
    """Several settings in one line. names: which of them. named: with their names."""
    chosen = [name for name in (values if names is None else names) if name in values]
    parts = [
        f"{name} {setting_text(values[name])}" if named else setting_text(values[name]) for name in chosen
    ]
    return separator.join(parts)


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
