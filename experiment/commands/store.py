"""`python main.py store ls|verify|gc`: look at the store, check it, and clear it out."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.table import Table

from experiment.commands.parser import Parser
from experiment.running.console import Console
from experiment.running.store import Store
from experiment.suite.config_file import folder_named
from experiment.suite.messages import ConfigError

HOME = Path(__file__).parents[2]


def store_command(arguments: list[str], console: Console) -> int:
    """Run the subcommand; returns the exit code: 1 where `verify` finds damage."""
    args = _parser().parse_args(arguments)
    paths = [Path(config) for config in args.config or []]
    paths = paths or [HOME / "config.py", *sorted((HOME / "configs").glob("*.py"))]
    store = Store(_folder(paths, console), console.say)
    if args.action == "ls":
        return _list(store, console)
    if args.action == "verify":
        return _verify(store, console)
    return _collect(store, _named_keys(paths, args.set), args.yes, console)


def _parser() -> Parser:
    parser = Parser("store", description="The store of finished stages.")
    parser.add_argument("action", choices=["ls", "verify", "gc"])
    parser.add_argument(
        "--config",
        nargs="+",
        metavar="FILE",
        help="suites whose stages are wanted (default: config.py and all of configs/)",
    )
    parser.add_argument(
        "--set",
        action="append",
        metavar="SECTION.KEY=VALUE",
        help="gc: as the suites were run with",
    )
    parser.add_argument("--yes", action="store_true", help="gc: remove without asking")
    return parser


def _folder(paths: list[Path], console: Console) -> Path:
    """The MODEL_SAVE_DIR that all suites share; one that cannot be read gets a remark."""
    folders: set[Path] = set()
    for path in paths:
        try:
            folder = folder_named(path, "MODEL_SAVE_DIR")
        except ConfigError as error:
            console.say(f"{path} cannot be read: {error.problems[0]}")
            continue
        folders.add(folder)
    if len(folders) != 1:
        listed = ", ".join(sorted(map(str, folders))) or "none can be read"
        raise ConfigError([f"not one folder for all suites ({listed}); choose with --config"])
    return folders.pop()


def _named_keys(paths: list[Path], overrides: list[str] | None) -> set[str]:
    """The key of every stage that a suite or its studies name. Raises ConfigError."""
    # These need torch, whose seconds a listing of the store does without.
    from experiment.study.plan import load_studies, load_study
    from experiment.suite.chains import plan
    from experiment.suite.schema import load_suite

    named: set[str] = set()
    for path in paths:
        try:
            suites = [load_suite(path, overrides=overrides)]
            for study in load_studies(path):
                suites.append(load_study(path, study.name, overrides=overrides).suite)
            for suite in suites:
                named |= {step.key for chain in plan(suite) for step in chain.steps}
        except ConfigError as error:
            unread = f"{path} cannot be read, so what it names is unknown: {error.problems[0]}"
            raise ConfigError([f"{unread}; name the suites with --config"]) from None
    return named


def _list(store: Store, console: Console) -> int:
    table = Table(title=f"{store.entries}", title_justify="left")
    for heading in ("key", "stage", "finished", "accuracy %", "MB", "checkpoint"):
        table.add_column(heading, justify="right" if heading in ("accuracy %", "MB") else "left")
    records = sorted(store.records(), key=lambda record: record["finished"])
    names, total = store.names(), 0
    for record in records:
        key = record["key"]
        files = [store.path(key), store.record_path(key)]
        size = sum(path.stat().st_size for path in files if path.exists())
        table.add_row(
            key[:12],
            record["stage"],
            record["finished"][:16],
            f"{record['metrics']['accuracy']:.2f}",
            f"{size / 1e6:.2f}",
            "\n".join(names.get(key, ["– (no name is left)"])),
        )
        total += size
    console.rich.print(table)
    console.say(f"{len(records)} stages, {total / 1e6:.1f} MB")
    return 0


def _verify(store: Store, console: Console) -> int:
    """Read everything; what is damaged is set aside, and computed again when it is needed."""
    keys = store.keys()
    damaged = [key for key in keys if store.load(key) is None]
    orphans = {p.stem for p in store.entries.glob("*.pth")} - set(keys)
    for kind, file in [("snapshot", store.snapshot), ("validation", store.validation)]:
        found = sorted(path.stem for path in store.entries.glob(f"*.{kind}"))
        damaged += [key for key in found if not file(key).intact()]
    for key in sorted(orphans):
        console.say(f"{store.path(key)}: has no record; it will be computed again when needed")
    console.say(f"{len(keys)} stages read, {len(damaged)} damaged, {len(orphans)} without record")
    return 1 if damaged else 0


def _collect(store: Store, named: set[str], yes: bool, console: Console) -> int:
    """Remove what no suite names and no run is at, after showing it and asking.

    So it does with machine code that earlier versions kept beside checkpoints. Nothing reads that
    any more: it could be somebody else's.
    """
    files = [p for p in sorted(store.entries.glob("*")) if not p.name.startswith(".")]
    keys = {p.name.split(".")[0] for p in files} - named
    keys = {key for key in keys if not store.is_locked(key)}
    doomed = [p for p in files if p.name.split(".")[0] in keys]
    links = [
        link
        for link in sorted(store.folder.glob("*.pth"))
        if any(p.suffix == ".pth" and link.samefile(p) for p in doomed)
    ]
    compiled = store.folder / "compiled"
    unread = sorted(path for path in compiled.glob("*") if path.is_symlink() or path.is_file())
    if unread:
        console.say(f"{compiled} holds machine code of an earlier version, which nothing runs:")
    doomed += unread
    if not doomed:
        console.say("nothing to remove: every stored stage is named by a suite")
        return 0
    for path in [p for p in doomed if p.suffix != ".lock"] + links:
        console.say(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
    total = sum(path.stat().st_size for path in doomed)
    question = f"remove these {len(doomed) + len(links)} files ({total / 1e6:.1f} MB)?"
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(["store gc: no terminal to ask on; add --yes to remove them"])
        try:
            yes = console.ask(question, default=False)
        except EOFError:
            yes = False
    if not yes:
        console.say("nothing removed")
        return 0
    for path in [*links, *doomed]:
        path.unlink(missing_ok=True)
    console.say(f"removed {total / 1e6:.1f} MB")
    return 0
