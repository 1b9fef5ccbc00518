"""From runs to figures with confidence intervals.

A *pair* is a board, a trace and a disturbance: every policy meets the same requests and the same luck in it. Figures are
means over pairs, or shares of requests; their intervals come from a bootstrap over the *traces*, since the pairs of one
trace have its requests in common.
"""

import random
from collections import defaultdict

RESAMPLES = 1_000
# A policy beats another in a pair if it takes less by so much, at no more misses, and is as accurate but for this.
BETTER, AS_ACCURATE = 0.01, 0.001
# See `comparable`.
O3_MAY_LOSE, SAME_ACCURACY = 0.01, 0.003


class Ratio:
    """A sum over a sum, by trace: a mean where the lower one counts, a share where it is of requests."""

    def __init__(self):
        self.by_trace = defaultdict(lambda: [0.0, 0.0])

    def add(self, trace, part, whole=1.0):
        sums = self.by_trace[trace]
        sums[0] += part
        sums[1] += whole

    @property
    def whole(self):
        return sum(sums[1] for sums in self.by_trace.values())

    @property
    def part(self):
        return sum(sums[0] for sums in self.by_trace.values())

    def value(self):
        return self.part / self.whole if self.whole else None

    def interval(self):
        """Value, and the 95 % interval of the percentile bootstrap; none from one trace."""
        value, sums = self.value(), list(self.by_trace.values())
        if value is None or len(sums) < 2:
            return value, None, None
        rng, found = random.Random(7), []
        for _ in range(RESAMPLES):
            drawn = rng.choices(sums, k=len(sums))
            whole = sum(one[1] for one in drawn)
            if whole:
                found.append(sum(one[0] for one in drawn) / whole)
        found.sort()
        return value, found[int(0.025 * len(found))], found[min(len(found) - 1, int(0.975 * len(found)))]


class Cell:
    """Figures of one policy over the pairs of a group."""

    NAMES = (
        "over_o3", "equal_o3", "above_idle", "over_bound", "misses", "rejected", "lost_of_o3", "again", "accuracy", "accuracy_share",
        "saving", "saved", "beats", "comparable",
    )  # fmt: skip

    def __init__(self):
        for name in self.NAMES:
            setattr(self, name, Ratio())
        self.pairs, self.requests, self.trip_s, self.tripped, self.peak_c = 0, 0, 0.0, 0, -273.15

    def add(self, trace, run, rest, wanting):
        """A run, beside those of other policies in the same pair."""
        self.pairs += 1
        self.requests += run["requests"]
        self.trip_s += run["seconds_above_trip"]
        self.tripped += run["seconds_above_trip"] > 0.0
        self.peak_c = max(self.peak_c, run["peak_milli_celsius"] / 1e3)
        self.again.add(trace, run["missed_after_miss"], run["after_miss"])
        performance, wattd = rest.get("performance"), rest.get("wattd")
        if performance:
            self.saved.add(trace, 1.0 - run["energy_uj"] / performance["energy_uj"])
        if "o3_energy_uj" not in run:
            return
        self.against_oracles(trace, run, wanting)
        if performance and lost(performance) <= 0.01 and lost(run) <= 0.01:
            saved = [1.0 - energy / performance["energy_uj"] for energy in (run["energy_uj"], run["o3_energy_uj"])]
            self.saving.add(trace, *saved)
        if wattd and wattd is not run:
            self.beats.add(trace, beats(run, wattd))

    def against_oracles(self, trace, run, wanting):
        served = comparable(run)
        self.comparable.add(trace, served)
        if served:
            self.energy(trace, run, wanting)
        self.misses.add(trace, run["feasible_misses"], run["oracle_feasible_requests"])
        self.rejected.add(trace, run["feasible_rejected"], run["oracle_feasible_requests"])
        o3_answers = run["oracle_feasible_requests"] - run["o3_misses"]
        self.lost_of_o3.add(trace, o3_answers - run["common_requests"], o3_answers)
        if run["common_requests"]:
            self.accuracy.add(trace, 100.0 * (run["common_accuracy"] - run["o3_common_accuracy"]))
            self.accuracy_share.add(trace, run["common_accuracy"] / run["o3_common_accuracy"])


    def energy(self, trace, run, wanting):
        own, o3 = run["common_energy_uj"], run["o3_common_energy_uj"]
        self.over_o3.add(trace, run["energy_uj"] / run["o3_energy_uj"] - 1.0)
        self.equal_o3.add(trace, own / o3 - 1.0)
        self.above_idle.add(trace, own / o3 - 1.0, 1.0 - run["idle_energy_uj"] / o3)
        if not wanting:
            # The bound serves everything to its floor: no measure for who is asked for more.
            self.over_bound.add(trace, run["energy_uj"] / run["bound_energy_uj"] - 1.0)


