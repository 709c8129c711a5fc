"""Durations and sizes as text: "2 h 18 min", "41.2 kB"."""

from lmfast.counted import counted


def duration(seconds: float) -> str:
    """A duration in its two largest units.

    >>> [duration(s) for s in (0.2, 5.26, 303, 8300, 2e6, 1e9)]
    ['less than 1 s', '5.3 s', '5 min 3 s', '2 h 18 min', '23.1 days', '32 years']
    """
    if seconds < 1:
        return "less than 1 s"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    days = seconds / 86400
    return f"{days:.1f} days" if days < 2 * 365 else f"{days / 365:,.0f} years"


def about(seconds: float) -> str:
    """An estimated duration.

    >>> about(0.2), about(303)
    ('less than 1 s', 'about 5 min 3 s')
    """
    return duration(seconds) if seconds < 1 else f"about {duration(seconds)}"


def data_size(num_bytes: float) -> str:
    """A number of bytes with one decimal, in powers of 1000.

    >>> data_size(12), data_size(41_210), data_size(2e9)
    ('12 bytes', '41.2 kB', '2,000.0 MB')
    """
    if num_bytes >= 1e10:
        return f"{num_bytes / 1e9:,.1f} GB"
    if num_bytes >= 1e5:
        return f"{num_bytes / 1e6:,.1f} MB"
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes >= 1e3 else counted(round(num_bytes), "byte")
