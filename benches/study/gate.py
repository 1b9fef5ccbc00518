"""The regression gate: the planner on a few short traces, against margins.

Everything is virtual time, so the same sources give the same figures on every machine, and no time is ever looked at.
What the oracles and `performance` did with these traces does not depend on the planner: gate.json has it, so that the gate
only runs the planner. It also says on which inputs that was, and one pair is asked anew to see that it still holds.
"""

import json

import figures

# What a figure may lose against the day on which the margins were set, before the gate closes.
DISTANCE = {
    "energy over O3, %": 0.3,
    "energy over the certified bound, %": 0.5,
    "saving against performance, % of O3's": -1.0,
    "misses, %": 0.1,
    "turned away, %": 0.1,
    "misses after a miss, %": 5.0,
    "accuracy less O3's, points": -0.1,
    "seconds above the trip": 0.0,
}
ORACLE = ("bound_energy_uj", "o3_energy_uj", "o3_misses", "oracle_feasible_requests", "idle_energy_uj")
STALE = "what the oracles said of these traces is of other {}; ask them again: benches/study/study --quick --refresh"


def pair_of(run):
    return f"{run['board']} {run['workload']} {run['disturbance'] or 'none'}"


def reference(runs):
    """What is known of each pair whatever the planner does, from runs of `performance` and `o3` with oracles."""
    pairs = {}
    for run in runs:
        pair = pairs.setdefault(pair_of(run), {})
        if run["policy"] == "o3":
            pair.update({key: run[key] for key in ORACLE}, o3_accuracy=run["accuracy_mean"])
        elif run["policy"] == "performance":
            pair["performance"] = [run["energy_uj"], figures.lost(run)]
    return pairs


def beside(run, pair):
    """A run of the planner alone, as if the oracles had been asked. Which requests were lost is not known, only how many:
    those that nobody can serve come off first."""
    beyond = run["requests"] - pair["oracle_feasible_requests"]
    lost = max(0, run["requests"] - run["served"] + late(run) - beyond)
    misses = min(run["misses"], lost)
    return {
        **run,
        **{key: pair[key] for key in ORACLE},
        "feasible_misses": misses,
        "feasible_rejected": lost - misses,
        "common_requests": min(run["served"], pair["oracle_feasible_requests"] - pair["o3_misses"]),
        "common_energy_uj": run["energy_uj"],
        "o3_common_energy_uj": pair["o3_energy_uj"],
        "common_accuracy": run["accuracy_mean"],
        "o3_common_accuracy": pair["o3_accuracy"],
    }


def late(run):
    """Requests answered after their time: every request is served, missed or rejected, and these are two of it."""
    return run["served"] + run["misses"] + run["rejected"] - run["requests"]


def performance(pair, like):
    """The run of `performance`, as far as it is needed."""
    energy, lost = pair["performance"]
    feasible = pair["oracle_feasible_requests"]
    return {**like, "policy": "performance", "energy_uj": energy, "feasible_misses": lost * feasible, "feasible_rejected": 0}


def collect(pieces, pairs):
    """Figures of the planner's runs, by trace, beside what is known of their pairs."""
    found = figures.Figures()
    for trace, runs in pieces:
        own = [beside(run, pairs[pair_of(run)]) for run in runs if run["policy"] == "wattd"]
        found.add(trace, own + [performance(pairs[pair_of(run)], run) for run in own])
    return found


def figures_of(cell):
    percent = lambda ratio: 100.0 * (ratio.value() or 0.0)
    values = {
        "energy over O3, %": percent(cell.over_o3) if cell.over_o3.whole else None,
        "energy over the certified bound, %": percent(cell.over_bound) if cell.over_bound.whole else None,
        "saving against performance, % of O3's": percent(cell.saving) if cell.saving.whole else None,
        "misses, %": percent(cell.misses),
        "turned away, %": percent(cell.rejected),
        "misses after a miss, %": percent(cell.again),
        "accuracy less O3's, points": cell.accuracy.value(),
        "seconds above the trip": cell.trip_s,
    }
    return {name: value for name, value in values.items() if value is not None}


def margins_of(found):
    """Today's figures, and how much of each may be lost."""
    return {
        group: {name: round(value + DISTANCE[name], 3) for name, value in values.items()}
        for group, values in groups(found).items()
    }


def groups(found):
    return {
        f"{dimension}: {value}": figures_of(cells["wattd"])
        for (dimension, value), cells in found.cells.items()
        if dimension in ("all", "board", "deadline, noise")
    }


def hold(found, margins):
    """Prints figures beside their margins: the overall ones, and those that are not kept. The number of the latter."""
    today, broken = groups(found), 0
    for group, limits in margins.items():
        for name, limit in limits.items():
            value, more_is_worse = today.get(group, {}).get(name), DISTANCE[name] >= 0.0
            kept = value is not None and (value <= limit + 1e-9 if more_is_worse else value >= limit - 1e-9)
            if not kept or group.startswith("all"):
                shown = "missing" if value is None else f"{value:.3f}"
                word = "at most" if more_is_worse else "at least"
                print(f"{'' if kept else 'NOT KEPT  '}{group}: {name} {shown}, {word} {limit:.3f}")
            broken += not kept
    print(f"study: {broken} of {sum(map(len, margins.values()))} margins not kept")
    return broken


def write(path, inputs, pairs, margins):
    """One pair a line, so that a change of few shows as few."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(pair)}" for name, pair in sorted(pairs.items()))
    text = f'{{\n "inputs": {json.dumps(inputs)},\n "margins": {json.dumps(margins, indent=2)},\n "pairs": {{\n{lines}\n }}\n}}\n'
    path.write_text(text)
