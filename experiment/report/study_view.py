"""A study's JSON as the page shows it: the findings, the matrix of pairs, rounds, the ranking."""

from __future__ import annotations

from typing import Any

from experiment.outcomes.study import WORDS, ChainFigures, StudyResult, Written
from experiment.outcomes.verdicts import DIGITS, Pair, interval_text
from experiment.report.rows import signed
from experiment.report.study_rounds import round_pictures

BEFORE_HEADLINES = ("order", "undecided", "cycle")  # what files said first that have no headline
IN_TABLES = ("verification", "literature")  # kinds of findings that stand above a table of theirs


def study_view(name: str, study: StudyResult) -> dict[str, Any]:
    """The study as plain data; a difference is first → second less second → first."""
    in_pairs = (stage for pair in study.pairs for stage in (pair.first, pair.second))
    headline = _headline(study)
    told = [finding for finding in study.findings if finding.text != headline]
    return {
        "name": name,
        "headline": f"Study {name}: {headline}",
        "lead": headline,
        "findings": [finding.text for finding in told if finding.kind not in IN_TABLES],
        "legend": legend(study.config.stages),
        "stages": list(dict.fromkeys([*study.order, *in_pairs])),
        "at_equal": [WORDS[cost] for cost in study.costs],
        "pairs": [_pair(pair, study) for pair in study.pairs],
        "unit": study.unit,
        "digits": DIGITS[study.unit],
        "compare": study.compare,
        "judged": study.margin is not None,
        "margin": study.margin_text,
        "rounds": round_pictures(study),
        "whole": _whole(study),
        "claims": _claims(study),
        "ratios": [WORDS[name] for name in study.shown_ratios],
        "ranking": [_chain(study, chain) for chain in study.ranking()],
        "confidence": study.method.confidence,
    }


def _headline(study: StudyResult) -> str:
    kinds = [finding.kind for finding in study.findings]
    if "headline" in kinds:
        return study.findings[kinds.index("headline")].text
    return "; ".join(f.text for f in study.findings if f.kind in BEFORE_HEADLINES) + "."


def _pair(pair: Pair, study: StudyResult) -> dict[str, Any]:
    sure = pair.sure_interval
    return {
        **pair.model_dump(include={"first", "second", "difference", "verdict"}),
        "interval": sure or pair.interval,
        "bound": pair.method == "dominance",
        # Of one pair by itself, which beside a verdict on all together would mislead.
        "probability": pair.win_probability if sure is None else None,
        "said": pair.said(study),
        "why": pair.why_open(study),
        "round": pair.settled_in_round if len(study.rounds) > 1 else None,
        "at": [_minus(pair.at(cost).text(study.unit)) for cost in study.costs],
        "sure": _minus(interval_text(sure, study.unit)) if sure else "–",
        "seeds": pair.n.seeds or "–",
        "wins": pair.won,
        "test": _signed(pair.test_difference),
    }


def _whole(study: StudyResult) -> dict[str, Any] | None:
    """Other orders of all stages against the predicted one."""
    found = study.verification
    if found is None:
        return None
    said = {"first": f"{found.predicted} is better", "second": "this is better",
            "equal": f"equal within {study.margin_text}", "open": "open"}  # fmt: skip
    return {
        "predicted": found.predicted,
        "text": _told(study, "verification"),
        "rows": [
            {
                "order": one.order,
                "why": one.why,
                "difference": _minus(one.text(study.unit)),
                "sure": _minus(interval_text(one.sure_interval, study.unit))
                if one.sure_interval
                else "–",
                "verdict": said[one.verdict],
            }
            for one in found.orders
        ],
    }


def _claims(study: StudyResult) -> list[dict[str, Any]]:
    return [
        {
            **claim.model_dump(include={"claim", "source", "verdict", "against"}),
            "in_favour": claim.in_favour,
            "undecided": claim.undecided,
            "pairs": ", ".join(" / ".join(pair) for pair in claim.pairs),
        }
        for claim in study.literature
    ]


def _told(study: StudyResult, kind: str) -> str:
    return next((finding.text for finding in study.findings if finding.kind == kind), "")


def _chain(study: StudyResult, chain: ChainFigures) -> dict[str, Any]:
    drop, test_drop, interval = chain.accuracy_drop, chain.test.accuracy_drop, chain.drop_interval
    return {
        "name": chain.name,
        "text": chain.text,
        "seeds": len(chain.seeds),
        "change": _signed(None if drop is None else -drop),
        # Of the change, which is the drop turned round.
        "interval": _minus(interval_text((-interval[1], -interval[0]))) if interval else "",
        "test_change": _signed(None if test_drop is None else -test_drop),
        "ratios": study.ratios(chain),
    }


def _signed(points: float | None) -> str:
    return "–" if points is None else signed(points)


def _minus(text: str) -> str:
    return text.replace("-", "−")


def legend(stages: dict[str, Written | list[Written]]) -> list[tuple[str, str]]:
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
