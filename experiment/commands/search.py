"""`python main.py search [NAME]`: the order and the strengths that meet a wish, under a budget."""

from __future__ import annotations

from argparse import Namespace

from experiment.commands.parser import Parser, running_options, suite_options
from experiment.commands.search_tables import show_search
from experiment.outcomes.search import SearchResult
from experiment.report.write import write_report
from experiment.running.console import Console
from experiment.running.executor_options import Execution, execution
from experiment.running.progress import Forecast
from experiment.running.store import Store
from experiment.search.journal import search_path
from experiment.search.plan import Search, load_search, load_searches, named_searches
from experiment.search.run import first_choices, run_search
from experiment.study.course import steps_of
from machine.errors import Interrupted
from machine.files import finite


def search_command(arguments: list[str], console: Console) -> int:
    """Run the subcommand; returns the exit code: 1 where no chain is known to meet the wish."""
    args = _parser().parse_args(arguments)
    where = execution(args)
    if args.name is None:
        return _list(args.config, console)
    names = named_searches(args.config, args.name)
    searches = [load_search(args.config, name, overrides=args.set) for name in names]
    if args.dry_run:
        return max(_dry_run(search, console) for search in searches)
    return max(_run(search, args, where, console) for search in searches)


def _run(search: Search, args: Namespace, where: Execution, console: Console) -> int:
    """One search; its exit code."""
    try:
        report = run_search(search, console, baseline=args.baseline, execution=where)
    except Interrupted:
        write_report(search.results_dir)
        raise
    show_search(search.config.name, SearchResult.model_validate(finite(report)), console)
    page = write_report(search.results_dir)[0]
    console.say(f"written to {search_path(search)}; report: {page}")
    return 0 if report["winner"] is not None else 1


def _parser() -> Parser:
    parser = Parser(
        "search",
        description="Find the order and the strengths that meet a wish: SEARCHES of a config.",
        epilog="Exit codes: 0 a chain meets the wish, 1 none is known to, 2 wrong config.",
        parents=[suite_options(), running_options(baseline="reuse", remeasure=False)],
    )
    parser.add_argument(
        "name",
        nargs="?",
        help="a search, of each baseline that it names; without it they are listed",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    return parser


def _list(config: str, console: Console) -> int:
    searches = load_searches(config)
    if not searches:
        console.say(f"{config}: no searches; SEARCHES is empty (see configs/search_*.py)")
        return 0
    for search in searches:
        budget = (
            f"{search.budget_hours:g} hours"
            if search.budget_hours is not None
            else f"{search.budget_epochs} epochs"
        )
        letters = ", ".join(search.stages)
        console.say(f"{search.name:24} {search.wish}; {letters} from {search.baseline}, {budget}")
    return 0


def _dry_run(search: Search, console: Console) -> int:
    """What is known before anything runs: the space, what is chosen first, and what that takes."""
    space, config = search.space, search.config
    suite = search.suite([], [config.seed])
    store = Store(suite.model_dir, console.say)
    forecast, proposals, left_out = Forecast(store.records()), *first_choices(search, console)
    console.say(
        f"search {config.name}: {len(space.ways)} chains in {len(space.orders())} orders"
        + (f", {sum(space.impossible.values())} more cannot be" if space.impossible else "")
        + (f", {space.beyond} left out by lot" if space.beyond else "")
        + (f"; {left_out} cannot meet the wish, by count" if left_out else "")
    )
    for why, count in list(space.impossible.items())[:3]:
        console.say(f"   {count} cannot be: {why}")
    console.say(f"wish        {config.wish}")
    budgets = {"hours": config.budget_hours, "epochs": config.budget_epochs}
    told = " and ".join(f"{v:g} {name}" for name, v in budgets.items() if v is not None)
    console.say(
        f"budget      {told}; the best of at most {config.finalists} finalists are run again at "
        f"seeds {', '.join(map(str, search.fresh_seeds))}"
    )
    for proposal in proposals:
        chain = space.label(proposal.aim)
        costs = space.foreseen[proposal.aim]
        ratio = costs["bitops"] / space.foreseen[()]["bitops"]
        console.say(f"first       {chain} ({proposal.kind}): BitOps ×{ratio:.3f}")
    if proposals:
        first = search.suite([(p.kind, p.aim) for p in proposals], [config.seed])
        seconds = [forecast.seconds(step) for step in steps_of(first)]
        known = [value for value in seconds if value is not None]
        console.say(
            f"these       {len(seconds)} stages"
            + (f", about {sum(known) / 60:.0f} minutes by what such stages took" if known else "")
        )
    console.note("dry run: nothing was trained or written")
    return 0
