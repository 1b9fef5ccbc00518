"""Traces of the study: workloads, boards and disturbances, drawn from a seed and written as `wattctl simulate` reads them.

A trace says everything in units of the board it will meet: deadlines and rates are multiples of what one run of the
most accurate variant takes there at the highest clocks, so that the same trace asks as much of a fast board as of a
slow one. What that is, `wattctl simulate` says: see `calibrate`.
"""

import csv
import json
import math
import random
import re
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Seeds of the traces. Tests and tuning of the project use small seeds, `static-best` trains on seeds above a billion:
# the judged ones were never seen by either.
TUNED = range(1, 1_000)
JUDGED = range(700_000, 800_000)

SECONDS = 60.0
HOT_SECONDS = 600.0

# Deadline, as a multiple of one run of the most accurate variant at the highest clocks.
TIGHTNESS = {"tight": 1.4, "medium": 2.5, "loose": 6.0}
# Run-time noise: that of the board file, and 8 % with one late run in twenty.
NOISE = {"usual": None, "noisy": {"sigma": 0.08, "tail_probability": 0.05, "tail_min": 1.15, "tail_max": 1.5}}
KINDS = ("frames", "walk", "poisson", "bursts", "pair")
MOST_HZ = 40.0


@dataclass(frozen=True)
class Model:
    """A model that a workload names: its TOML, its ladder's accuracies, the best first."""

    name: str
    toml: str
    accuracies: tuple

    def floor(self, share):
        """The accuracy that so large a share of the ladder has."""
        ordered = sorted(self.accuracies, reverse=True)
        return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


@dataclass(frozen=True)
class Trace:
    """One trace, before it meets a board. `tightness`, `noise` and `kind` go through all combinations."""

    index: int
    seed: int
    tightness: str
    noise: str
    kind: str
    seconds: float = SECONDS
    # Share of the time that the most accurate variant would be running, from and to.
    load: tuple = (0.08, 0.45)
    # Whether it is `wanting` whatever its index.
    greedy: bool = False

    @property
    def wanting(self):
        """Whether its classes want the most accurate variant while it can be had, not only their floor."""
        return self.greedy or self.index // 2 % 2 == 1

    @property
    def name(self):
        return f"t{self.index:03}"


def trace(index, seeds=JUDGED, seconds=SECONDS):
    """The trace of an index: 3, 2 and 5 have no common factor, so 30 in a row have every combination once."""
    return Trace(
        index,
        seeds[index],
        tuple(TIGHTNESS)[index % 3],
        tuple(NOISE)[index % 2],
        KINDS[index % 5],
        seconds,
    )


def shipped(folder, name):
    """A model that comes with the project."""
    manifest = folder / name / "model.toml"
    accuracies = re.findall(r"^accuracy = ([0-9.]+)", manifest.read_text(), re.M)
    return Model(name, f'manifest = "{manifest}"\n', tuple(map(float, accuracies)))


def drawn_model(rng, name):
    """A ladder that nobody has seen: three to eight variants, each smaller and less accurate than the one before."""
    macs, traffic = rng.uniform(15e6, 45e6), rng.uniform(3e6, 15e6)
    accuracy = rng.uniform(0.75, 0.95)
    toml, accuracies = f'name = "{name}"\nmax_batch = {rng.choice([1, 4, 16])}\n', []
    for index in range(rng.randint(3, 8)):
        precision = rng.choice(["fp32", "fp16", "int8"])
        toml += (
            f'\n[[model.variant]]\nname = "v{index}"\naccuracy = {accuracy:.4f}\nmacs = {macs:.0f}\n'
            f'traffic_bytes = {traffic:.0f}\nprecision = "{precision}"\nfootprint_mb = {traffic / 1e6:.3f}\n'
        )
        if precision == "fp32":
            toml += 'units = ["cpu", "gpu"]\n'
        accuracies.append(round(accuracy, 4))
        accuracy -= rng.uniform(0.002, 0.025)
        shrink = rng.uniform(0.35, 0.85)
        macs, traffic = macs * shrink, traffic * shrink
    return Model(name, toml, tuple(accuracies))


def models_of(trace, folder):
    """Its models: the project's, or a ladder drawn for it."""
    rng = random.Random(f"{trace.seed} models")
    makers = [lambda: shipped(folder, "fashion"), lambda: shipped(folder, "crepe")]
    makers += [lambda: drawn_model(rng, "drawn")] * 2
    if trace.kind == "pair":
        return [shipped(folder, "fashion"), rng.choice([shipped(folder, "crepe"), drawn_model(rng, "drawn")])]
    return [rng.choice(makers)()]


def head(name, seconds, models):
    text = f'[workload]\nname = "{name}"\nseconds = {seconds}\n\n'
    return text + "".join(f"[[model]]\n{model.toml}\n" for model in models)


