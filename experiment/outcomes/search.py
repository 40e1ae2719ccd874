"""A search's JSON, read back, and its findings in words: what terminal, page and JSON all say.

The search writes the words into its JSON; those of a file that has none are made when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import model_validator

from experiment.outcomes.search_parts import (
    ACCURACIES,
    AnyEffect,
    Chain,
    Finalist,
    Searched,
    Tried,
    within,
)
from experiment.outcomes.study import percent
from experiment.outcomes.verdicts import Finding, listed, number

SHOWN = 3  # chains that a sentence names
STOPPED = {
    "nothing_better": "no chain that is left is likely to be better",
    "all_tried": "every chain was tried",
}


class SearchResult(Searched):
    """`search_NAME.json`. Raises ValidationError for a field of another shape."""

    findings: list[Finding] = []

    @model_validator(mode="after")
    def _in_words(self) -> SearchResult:
        self.findings = self.findings or list(findings(self))
        return self


def findings(search: Searched) -> Iterator[Finding]:
    """The headline first, which is one to quote; then by how much it matters to who reads on."""
    yield Finding(kind="headline", text=headline(search))
    yield from _optimism(search)
    yield from _not_confirmed(search)
    yield from _mattered(search)
    yield from _next(search)
    yield from _course(search)
    every: list[Tried | Finalist] = [*search.tried, *search.finalists]
    failed = [f"{one.name} ({one.failed})" for one in every if one.failed]
    if failed:
        yield Finding(kind="failed", text=f"failed: {_some(failed)}")


def headline(search: Searched) -> str:
    """The search in one sentence: what won, how sure that is, and what it took."""
    rest = f"; {_effort(search)}." if search.tried else "."
    winner, finalist = search.winner, search.won
    if winner is not None:
        figures = finalist.figures if finalist is not None else {}
        parts = [*search.against_baseline(figures), *_drop(finalist)]
        sure = [str(limit) for limit in search.limits if limit.metric in ACCURACIES]
        if winner.confirmed_chance is not None and sure:
            holds = "holds" if len(sure) == 1 else "hold"
            chance = percent(winner.confirmed_chance)
            parts.append(f"{' and '.join(sure)} {holds} with {chance}")
        found = "Found" if search.status == "done" else "Found so far"
        return f"{found}: {_named(winner)}{': ' if parts else ''}{', '.join(parts)}{rest}"
    if search.status != "done":
        return _so_far(search) + rest
    confirmed = [one for one in search.finalists if one.meets]
    if confirmed and len(search.aims) > 1:
        each = "; ".join(_told(search, one) for one in confirmed)
        return f"Found a front of {number(len(confirmed))}, run again: {each}{rest}"
    return _nearest(search) + rest


def _so_far(search: Searched) -> str:
    """The best of a search that has not come to its end."""
    state = "Interrupted" if search.status == "interrupted" else "Not finished"
    best = next((moment for moment in reversed(search.course) if moment.best), None)
    if best is None:
        return f"{state}: no chain that meets {search.asked} yet"
    chain = next((one for one in search.tried if one.name == best.best), Chain(name=str(best.best)))
    figures = {**(chain.figures if isinstance(chain, Tried) else {}), **best.figures}
    parts = list(search.against_baseline(figures))
    if "accuracy_drop" in figures:
        parts.append(f"drop {figures['accuracy_drop']:.2f} at the search's seed")
    told = f": {', '.join(parts)}" if parts else ""
    return f"{state}: the best so far, not confirmed yet, is {_named(chain)}{told}"


def _nearest(search: Searched) -> str:
    """That nothing meets the wish, and what is least beyond it: confirmed ones before all."""
    again = [one for one in search.finalists if one.confirmed is not None]
    rows: list[Finalist] | list[Tried] = again or [
        one for one in search.tried if one.figures and one.kind == "full"
    ]
    if not rows:
        return f"No chain meets {search.asked}: none came to its end"

    def beyond(row: Finalist | Tried) -> float:
        values = ((limit, row.figures.get(limit.metric)) for limit in search.limits)
        return sum(
            float("inf") if value is None else max(0.0, limit.excess(value))
            for limit, value in values
        )

    return f"No chain meets {search.asked}; the nearest is {_told(search, min(rows, key=beyond))}"


def _told(search: Searched, chain: Finalist | Tried) -> str:
    return f"{_named(chain)}: {', '.join([*search.against_baseline(chain.figures), *_drop(chain)])}"


def _drop(chain: Finalist | Tried | None) -> Iterator[str]:
    """'drop 0.80 (+0.30 to +1.20) on three fresh seeds (test split 0.90)'."""
    if isinstance(chain, Finalist) and chain.confirmed is not None:
        test = chain.test.accuracy_drop
        beside = "" if test is None else f" (test split {test:.2f})"
        yield f"drop {chain.confirmed.text} on {_seeds(chain)}{beside}"
    elif chain is not None and "accuracy_drop" in chain.figures:
        yield f"drop {chain.figures['accuracy_drop']:.2f} at the search's seed"


def _seeds(finalist: Finalist) -> str:
    count = len(finalist.confirmed.seeds) if finalist.confirmed is not None else 0
    return f"{number(count)} fresh seed{'' if count == 1 else 's'}" if count else "fresh seeds"


def _named(chain: Chain) -> str:
    """'DP_d0.5_p0.45 (D → P; D width 0.5; P keep.macs 0.45)'."""
    about = "; ".join(filter(None, (chain.arrows if chain.order else "", chain.settings)))
    return f"{chain.name} ({about})" if about else chain.name


def _effort(search: Searched) -> str:
    tried, count, spent = search.names_tried, search.space.chains, search.spent
    of = f" of {count:,}" if count else ""
    return f"{tried:,}{of} chain{'' if (count or tried) == 1 else 's'} tried, {_time(spent.hours)}"


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} hours"
    minutes = round(60 * hours)
    return f"{minutes} minute{'' if minutes == 1 else 's'}"


# --- no winner's curse ---------------------------------------------------------------------------


def _optimism(search: Searched) -> Iterator[Finding]:
    """The apparent drop of the best beside the confirmed one."""
    again = [one for one in search.finalists if one.confirmed is not None]
    best = search.won or (again[0] if again else None)
    if best is None or best.confirmed is None or best.confirmed.accuracy_drop is None:
        return
    apparent = best.apparent.get("accuracy_drop")
    if apparent is None:
        return
    real, expected = best.confirmed.accuracy_drop, best.expected.accuracy_drop
    looks = "looks better than it is" if real > apparent else "is no worse than it looked"
    foreseen = "" if expected is None else f", {expected:.2f} was expected"
    text = (
        f"what was best of {search.names_tried:,} {looks}: drop {apparent:.2f} at the search's "
        f"seed, {real:.2f} on {_seeds(best)}{foreseen}"
    )
    yield Finding(kind="optimism", text=text)


def _not_confirmed(search: Searched) -> Iterator[Finding]:
    """Finalists that met the wish at the search's seed and do not on fresh ones."""
    for one in search.finalists:
        if one.meets is False and one.confirmed is not None:
            looked = one.apparent.get("accuracy_drop")
            before = "" if looked is None else f", {looked:.2f} at the search's seed"
            missed = [str(limit) for limit in search.limits if within(limit, one.figures) is False]
            why = f": beyond {' and '.join(missed)}" if missed else ""
            text = (
                f"{one.name} was not confirmed: drop {one.confirmed.text} on "
                f"{_seeds(one)}{before}{why}"
            )
            yield Finding(kind="finalist", text=text)