def comparable(run):
    """Whether energies of a run and of O3 can be held against each other: O3 did the work, to as good as the same
    accuracy."""
    if not run["common_requests"] or run["o3_misses"] > O3_MAY_LOSE * run["oracle_feasible_requests"]:
        return False
    return abs(run["common_accuracy"] - run["o3_common_accuracy"]) <= SAME_ACCURACY


def lost(run):
    """Share of the requests that can be served in time and were not."""
    return (run["feasible_misses"] + run["feasible_rejected"]) / max(1, run["oracle_feasible_requests"])


def beats(run, wattd):
    """Whether a policy did better than wattd: less energy at equal service, no more lost, as accurate."""
    if not (run["common_requests"] and wattd["common_requests"]):
        return False
    energy, other = (one["common_energy_uj"] / one["o3_common_energy_uj"] for one in (run, wattd))
    accurate = run["common_accuracy"] >= wattd["common_accuracy"] - AS_ACCURATE
    return energy < other * (1.0 - BETTER) and lost(run) <= lost(wattd) and accurate


class Figures:
    """Cells by group and policy, filled run by run."""

    def __init__(self):
        self.cells = defaultdict(lambda: defaultdict(Cell))
        self.beaten = []

    def add(self, trace, runs):
        """The runs of one invocation, of any number of pairs of one trace."""
        pairs = defaultdict(dict)
        for run in runs:
            pairs[run["board"], run["disturbance"] or "none"][run["policy"]] = run
        for (board, disturbance), by_policy in pairs.items():
            groups = [
                ("all", "all"),
                ("board", board),
                ("deadline, noise", f"{trace.tightness}, {trace.noise}"),
                ("arrivals", trace.kind),
                ("wanted accuracy", "the best" if trace.wanting else "the floor"),
                ("disturbance", disturbance),
            ]
            for policy, run in by_policy.items():
                for group in groups:
                    self.cells[group][policy].add(trace.index, run, by_policy, trace.wanting)
                wattd = by_policy.get("wattd")
                if wattd and run is not wattd and "o3_energy_uj" in run and beats(run, wattd):
                    self.beaten.append((board, trace.name, disturbance, policy, run, wattd))

    def cell(self, dimension, value, policy):
        return self.cells[dimension, value][policy]

    def values(self, dimension):
        return [value for found, value in self.cells if found == dimension]

    def policies(self):
        return list(self.cells["all", "all"])


def recoveries(rows, o3_rows, steps_s, idle_w):
    """After each step, how many requests passed until five in a row took no more than 1.05 times O3's energy, the idle
    board's between them included, without a miss that O3 did not have. `None` = not before the next step."""
    found = []
    ends = steps_s[1:] + [rows[-1]["arrival_us"] / 1e6 if rows else 0.0]
    for begin, end in zip(steps_s, ends):
        inside = [i for i, row in enumerate(rows) if begin * 1e6 <= row["arrival_us"] < end * 1e6]
        found.append(recovered(rows, o3_rows, inside, idle_w))
    return found


WINDOW = 5


def recovered(rows, o3_rows, inside, idle_w):
    for count, first in enumerate(inside[: len(inside) - WINDOW + 1]):
        window = range(first, first + WINDOW)
        if window[-1] + 1 >= len(rows):
            return None
        idle_uj = idle_w * (rows[window[-1] + 1]["arrival_us"] - rows[first]["arrival_us"])
        own, o3 = (sum(source[i]["energy_uj"] for i in window) + idle_uj for source in (rows, o3_rows))
        late = any(rows[i]["outcome"] != "served" and o3_rows[i]["outcome"] == "served" for i in window)
        if own <= 1.05 * o3 and not late:
            return count
    return None


def quantile(values, share):
    """The value that so large a share does not exceed; `None` counts as larger than all."""
    ordered = sorted(values, key=lambda value: (value is None, value or 0))
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
