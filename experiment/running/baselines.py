"""What becomes of baselines that are there already: reuse, retrain, or ask; stale ones are told."""

from __future__ import annotations

import sys
from typing import Any

from experiment.running.checkpoint import read_key
from experiment.running.console import Console
from experiment.running.store import Store
from experiment.suite.chains import Chain, Step


class UserQuitError(KeyboardInterrupt):
    """The user answered that nothing should run."""


def baselines_to_retrain(
    chains: list[Chain], store: Store, policy: str, console: Console
) -> set[str]:
    """Names of the baselines to compute anew though they are in the store.

    `policy` is 'ask', 'reuse' or 'retrain'; asking happens only on a terminal. Raises
    CheckpointError for a file under a baseline's name that is none, UserQuitError on 'quit'.
    """
    asking = policy == "ask" and sys.stdin.isatty() and sys.stdout.isatty()
    ready: dict[str, list[Step]] = {}
    stale: dict[str, list[str]] = {}
    for chain in chains:
        name, step = chain.experiment.name, chain.steps[0]
        if not chain.experiment.is_baseline:
            continue
        if store.has(step.key):
            ready.setdefault(name, []).append(step)
        else:
            differing = stale_settings(step, store)
            if differing is not None:
                stale[name] = differing
    for name, differing in stale.items():
        console.note(f"{name}: stale, it was trained with other settings: {', '.join(differing)}")
    if stale and asking and not _yes(console, "Train them anew? (the old ones stay in the store)"):
        raise UserQuitError
    retrain = set(ready) if policy == "retrain" else set()
    if asking:
        for name, steps in ready.items():
            record = store.record(steps[0].key)
            if record is None:
                continue
            accuracy = record["metrics"]["accuracy"]
            question = f"{name} is trained ({record['finished'][:10]}, {accuracy:.2f} %). Reuse it?"
            if not _yes(console, question):
                retrain.add(name)
    return retrain


def stale_settings(step: Step, store: Store) -> list[str] | None:
    """What differs between a baseline file and what the config now asks; None without a file."""
    path = store.folder / f"{step.checkpoint}.pth"
    if not path.exists():
        return None
    record = store.record(read_key(path))
    if record is None:
        return ["its record is missing"]
    old, new = _flat(record["settings"]), _flat(step.settings)
    return [
        f"{key}: {old.get(key)} → {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat.update(_flat(item, f"{prefix}{key}."))
        elif key == "source":
            flat[f"{prefix}{key}"] = str(item)[:12]
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _yes(console: Console, question: str) -> bool:
    try:
        return console.ask(question, default=True)
    except EOFError:
        raise UserQuitError from None
