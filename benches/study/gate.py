"""The regression gate: figures of the short cut against margins. Everything in it is virtual time, so the same build gives
the same figures on every machine; no time is ever looked at."""

import json

# What a figure may lose against the day on which the margins were set, before the gate closes.
DISTANCE = {
    "energy over O3, %": 0.3,
    "energy over O3 at equal service, %": 0.3,
    "energy over the certified bound, %": 0.5,
    "saving against performance, % of O3's": -1.0,
    "misses, %": 0.1,
    "turned away, %": 0.1,
    "misses after a miss, %": 5.0,
    "accuracy less O3's, points": -0.1,
    "seconds above the trip": 0.0,
}


def figures_of(cell):
    percent = lambda ratio: 100.0 * (ratio.value() or 0.0)
    return {
        "energy over O3, %": percent(cell.over_o3),
        "energy over O3 at equal service, %": percent(cell.equal_o3),
        "energy over the certified bound, %": percent(cell.over_bound),
        "saving against performance, % of O3's": percent(cell.saving),
        "misses, %": percent(cell.misses),
        "turned away, %": percent(cell.rejected),
        "misses after a miss, %": percent(cell.again),
        "accuracy less O3's, points": cell.accuracy.value() or 0.0,
        "seconds above the trip": cell.trip_s,
    }


def hold(found, path, only_print):
    """Prints the figures beside their margins; 1 if one is not kept."""
    today = {
        f"{dimension}: {value}": figures_of(cells["wattd"])
        for (dimension, value), cells in found.cells.items()
        if dimension in ("all", "board", "deadline, noise") and cells["wattd"].pairs
    }
    if only_print:
        margins = {
            group: {name: round(value + DISTANCE[name], 3) for name, value in values.items()}
            for group, values in today.items()
        }
        print(json.dumps(margins, indent=1))
        return 0
    margins, broken = json.loads(path.read_text()), 0
    for group, limits in margins.items():
        for name, limit in limits.items():
            value = today.get(group, {}).get(name)
            more_is_worse = DISTANCE[name] >= 0.0
            kept = value is not None and (value <= limit + 1e-9 if more_is_worse else value >= limit - 1e-9)
            if not kept or group.startswith("all"):
                shown = "missing" if value is None else f"{value:.3f}"
                word = "at most" if more_is_worse else "at least"
                print(f"{'' if kept else 'NOT KEPT  '}{group}: {name} {shown}, {word} {limit:.3f}")
            broken += not kept
    print(f"study: {broken} of {sum(map(len, margins.values()))} margins not kept")
    return 1 if broken else 0
