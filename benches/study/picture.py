"""One static picture: energy against what is lost, a spot for each policy."""

import math
from html import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 640, 30, 400
# Losses below this share, in per cent, are drawn at the left edge; the axis is logarithmic.
LEAST = 0.01


def draw(spots):
    """`spots`: name, per cent of requests lost, per cent of energy over O3."""
    low, high = min(y for _, _, y in spots), max(y for _, _, y in spots)
    air = 0.05 * max(high - low, 1.0)
    low, high = low - air, high + air
    x = lambda lost: LEFT + (RIGHT - LEFT) * math.log10(min(max(lost, LEAST), 100.0) / LEAST) / math.log10(100.0 / LEAST)
    y = lambda over: BOTTOM - (BOTTOM - TOP) * (over - low) / (high - low)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for lost in (0.01, 0.1, 1.0, 10.0, 100.0):
        label = f"≤ {LEAST}" if lost == LEAST else f"{lost:g}"
        out.append(f'<path d="M{x(lost):.1f} {TOP}V{BOTTOM}" stroke="#ddd"/>')
        out.append(f'<text x="{x(lost):.1f}" y="{BOTTOM + 18}" text-anchor="middle">{label}</text>')
    step = 10.0 ** math.floor(math.log10(high - low))
    step = step / 2 if (high - low) / step < 4 else step
    for i in range(math.ceil(low / step), math.floor(high / step) + 1):
        out.append(f'<path d="M{LEFT} {y(i * step):.1f}H{RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(i * step) + 4:.1f}" text-anchor="end">{i * step:+g}</text>')
    out.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 20}" text-anchor="middle">requests missed or turned away, % (logarithmic)</text>')
    out.append(f'<text transform="translate(18 {(TOP + BOTTOM) / 2}) rotate(-90)" text-anchor="middle">energy over O3 at equal service, %</text>')
    out += names(sorted(spots, key=lambda spot: -spot[2]), x, y)
    return "\n".join([*out, "</svg>", ""])


def color(name):
    if name == "o3":
        return "#111"
    return "#c2410c" if name == "wattd" else "#d9a441" if name.startswith("wattd-") else "#4a6fa5"


def names(spots, x, y):
    """Spots, and their names in a column at the right, pushed apart and led to by a line."""
    out, last = [], TOP - 16.0
    place = []
    for spot in spots:
        last = max(last + 15.0, y(spot[2]))
        place.append(last)
    beyond = max(0.0, place[-1] - BOTTOM - 10.0)
    for index in reversed(range(len(place))):
        limit = place[index + 1] - 15.0 if index + 1 < len(place) else place[index] - beyond
        place[index] = min(place[index], limit)
    for (name, lost, over), at in zip(spots, place):
        out.append(f'<path d="M{x(lost):.1f} {y(over):.1f}L{RIGHT + 14} {at:.1f}" stroke="{color(name)}" stroke-opacity="0.25"/>')
        out.append(f'<circle cx="{x(lost):.1f}" cy="{y(over):.1f}" r="4.5" fill="{color(name)}"/>')
        weight = ' font-weight="bold"' if name == "wattd" else ""
        out.append(f'<text x="{RIGHT + 18}" y="{at + 4:.1f}" fill="{color(name)}"{weight}>{escape(name)}</text>')
    return out