# --- what mattered -------------------------------------------------------------------------------


def _mattered(search: Searched) -> Iterator[Finding]:
    """Effects that are certain a sentence each, the largest first; the others together."""
    found: dict[str, Sequence[AnyEffect]] = {
        "order": [effect.turned() for effect in search.mattered.orders],
        "strength": search.mattered.strengths,
        "letter": search.mattered.letters,
    }
    for kind, unsorted in found.items():
        effects = sorted(unsorted, key=lambda effect: -abs(effect.effect))
        for effect in effects:
            if effect.certain:
                text = f"{effect.what}: {effect.text} points of accuracy"
                yield Finding(kind=kind, text=text)
        open_ = [f"{effect.what} {effect.text}" for effect in effects if not effect.certain]
        if open_:
            yield Finding(kind=kind, text=f"may be chance: {', '.join(open_)}")


# --- the course ----------------------------------------------------------------------------------


def _next(search: Searched) -> Iterator[Finding]:
    if not search.next:
        return
    told = []
    for one in search.next:
        parts = [] if one.hours is None else [_time(one.hours)]
        if one.chance is not None:
            parts.append(f"{percent(one.chance)} to be better")
        about = f" ({', '.join(parts)})" if parts else ""
        told.append(f"{one.name}{about}")
    yield Finding(kind="next", text=f"the next hour would go to {_some(told)}")


def _course(search: Searched) -> Iterator[Finding]:
    """Why it stopped, what was spent, and what was never trained."""
    spent = search.spent
    if search.status == "interrupted":
        text = "interrupted: the same command goes on"
        yield Finding(kind="stopped", text=text)
    elif search.stopped_by is not None:
        budgets = {"hours": spent.budget_hours, "epochs": spent.budget_epochs}
        of = " or ".join(f"{value:g} {name}" for name, value in budgets.items() if value)
        budget = f"the budget{f' of {of}' if of else ''} allows no more"
        text = f"stopped: {STOPPED.get(search.stopped_by, budget)}"
        yield Finding(kind="stopped", text=text)
    if search.tried:
        final = f", {_time(spent.hours_final)} of them for fresh seeds" if spent.hours_final else ""
        text = (
            f"spent: {_time(spent.hours)}{final}; {spent.epochs:g} epochs, {spent.stages} stages "
            f"trained, {spent.stored} from the store"
        )
        yield Finding(kind="spent", text=text)
    space = search.space
    if space.beyond:
        text = f"{space.beyond:,} chains were never trained: their costs alone are beyond the wish"
        yield Finding(kind="space", text=text)
    if space.impossible:
        why = f" ({_some(space.impossible_why)})" if space.impossible_why else ""
        text = f"{space.impossible:,} chains cannot be built{why}"
        yield Finding(kind="space", text=text)
    early = [f"{one.name} ({one.stopped})" for one in search.tried if one.stopped]
    if early:
        yield Finding(kind="stopped_early", text=f"stopped on the way: {_some(early)}")


def _some(texts: list[str]) -> str:
    more = len(texts) - SHOWN
    return listed(texts[:SHOWN]) if more <= 0 else f"{', '.join(texts[:SHOWN])} and {more} more"
