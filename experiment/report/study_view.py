"""A study's JSON as the page shows it: the findings, the matrix of pairs, the ranking."""

from __future__ import annotations

from typing import Any

from experiment.report.rows import signed
from experiment.running.study_result import WORDS, ChainFigures, Pair, StudyResult, Written

ABOUT_ORDER = ("order", "undecided", "cycle")  # kinds of findings that the page begins with


def study_view(name: str, study: StudyResult) -> dict[str, Any]:
    """The study as plain data; a difference is first → second less second → first, in points."""
    in_pairs = (stage for pair in study.pairs for stage in (pair.first, pair.second))
    order = [finding.text for finding in study.findings if finding.kind in ABOUT_ORDER]
    return {
        "name": name,
        "findings": [finding.text for finding in study.findings],
        "headline": f"Study {name}, {'; '.join(order)}.",
        "legend": _legend(study.config.stages),
        "stages": list(dict.fromkeys([*study.order, *in_pairs])),
        "at_equal": [WORDS[cost] for cost in study.costs],
        "pairs": [_pair(pair, study.costs) for pair in study.pairs],
        "ratios": [WORDS[name] for name in study.shown_ratios],
        "ranking": [_chain(study, chain) for chain in study.ranking()],
        "confidence": study.method.confidence,
    }


def _pair(pair: Pair, costs: list[str]) -> dict[str, Any]:
    return {
        **pair.model_dump(include={"first", "second", "difference", "interval", "decided"}),
        "bound": pair.method == "dominance",
        "probability": pair.win_probability,
        "reason": pair.reason or "",
        "at": [pair.at(cost).text.replace("-", "−") for cost in costs],
        "wins": pair.won,
        "test": _signed(pair.test_difference),
    }


def _chain(study: StudyResult, chain: ChainFigures) -> dict[str, Any]:
    drop, test_drop = chain.accuracy_drop, chain.test.accuracy_drop
    return {
        "name": chain.name,
        "text": chain.text,
        "change": _signed(None if drop is None else -drop),
        "test_change": _signed(None if test_drop is None else -test_drop),
        "ratios": study.ratios(chain),
    }


def _signed(points: float | None) -> str:
    return "–" if points is None else signed(points)


def _legend(stages: dict[str, Written | list[Written]]) -> list[tuple[str, str]]:
    """What the letters stand for."""
    return [
        (letter, " → ".join(map(_stage, written if isinstance(written, list) else [written])))
        for letter, written in stages.items()
    ]


def _stage(item: Written) -> str:
    """A stage with its options: 'prune (ratio 0.4, mode structural)'."""
    name, options = (item, {}) if isinstance(item, str) else next(iter(item.items()), ("", {}))
    texts = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"{name} ({texts})" if texts else name
