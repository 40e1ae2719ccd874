"""What a study's verdicts say to claims of the literature, for the letters that it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DISTURBANCE = "arXiv:2603.18426"
EARLY = "arXiv:2511.19495"
ORDER = "arXiv:2403.17447"


@dataclass(frozen=True)
class Letter:
    """What a letter of a study does to a network."""

    distills: bool
    quantizes: bool
    freezes: bool  # int8 weights that no later stage trains


def claims(
    letters: Mapping[str, Letter],
    pairs: Sequence[Mapping[str, Any]],
    disturbances: Mapping[str, float],
    third_stage: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Every claim that the study has letters for, with what its pairs say.

    `pairs` are those of the findings, `disturbances` each letter's drop of the score alone. A pair
    that is equal or open is for neither side.
    """
    found = list(_claims(letters, pairs, disturbances))
    if third_stage is not None:
        found.append(
            {
                "claim": "a third stage does not turn a pair round",
                "source": ORDER,
                **_verdict(third_stage["holds"], third_stage["flips"], third_stage["open"]),
                "pairs": [
                    [case["first"], case["second"]]
                    for case in third_stage["cases"]
                    if case["verdict"] == "flips"
                ],
            }
        )
    return found


def _claims(
    letters: Mapping[str, Letter],
    pairs: Sequence[Mapping[str, Any]],
    disturbances: Mapping[str, float],
) -> Iterator[dict[str, Any]]:
    known = [p for p in pairs if {p["first"], p["second"]} <= disturbances.keys()]
    if known:
        weaker = {
            frozenset((p["first"], p["second"])): min(p["first"], p["second"], key=disturbances.get)  # type: ignore[arg-type]
            for p in known
        }
        yield {
            **_told("weaker disturbance first", DISTURBANCE, known, weaker),
            "disturbances": dict(disturbances),
        }
    int8 = [letter for letter, own in letters.items() if own.quantizes]
    for freezes, how in ((False, "with float masters"), (True, "with frozen int8 weights")):
        early = [letter for letter in int8 if letters[letter].freezes is freezes]
        own = [p for p in pairs if (p["first"] in early) != (p["second"] in early)]
        own = [p for p in own if not {p["first"], p["second"]} <= set(int8)]
        if own:
            other = {
                frozenset((p["first"], p["second"])): (
                    p["second"] if p["first"] in early else p["first"]
                )
                for p in own
            }
            yield {
                **_told(f"quantize late, {how}", EARLY, own, other),
                "largest_loss": max(
                    (
                        -p["difference"] if p["first"] in early else p["difference"]
                        for p in own
                        if p["difference"] is not None
                    ),
                    default=None,
                ),
            }
    distilled = [letter for letter, own in letters.items() if own.distills]
    if len(distilled) == 1:
        own = [p for p in pairs if distilled[0] in (p["first"], p["second"])]
        if own:
            first = {frozenset((p["first"], p["second"])): distilled[0] for p in own}
            yield _told("distill first", ORDER, own, first)


def _told(
    claim: str,
    source: str,
    pairs: Sequence[Mapping[str, Any]],
    predicted: Mapping[frozenset[str], str],
) -> dict[str, Any]:
    """The claim that in each pair the stage of `predicted` comes first, and what was found."""
    agree: list[list[str]] = []
    differ: list[list[str]] = []
    undecided = 0
    for pair in pairs:
        if pair["verdict"] not in ("first", "second"):
            undecided += 1
            continue
        winner = pair["first"] if pair["verdict"] == "first" else pair["second"]
        both = frozenset((pair["first"], pair["second"]))
        side = agree if winner == predicted[both] else differ
        side.append([pair["first"], pair["second"]])
    return {
        "claim": claim,
        "source": source,
        **_verdict(len(agree), len(differ), undecided),
        "pairs": differ,
    }


def _verdict(agree: int, differ: int, undecided: int) -> dict[str, Any]:
    """'holds' where all that is decided agrees and most is decided, 'fails' where one differs."""
    verdict = "fails" if differ else "holds" if agree > undecided else "open"
    return {"verdict": verdict, "for": agree, "against": differ, "open": undecided}
