"""How long a deployed network takes: on every engine, and on its fastest beside its baseline's."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engines import ENGINES, kept
from engines.deployment_args import DeploymentArgs
from engines.network import EngineNetwork
from engines.trial import Trial, reference, tried
from machine import timing
from machine.timing import BLOCK_SECONDS, BUDGET_SECONDS, fitting, latencies
from methods.costs import count_macs
from methods.early_exit.exits import EarlyExitNetwork
from stages.deployment import Deployed
from stages.stage import StageError

AGREEING = 256  # images on which an engine is compared with the graph
LEAVING = 64  # images, at least, over which the time of one is averaged where some leave early
SHARE = 0.2  # of the time that a network is timed for, for each engine, to find the fastest
ENGINE_BLOCK = 0.01  # seconds that an engine is timed before the next has its turn
ENGINE_REST = 0.006  # seconds between: a runtime's idle threads wait actively for up to 5 ms
UNSTEADY = 2.0  # times: a median ratio whose 95 % interval is wider tells nothing
QUANTILES = ("median", "p95", "p99")
SCATTERED = 3.0  # times the median: a p95 beyond it is not the network's


class Race(NamedTuple):
    """What was found of a network's engines."""

    deployed: Deployed  # on the fastest engine of each batch size
    times: dict[str, Any]  # by batch size: 'inference_time_ms' of its metrics
    engines: dict[str, Any]  # by engine: what a trial found

    @property
    def fastest(self) -> dict[int, str]:
        """Batch size → engine, of those that were timed."""
        return fastest_engines(self.times)


@dataclass
class Rival:
    """The float baseline, which others are timed beside, on its own fastest engines."""

    deployed: Deployed
    fastest: dict[int, str] = field(default_factory=dict)  # by batch size; others are found


def fastest_engines(times: dict[str, Any]) -> dict[int, str]:
    """Batch size → engine, by the 'inference_time_ms' of a record."""
    return {int(batch.removeprefix("batch_")): time["engine"] for batch, time in times.items()}


