"""What a search found, on the terminal: its finalists, its front, its findings, its winner."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from experiment.outcomes.search import SearchResult
from experiment.outcomes.search_parts import Chain, Figures, heading
from experiment.running.console import Console

SHOWN = 12  # chains of the front


def show_search(name: str, search: SearchResult, console: Console) -> None:
    """The findings of a search, whether it is done or not, and the winner as a config entry."""
    console.say("")
    if search.finalists:
        console.rich.print(_finalists(name, search))
    if search.front:
        console.rich.print(_front(search))
    for finding in search.findings:
        console.say(finding.text)
    if search.winner is not None and search.winner.config:
        console.say("# an entry of EXPERIMENT_CONFIGS:")
        console.say(search.winner.entry)


def _finalists(name: str, search: SearchResult) -> Table:
    apparent = ("drop at the search's seed", "expected", "on fresh seeds")
    table = _table(
        f"Search {name}: finalists, on the validation share",
        *apparent, *_costs(search), "test drop", f"meets {search.asked}",
    )  # fmt: skip
    for one in search.finalists:
        test = one.test.accuracy_drop
        table.add_row(
            *_chain(one),
            _drop(one.apparent),
            one.expected.text,
            one.confirmed.text if one.confirmed is not None else "–",
            *_cells(search, one.figures),
            "–" if test is None else f"{test:.2f}",
            one.verdict,
        )
    return table


def _front(search: SearchResult) -> Table:
    """In the first cost's order, the cheapest first."""
    first = search.costs[0]
    chains = sorted(search.front, key=lambda one: one.figures.get(first, 0))
    more = f" ({SHOWN} of {len(chains)})" if len(chains) > SHOWN else ""
    table = _table(
        f"Front: by the expected drop, no chain tried is better in all figures{more}",
        *("drop at the search's seed", "expected"), *_costs(search), "run again",
    )  # fmt: skip
    for one in chains[:SHOWN]:
        again = "yes" if one.confirmed else "no"
        figures = _cells(search, one.figures)
        table.add_row(*_chain(one), _drop(one.figures), one.expected.text, *figures, again)
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for place, text in enumerate(("chain", "strengths", *headings)):
        table.add_column(text, justify="left" if place < 2 else "right")
    return table


def _costs(search: SearchResult) -> Sequence[str]:
    return [heading(name) for name in search.costs]


def _chain(chain: Chain) -> tuple[str, str]:
    return chain.arrows if chain.order else chain.name, chain.settings or "–"


def _drop(figures: Figures) -> str:
    return f"{figures['accuracy_drop']:.2f}" if "accuracy_drop" in figures else "–"


def _cells(search: SearchResult, figures: Figures) -> list[str]:
    """Each cost with its ratio to the baseline's."""
    return [" ".join(filter(None, search.cell(figures, name))) for name in search.costs]