def calibrate(wattctl, folder, board, models):
    """Seconds of one run of each model's most accurate variant at the board's highest clocks: a median of twenty."""
    seconds = {}
    for model in models:
        workload, schedule = folder / "calibrate.toml", folder / "calibrate.csv"
        stream = '[[class]]\nname = "only"\nlatency_ms = 60000.0\n\n[[stream]]\narrival = "periodic"\nrate_hz = 0.5\n'
        workload.write_text(head("calibrate", 40.0, [model]) + stream)
        command = [wattctl, "simulate", "--board", board, "--workload", workload, "--policy", "performance"]
        command += ["--schedule", schedule, "--json", "--no-timing", "--quiet", "--jobs", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(schedule, newline="") as rows:
            runs = [int(row["finish_us"]) - int(row["start_us"]) for row in csv.DictReader(rows) if row["start_us"]]
        seconds[model.name] = statistics.median(runs) / 1e6
    return seconds


def rates(rng, mean_hz, seconds):
    """A random walk of the rate, second by second, that is drawn back to its mean."""
    level, out = rng.gauss(0.0, 0.3), []
    for _ in range(math.ceil(seconds)):
        level = max(-1.2, min(0.9, 0.9 * level + rng.gauss(0.0, 0.25)))
        out.append(mean_hz * math.exp(level))
    return out


def walk(rng, mean_hz, seconds):
    """Arrivals in microseconds: the rate walks, and every few seconds the manner of arriving changes."""
    rate, now, arrivals, until = rates(rng, mean_hz, seconds), 0.0, [], 0.0
    while now < seconds:
        if now >= until:
            manner, until = rng.choice(["periodic", "poisson", "bursts"]), now + rng.uniform(4.0, 15.0)
            size = rng.randint(2, 4) if manner == "bursts" else 1
        here = rate[min(len(rate) - 1, int(now))]
        arrivals += [round(now * 1e6)] * size
        gap = rng.expovariate(1.0) if manner == "poisson" else rng.uniform(0.9, 1.1)
        now += size * gap / here
    return [us for us in arrivals if us < seconds * 1e6]


def write_trace(path, name, arrivals):
    path.write_text("arrival_us,class\n" + "".join(f"{us},{name}\n" for us in arrivals))


def stream_of(trace, rng, path, name, mean_hz):
    """Keys of a [[stream]] that say when requests come."""
    if trace.kind in ("walk", "pair"):
        write_trace(path, name, walk(rng, mean_hz, trace.seconds))
        return f'arrival = "trace"\ntrace = "{path.name}"\n'
    rate = f"rate_hz = {mean_hz:.4f}\n"
    if trace.kind == "frames":
        return f'arrival = "periodic"\n{rate}jitter_ms = {rng.uniform(0.0, 0.2) * 1e3 / mean_hz:.3f}\n'
    if trace.kind == "bursts":
        return f'arrival = "bursts"\n{rate}burst = {rng.randint(2, 5)}\n'
    begin = rng.uniform(0.15, 0.65) * trace.seconds
    spike = f"[[stream.spike]]\nfrom_s = {begin:.2f}\nuntil_s = {begin + rng.uniform(3.0, 12.0):.2f}\n"
    return f'arrival = "poisson"\n{rate}{spike}factor = {rng.uniform(1.5, 3.0):.2f}\n'


def write_workload(trace, folder, models, run_s):
    """The workload of a trace for a board on which one run takes `run_s` seconds by model."""
    rng = random.Random(f"{trace.seed} workload")
    text, streams = head(trace.name, trace.seconds, models), ""
    load = rng.uniform(*trace.load) / len(models)
    for model in models:
        name, deadline_s = f"for-{model.name}", TIGHTNESS[trace.tightness] * run_s[model.name]
        floor, hard = rng.choice([0.4, 0.7, 1.0]), rng.random() < 0.5
        keys = f'[[class]]\nname = "{name}"\nmin_accuracy = {model.floor(floor)}\n'
        keys += "" if hard else f"latency_ms = {deadline_s * 1e3:.3f}\n"
        keys += f"accuracy_target = {max(model.accuracies)}\n" if trace.wanting else ""
        text += keys + ("rescue = false\n" if rng.random() < 0.15 else "") + "\n"
        mean_hz = min(MOST_HZ, load / run_s[model.name])
        begin = f'[[stream]]\nmodel = "{model.name}"\nclass = "{name}"\n'
        begin += f"deadline_ms = {deadline_s * 1e3:.3f}\n" if hard else ""
        path = folder / f"{trace.name}-{model.name}.csv"
        streams += begin + stream_of(trace, rng, path, name, mean_hz) + "\n"
    path = folder / f"{trace.name}.toml"
    path.write_text(text + streams)
    return path


def write_board(board, folder, noise):
    """A board file whose runs are that noisy."""
    text, values = board.read_text(), NOISE[noise]
    if values:
        text = re.sub(r"\[plant\.noise\][^\[]*", "", text)
        text += "\n[plant.noise]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
    path = folder / board.name
    path.write_text(text)
    return path


def event(at_s, what, to, **keys):
    value = json.dumps(to) if isinstance(to, str) else f"{to:.3f}"
    more = "".join(f"{key} = {json.dumps(v) if isinstance(v, str) else round(v, 3)}\n" for key, v in keys.items())
    return f'[[event]]\nat_s = {at_s:.2f}\nset = "{what}"\nto = {value}\n{more}\n'


def write_drawn(trace, folder):
    """A disturbance that nobody has seen: a few of all kinds, at any moment."""
    rng, text = random.Random(f"{trace.seed} disturbance"), ""
    for _ in range(rng.randint(4, 8)):
        at, lasting = rng.uniform(3.0, 50.0), rng.uniform(2.0, 15.0)
        kind = rng.choice(["contention", "contention", "tail", "ambient", "fan", "sensor", "actuator", "delay"])
        if kind == "contention":
            which, factor = rng.choice(["compute", "memory"]), rng.uniform(1.2, 3.0)
            over = {"over_s": min(lasting, rng.uniform(1.0, 8.0))} if rng.random() < 0.4 else {}
            text += event(at, f"contention_{which}", factor, for_s=lasting, **over)
        elif kind == "tail":
            text += event(at, "tail_probability", rng.uniform(0.03, 0.15), for_s=lasting)
        elif kind == "ambient":
            text += event(at, "ambient_c", rng.uniform(28.0, 45.0), over_s=rng.uniform(1.0, 10.0))
        elif kind == "fan":
            text += event(at, "fan", "failed")
        elif kind == "sensor":
            fault, target = rng.choice(["missing", "stuck", "enodata", "eio"]), rng.choice(["zone:*", "rail:*"])
            text += event(at, "sensor", fault, target=target, for_s=lasting)
        elif kind == "actuator":
            to = rng.choice(["refuse", "60%", "80%"])
            text += event(at, "actuator", to, target="*", for_s=lasting)
        else:
            text += event(at, "actuation_delay", rng.uniform(3.0, 12.0), for_s=lasting)
    path = folder / "drawn.toml"
    path.write_text(text)
    return path


def write_heat(board, folder):
    """Air that is warm enough for the board's heat to matter, and a fan that fails a minute later."""
    trip = min(float(found) for found in re.findall(r"^passive_c = ([0-9.]+)", board.read_text(), re.M))
    text = event(2.0, "ambient_c", trip - 32.0, over_s=20.0) + event(80.0, "fan", "failed")
    path = folder / "heat.toml"
    path.write_text(text)
    return path


def stepped(index, seeds=JUDGED):
    """Frames, so that the requests after a step can be counted."""
    return Trace(index, seeds[100 + index] if seeds is TUNED else seeds[10_000 + index], "medium", "usual", "frames")


def hot(index, seeds=JUDGED):
    """A trace for the heat."""
    seed = seeds[200 + index] if seeds is TUNED else seeds[20_000 + index]
    tightness, kind = ("medium", "loose")[index % 2], ("walk", "poisson", "frames")[index % 3]
    return Trace(index, seed, tightness, "usual", kind, HOT_SECONDS, load=(0.55, 0.85), greedy=True)


def measured(index, seeds=JUDGED):
    """VGG19 on the TX2."""
    seed = seeds[300 + index] if seeds is TUNED else seeds[30_000 + index]
    return Trace(index, seed, "period", "usual", "frames")


def write_measured(trace, folder):
    """The measured network every 80 to 333 ms, due before the next: the range in which its best clock was looked for."""
    period_ms = random.Random(f"{trace.seed} measured").uniform(80.0, 333.0)
    model = Model(
        "vgg19",
        'name = "vgg19"\nmax_batch = 1\n\n[[model.variant]]\nname = "vgg19"\naccuracy = 0.724\ngrid = "vgg19"\n'
        "footprint_mb = 575.0\n\n[memory]\ncap_mb = 2000\n",
        (0.724,),
    )
    text = head(trace.name, SECONDS, [model])
    text += f'[[class]]\nname = "frames"\nlatency_ms = {period_ms:.3f}\n\n'
    text += f'[[stream]]\narrival = "periodic"\nrate_hz = {1e3 / period_ms:.5f}\n'
    path = folder / f"{trace.name}.toml"
    path.write_text(text)
    return path