def race(
    deployed: Deployed, args: DeploymentArgs, images: Tensor, rival: Rival | None = None
) -> Race:
    """The engines of `args` tried, those that agree with the graph timed in turn, and the fastest
    of each batch size timed in turn with the rival and with the network's own float form.

    Batches that would take longer than the time for it, by what an image alone takes, are left out.
    `images` are normalised, from all over a split: see `images_for`. Raises StageError where no
    engine runs the network as it should.
    """
    sizes = sorted(args.batch_sizes)
    with _threads(args.threads):
        trials = _trials(deployed, args, sizes, images)
        running = {t.name: deployed.of(t.parts) for t in trials if t.parts is not None}
        sizes_of = {trial.name: trial.sizes for trial in trials if trial.sizes}
        if _by_pytorch(deployed, args):
            running = {"eager": deployed}
        if not running:
            whys = "; ".join(f"{trial.name} {trial.found['left_out']}" for trial in trials)
            raise StageError(f"no engine runs this network as it should: {whys}")
        if rival is not None and set(sizes) - rival.fastest.keys():
            own = race(rival.deployed, args, images)
            rival.deployed, rival.fastest = own.deployed, own.fastest
        beside = _beside(deployed, rival)
        images = images[:: max(1, len(images) // max(LEAVING, *sizes))]
        times: dict[str, Any] = {}
        single = 0.0  # seconds that an image takes, in all networks together
        for size in sizes:
            if times and fitting(size * single) < 1:
                break
            able = {n: r for n, r in running.items() if n not in sizes_of or size in sizes_of[n]}
            found = times[f"batch_{size}"] = _at(size, deployed, able, beside, images)
            taken = [ms for name, ms in found.items() if name.endswith("median")]
            single = single or sum(taken) / 1e3 / size
        if running != {"eager": deployed}:
            deployed = _on_fastest(deployed, fastest_engines(times), args.threads, trials)
    return Race(deployed, times, {trial.name: trial.found for trial in trials})


def images_for(args: DeploymentArgs) -> int:
    """How many images `race` needs."""
    return max(AGREEING, *args.batch_sizes)


def in_turn(networks: Sequence[nn.Module], images: Tensor, size: int) -> list[dict[str, Any]]:
    """Milliseconds a batch of `size`: see `timed`; of all but the first 'speedup', how many times
    as long as the first they take, by the median of the rounds' ratios.

    It is None where the rounds do not agree on it: what took the processor then was other work. It
    is fair whatever else the machine does; a ratio to a time of another day is not.
    """
    found = timed(networks, images, size)
    for time in found:
        over, interval = time.pop("over_first"), time.pop("over_first_interval")
        time["speedup"] = over if _agreed(*interval) else None
    del found[0]["speedup"]
    return found


def timed(
    networks: Sequence[nn.Module], images: Tensor, size: int, seconds: float | None = None
) -> list[dict[str, Any]]:
    """Milliseconds a batch of `size` images, the networks in turn: see `timing.latencies`.

    What an image costs a network with exits depends on the image: batches of 1 are then all of
    `images`, one after another, or as many from all over as there is time for, and the figures
    those of one.
    """
    turns: dict[str, Any] = {"seconds": seconds}
    if len(networks) > 1:
        turns |= {"block": ENGINE_BLOCK, "rest": ENGINE_REST}
    if size > 1 or not any(isinstance(network, EarlyExitNetwork) for network in networks):
        return latencies(networks, images[:size], **turns)
    singles = [functools.partial(_one_by_one, network) for network in networks]
    once = latencies(singles, images[:1], seconds=BLOCK_SECONDS)
    count = fitting(sum(times["median"] for times in once) / 1e3)
    images = images[:: -(-len(images) // max(1, count))]
    count = len(images)
    found = latencies(singles, images, **turns)
    for times in found:
        times |= {name: times[name] / count for name in QUANTILES}
        times |= {"runs": times["runs"] * count, "images": count}
    return found


def _one_by_one(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(image) for image in images.split(1)])


def _trials(
    deployed: Deployed, args: DeploymentArgs, sizes: Sequence[int], images: Tensor
) -> list[Trial]:
    names = list(ENGINES) if args.engines == "auto" else args.engines
    if _by_pytorch(deployed, args):
        why = f"runs on the CPU, and the network on {deployed.device.type}"
        return [Trial(name, {"left_out": None if name == "eager" else why}, None) for name in names]
    expected = reference(deployed.programs, deployed.float_network, images[:AGREEING])
    trials = []
    for name in names:
        whys = {size: _why_not(name, deployed, size) for size in sizes}
        wanted = [size for size in sizes if args.engines != "auto" or whys[size] is None]
        if wanted:
            trials.append(tried(name, deployed.programs, wanted, args.threads, expected))
        else:
            trials.append(Trial(name, {"left_out": whys[sizes[-1]]}, None))
    return trials


def _why_not(engine: str, deployed: Deployed, size: int) -> str | None:
    """Why an engine that has to compile is not tried unless it is asked for by name."""
    if not ENGINES[engine].COMPILES or ENGINES[engine].unavailable() is not None:
        return None
    if len(deployed.programs) > 1:
        return "is not compiled for the parts between exits; name it in 'engines' to see"
    return kept.why_not(engine, _kind(deployed, size))


def _remember(deployed: Deployed, size: int, by_engine: dict[str, dict[str, Any]]) -> None:
    """Keep times where one of them took a compilation and rounds agree, so that the next may know
    better."""
    steady = all(_agreed(*time["over_first_interval"]) for time in by_engine.values())
    if steady and any(ENGINES[name].COMPILES for name in by_engine):
        times = {name: time["median"] for name, time in by_engine.items()}
        kept.remember(_kind(deployed, size), times)


def _agreed(least: float, most: float) -> bool:
    """Whether the ends of a ratio's interval tell the same."""
    return most < UNSTEADY * least


def _kind(deployed: Deployed, size: int) -> kept.Kind:
    precision = "int8" if deployed.state.quant is not None else deployed.state.precision
    macs = count_macs(deployed.float_network)[0]
    return kept.Kind(precision, size, torch.get_num_threads(), macs)


def _by_pytorch(deployed: Deployed, args: DeploymentArgs) -> bool:
    """Whether it runs as it is deployed: on a GPU, or where no other engine is asked for."""
    as_it_is = not any(isinstance(part, EngineNetwork) for part in deployed.parts)
    return as_it_is and (deployed.device.type != "cpu" or args.engines == ["eager"])


def _beside(deployed: Deployed, rival: Rival | None) -> dict[str, tuple[Deployed, dict[int, str]]]:
    """What a network is timed in turn with, and on which engines: 'float', 'baseline'."""
    found = {}
    if rival is not None:
        found["baseline"] = rival.deployed, rival.fastest
        if deployed.state.quant is not None:
            form = deployed.float_form
            found["float"] = form.on(rival.fastest), rival.fastest
    return found


def _at(
    size: int,
    deployed: Deployed,
    running: dict[str, Deployed],
    beside: dict[str, tuple[Deployed, dict[int, str]]],
    images: Tensor,
) -> dict[str, Any]:
    """The times of one batch size."""
    names = list(running)
    found: dict[str, Any] = {}
    if len(names) > 1:
        seconds = SHARE * timing.LATENCY_SECONDS
        times = timed([running[name].network for name in names], images, size, seconds)
        found = dict(zip(names, times, strict=True))
        _remember(deployed, size, found)
        found = {n: {name: time[name] for name in QUANTILES} for n, time in found.items()}
    fastest = min(names, key=lambda name: found[name]["median"]) if found else names[0]
    there = {what: side for what, side in beside.items() if size in side[1]}
    networks = [running[fastest].network, *(other.network for other, _ in there.values())]
    mine, *others = in_turn(networks, images, size)
    own = {name: mine[name] for name in QUANTILES}
    mine |= {"engine": fastest, "by_engine": found or {fastest: own}}  # as they raced
    for (what, (_, engines)), its in zip(there.items(), others, strict=True):
        mine[f"{what}_median"], mine[f"{what}_engine"] = its["median"], engines[size]
        mine["speedup" if what == "baseline" else "speedup_over_float"] = its["speedup"]
    return mine


def _on_fastest(
    deployed: Deployed, fastest: dict[int, str], threads: int | None, trials: list[Trial]
) -> Deployed:
    """The network by the fastest engines, as they were made ready for the trial."""
    on = deployed.on(fastest, threads)
    for trial in trials:
        for part, ready in zip(on.parts, trial.parts or [], strict=False):
            part.made.update(ready.made)  # type: ignore[union-attr, operator]
    return on


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def varying(times: dict[str, Any]) -> list[str]:
    """Says of latencies that scatter by several times that something else had the processor."""
    scattered = [
        f"p95 is {time['p95'] / time['median']:.1f} times the median at {name}"
        for name, time in times.items()
        if time["p95"] >= SCATTERED * time["median"]
    ]
    scattered += [
        f"{words} at {batch} cannot be told from rounds so different"
        for batch, time in times.items()
        for name, words in (
            ("speedup_over_float", "speedup over float"),
            ("speedup", "speedup over the baseline"),
        )
        if time.get(name, 1) is None
    ]
    if not scattered:
        return []
    cause = "other work was on the machine; take the times again with --remeasure when it is quiet"
    return [f"{', '.join(scattered)}: {cause}"]


def untimed(times: dict[str, Any], sizes: Sequence[int]) -> list[str]:
    """Which batch sizes `race` has left out, and why."""
    return [
        f"batches of {size} were not timed: by what one image takes, {BUDGET_SECONDS:.0f} s, the "
        "longest that timing a batch size may take, are too short for a median"
        for size in sizes
        if f"batch_{size}" not in times
    ]


def engine_warnings(engines: dict[str, Any]) -> list[str]:
    """Which engines were tried and left out, and which int8 layers ran in float."""
    found = []
    for name, trial in engines.items():
        if (trial["left_out"] or "").startswith(("failed", "disagrees", "computes none")):
            found.append(f"engine {name} is left out: it {trial['left_out']}")
        elif trial.get("float_instead"):
            layers, wanted = trial["float_instead"], trial["int8_layers_wanted"]
            found.append(
                f"engine {name} computes {len(layers)} of {wanted} int8 layers in float: "
                f"{', '.join(layers)}"
            )
    return found


def slow_warnings(times: dict[str, Any]) -> list[str]:
    """Where int8 does not pay, even on its fastest engine."""
    speeds = {name: time.get("speedup_over_float") for name, time in times.items()}
    slow = {name: speed for name, speed in speeds.items() if speed is not None and speed < 1}
    if not slow:
        return []
    told = ", ".join(f"{speed:.2f} at {name}" for name, speed in slow.items())
    return [
        f"int8 speed over its own float form, each on its fastest engine: {told}; the network is "
        "so small, or this processor's int8 so little faster, that rounding costs more than it "
        "saves"
    ]
