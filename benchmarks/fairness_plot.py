"""Service curves as SVG: one row for each workload, one column for each scheduler."""

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = (
    "#0b7285",
    "#e8590c",
    "#5f3dc4",
    "#2b8a3e",
    "#c2255c",
    "#495057",
    "#1864ab",
    "#a61e4d",
    "#66a80f",
    "#862e9c",
)
WIDTH, HEIGHT, LEFT, TOP, GAP = 190, 130, 92, 46, 22
POINTS = 60

Curve = Sequence[tuple[float, float]]


def draw(rows: Mapping[str, Mapping[str, Mapping[str, Curve]]]) -> str:
    """The picture. `rows[workload][scheduler][tenant]`: (seconds, pool-seconds by weight) points."""
    columns = list(next(iter(rows.values())))
    width = LEFT + len(columns) * (WIDTH + GAP) + 10
    height = TOP + len(rows) * (HEIGHT + GAP + 34) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(
            LEFT, 16, "Service by weight (pool-seconds) over time: where it is fair, the lines are one", size=12
        ),
    ]
    for x, column in enumerate(columns):
        parts.append(_text(LEFT + x * (WIDTH + GAP), TOP - 10, column, size=12, weight="bold"))
    for y, (workload, panels) in enumerate(rows.items()):
        top = TOP + y * (HEIGHT + GAP + 34)
        highest = max((v for panel in panels.values() for curve in panel.values() for _, v in curve), default=1.0)
        for x, column in enumerate(columns):
            parts += _panel(LEFT + x * (WIDTH + GAP), top, panels[column], highest)
        parts.append(_text(4, top + 12, workload, size=11, weight="bold"))
        parts += _legend(top + HEIGHT + 28, list(panels[columns[0]]))
    return "\n".join([*parts, "</svg>\n"])


def _panel(left: float, top: float, curves: Mapping[str, Curve], highest: float) -> list[str]:
    last = max((curve[-1][0] for curve in curves.values() if curve), default=1.0) or 1.0
    parts = [
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="#f8f9fa" stroke="#ced4da"/>',
        _text(left + 3, top + 10, f"{highest:.0f}", size=8),
        _text(left + WIDTH - 30, top + HEIGHT + 10, f"{last:.0f} s", size=8),
    ]
    for n, curve in enumerate(curves.values()):
        points = " ".join(
            f"{left + WIDTH * time / last:.1f},{top + HEIGHT * (1 - value / (highest or 1)):.1f}"
            for time, value in curve[:: len(curve) // POINTS + 1]
        )
        colour = COLOURS[n % len(COLOURS)]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.4" points="{points}"/>')
    return parts


def _legend(y: float, names: Sequence[str]) -> list[str]:
    parts, x = [], float(LEFT)
    for n, name in enumerate(names):
        parts.append(f'<rect x="{x}" y="{y - 8}" width="10" height="4" fill="{COLOURS[n % len(COLOURS)]}"/>')
        parts.append(_text(x + 13, y - 3, name, size=9))
        x += 26 + 5.6 * len(name)
    return parts


def _text(x: float, y: float, text: str, *, size: int, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="#212529">{escape(text)}</text>'
