"""Plots as SVG text, by string formatting alone: bars in groups, and lines."""

from collections.abc import Mapping, Sequence

Parts = tuple[float, float]  # of a bar: dark, light
Series = tuple[str, list[tuple[float, float]]]

_COLOURS = {
    "ours": "#c2410c",
    "nginx": "#15803d",
    "dovecot": "#1d4ed8",
    "haproxy": "#64748b",
    "imapproxy": "#a16207",
    "perdition2": "#7e22ce",
}
_WIDTH = 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 150, 125, 40, 44


def _svg(height: int, title: str, body: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{title}">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n'
        f'<text x="{_WIDTH / 2:.0f}" y="22" text-anchor="middle" font-size="15">{title}</text>\n'
    )
    return head + "".join(line + "\n" for line in body) + "</svg>\n"


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#1f2937") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = "#e5e7eb") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _rect(x: float, y: float, width: float, colour: str, opacity: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="12" fill="{colour}" '
        f'fill-opacity="{opacity}"/>'
    )


def _ticks(most: float, about: int = 6) -> list[float]:
    """Round numbers from 0 up to `most`."""
    step = 10.0 ** len(str(int(most / about or 1))) / 10
    while most / step > about:
        step *= 2 if str(int(step))[0] != "2" else 2.5
    return [step * n for n in range(int(most / step) + 1)]


def bars(title: str, groups: Sequence[tuple[str, Mapping[str, Parts | None]]], most: float) -> str:
    """Draws bars from left to right; one longer than `most` is cut, its number tells."""
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    body, y = [], float(_TOP)
    for name, each in groups:
        body.append(_text(12, y + 10, name))
        for peer, parts in each.items():
            if parts is None:
                continue
            colour, total = _COLOURS.get(peer, "black"), sum(parts)
            dark = min(parts[0], most) * scale
            light = min(total, most) * scale - dark
            body.append(_rect(_LEFT, y, dark, colour, 1))
            body.append(_rect(_LEFT + dark, y, light, colour, 0.45))
            cut = " →" if total > most else ""
            body.append(
                _text(_LEFT + dark + light + 5, y + 10, f"{peer} {total:.0f}{cut}", colour=colour)
            )
            y += 15
        y += 12
    grid = []
    for tick in _ticks(most):
        x = _LEFT + tick * scale
        grid += [_line(x, _TOP - 4, x, y), _text(x, y + 14, f"{tick:g}", "middle")]
    return _svg(int(y) + 24, title, [*grid, *body])


def lines(title: str, across: str, up: str, series: Sequence[Series]) -> str:
    """Draws a line for each series, its name at its end."""
    height, right = 420, _WIDTH - _RIGHT
    bottom = height - _BOTTOM
    most_x = max(x for _, points in series for x, _ in points)
    most_y = max(y for _, points in series for _, y in points)
    scale_x, scale_y = (right - 60) / most_x, (bottom - _TOP) / most_y
    body = []
    for tick in _ticks(most_y):
        y = bottom - tick * scale_y
        body += [_line(60, y, right, y), _text(54, y + 4, f"{tick:g}", "end")]
    for tick in _ticks(most_x, 9):
        x = 60 + tick * scale_x
        body += [_line(x, bottom, x, bottom + 4), _text(x, bottom + 17, f"{tick:g}", "middle")]
    body.append(_text((60 + right) / 2, height - 8, across, "middle"))
    body.append(
        f'<text transform="translate(14 {(bottom + _TOP) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{up}</text>'
    )
    ends: list[float] = []
    for name, points in sorted(series, key=lambda each: each[1][-1][1]):
        colour = _COLOURS.get(name, "black")
        at = [(60 + x * scale_x, bottom - y * scale_y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        width = 3 if name == "ours" else 1.7
        body.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        )
        x, y = at[-1][0] + 6, at[-1][1] + 4
        while any(abs(y - other) < 13 for other in ends):
            y -= 2
        ends.append(y)
        body.append(_text(x, y, name, colour=colour))
    return _svg(height, title, body)
