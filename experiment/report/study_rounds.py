"""Sure intervals over seeds, a small picture a pair: where the page's SVG has its marks.

Each has its own axis, for pairs differ by what they differ; the band of ±margin is the same in all
and shows the scale. The last interval is always whole; an earlier one that goes far beyond it ends
in an arrow, and its figures are in the text that screen readers say.
"""

from __future__ import annotations

import math
from typing import Any

from experiment.outcomes.study import StudyResult
from experiment.outcomes.verdicts import DIGITS, Interval, Pair, RoundPair, interval_text

WIDTH, HEIGHT = 180, 140  # of a picture, in its own units
LEFT, RIGHT, TOP, BOTTOM = 38, 6, 6, 24  # margins of the frame
MUCH = 2.5  # so many times the last interval's reach: earlier ones do not stretch the axis more
Look = tuple[RoundPair, Interval]


def round_pictures(study: StudyResult) -> list[dict[str, Any]]:
    """A picture for each pair that was judged in rounds; none where there was one round."""
    if len(study.rounds) < 2:
        return []
    found = [(pair, _looks(study, pair)) for pair in study.pairs]
    counts = sorted({entry.seeds for _, looks in found for entry, _ in looks})
    return [_picture(study, pair, looks, counts) for pair, looks in found if looks]


def _looks(study: StudyResult, pair: Pair) -> list[Look]:
    """Those with an interval."""
    return [(entry, entry.interval) for entry in study.history(pair) if entry.interval is not None]


def _reach(looks: list[Look], margin: float) -> float:
    """How far the axis goes to both sides of 0; both edges of the band are in view."""
    ends = [max(map(abs, interval)) for _, interval in looks]
    return 1.1 * max(min(max(ends), MUCH * max(ends[-1], margin)), 1.2 * margin) or 1.0


def _picture(
    study: StudyResult, pair: Pair, looks: list[Look], counts: list[int]
) -> dict[str, Any]:
    reach = _reach(looks, study.margin or 0)
    bottom = HEIGHT - BOTTOM
    middle, scale = (TOP + bottom) / 2, (bottom - TOP) / (2 * reach)
    step = (WIDTH - LEFT - RIGHT) / len(counts)
    places = {count: round(LEFT + (i + 0.5) * step, 1) for i, count in enumerate(counts)}
    margin, tick = scale * (study.margin or 0), _round_number(0.9 * reach)
    told = "; ".join(_in_words(entry, interval, study.unit) for entry, interval in looks)
    said = pair.said(study)
    return {
        "name": f"{pair.first} → {pair.second}",
        "said": said,
        "verdict": pair.verdict,
        "label": f"{pair.first} → {pair.second}, sure intervals: {told}. Verdict: {said}.",
        "frame": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT,
                  "top": TOP, "bottom": bottom},
        "zero": round(middle, 1),
        "band": (round(middle - margin, 1), round(2 * margin, 1)),
        "ticks": [(round(middle - value * scale, 1), f"{value:+g}".replace("-", "−"))
                  for value in (tick, -tick)],
        "seeds": [(x, count) for count, x in places.items()],
        "marks": [_mark(entry, interval, places[entry.seeds], middle, scale)
                  for entry, interval in looks],
    }  # fmt: skip


def _mark(
    entry: RoundPair, interval: Interval, x: float, middle: float, scale: float
) -> dict[str, Any]:
    """An interval, cut at the frame where it goes beyond; `over` and `under` say so."""
    top, bottom = float(TOP), float(HEIGHT - BOTTOM)
    low, high = (middle - value * scale for value in interval)  # SVG counts downwards
    y = middle - (entry.difference or 0) * scale
    return {
        "x": x,
        "high": round(min(max(high, top), bottom), 1),
        "low": round(min(max(low, top), bottom), 1),
        "over": high < top,
        "under": low > bottom,
        "y": round(y, 1) if entry.difference is not None and top <= y <= bottom else None,
        "verdict": entry.verdict,
    }


def _in_words(entry: RoundPair, interval: Interval, unit: str) -> str:
    value = "" if entry.difference is None else f"{entry.difference:+.{DIGITS[unit]}f}, "
    return f"{entry.seeds} seeds {value}{interval_text(interval, unit)}".replace("-", "−")


def _round_number(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is no larger."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(f"{max(m for m in (1, 2, 5) if m * power <= value) * power:g}")
