"""Studies of the same stages from several baselines, beside one another: does the order depend on
the network? Terminal and page show the same table and the same sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiment.outcomes.study import StudyResult
from experiment.outcomes.verdicts import Pair, listed
from machine.files import canonical_json

OTHER_SIDE = {"first": "second", "second": "first"}


@dataclass(frozen=True)
class SideBySide:
    """Some studies: a column each, a row a pair of stages, and what that comes to."""

    baselines: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]  # 'P / Q', and what each study says of it
    said: str


def side_by_side(studies: Mapping[str, StudyResult]) -> list[SideBySide]:
    """Each group of `studies` (by name) that differ in their baselines alone."""
    groups: dict[bytes, dict[str, StudyResult]] = {}
    for study in studies.values():
        about = [study.config.model_dump()["stages"], study.compare, study.margin]
        if study.baseline.name is not None:
            groups.setdefault(canonical_json(about), {})[study.baseline.name] = study
    return [_beside(group) for group in groups.values() if len(group) > 1]


def _beside(group: Mapping[str, StudyResult]) -> SideBySide:
    names = {
        tuple(sorted((pair.first, pair.second))): None
        for study in group.values()
        for pair in study.pairs
    }
    rows, differing = [], []
    for first, second in names:
        found = {base: _turned(study, first, second) for base, study in group.items()}
        texts = [
            f"{pair.said(study)}: {pair.text(study.unit)}" if pair is not None else "–"
            for pair, study in zip(found.values(), group.values(), strict=True)
        ]
        rows.append((f"{first} / {second}", tuple(texts)))
        verdicts = {base: pair.verdict for base, pair in found.items() if pair is not None}
        if {"first", "second"} <= set(verdicts.values()):
            told = [
                f"{first if verdict == 'first' else second} first from {base}"
                for base, verdict in verdicts.items()
                if verdict in OTHER_SIDE
            ]
            differing.append(f"{first} / {second}: {listed(told)}")
    if differing:
        said = f"the order depends on the network: {'; '.join(differing)}"
    else:
        settled = sum(
            all(p is not None and p.verdict != "open" for p in found)
            for found in (
                [_turned(study, first, second) for study in group.values()]
                for first, second in names
            )
        )
        said = (
            "no pair of stages is settled one way from one network and the other way from another; "
            f"{settled} of {len(names)} are settled from each of them"
        )
    return SideBySide(tuple(group), tuple(rows), said)


def _turned(study: StudyResult, first: str, second: str) -> Pair | None:
    """A study's pair, with the stages in this order."""
    for pair in study.pairs:
        if (pair.first, pair.second) == (first, second):
            return pair
        if (pair.second, pair.first) == (first, second):
            interval, difference = pair.interval, pair.difference
            return pair.model_copy(
                update={
                    "first": first,
                    "second": second,
                    "verdict": OTHER_SIDE.get(pair.verdict, pair.verdict),
                    "difference": None if difference is None else -difference,
                    "interval": None if interval is None else (-interval[1], -interval[0]),
                }
            )
    return None
