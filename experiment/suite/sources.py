"""What code a function rests on: the definitions that its names mean, and what those mean.

A definition is a top-level statement of a file. Its text is taken from the syntax tree, without
comments, docstrings, layout and import lines; a name of another definition stands there without its
module, and the text of that definition counts beside it. So nothing changes when a definition moves
to another file, and something does when a name comes to mean another one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from machine.files import sha256

WHOLE = "*"  # in the place of a definition's name: all of the module
ON_IMPORT = ""  # in the same place: statements that define nothing but act, and native sources
NATIVE = (".cpp", ".h")  # endings of sources that the Python files of their folder build


class Location(NamedTuple):
    """Where a definition is."""

    module: str
    name: str

    def within(self, parts: tuple[str, ...]) -> bool:
        """Whether it is in one of `parts`: folders, modules or definitions, as 'methods.costs.'."""
        return f"{self.module}.{self.name}.".startswith(parts)


class Definition(NamedTuple):
    """A top-level statement, digested."""

    digest: str  # of its text
    means: list[Location]  # what its names stand for, in the order of the text


class File(NamedTuple):
    """A module, parsed."""

    statements: dict[str, list[ast.stmt]]  # name → what defines it
    names: dict[str, str]  # name → what it stands for, dotted: 'methods.costs.count_macs'


class Sources:
    """The project in a folder; a file is read once, when it is first needed."""

    def __init__(self, home: Path):
        self.home = home
        self.tops = {path.stem for path in home.iterdir()}  # torch is not among them
        self.files: dict[str, File | None] = {}
        self.places: dict[str, Location | None] = {}
        self.definitions: dict[Location, list[Definition]] = {}

    def digest(
        self,
        roots: Iterable[Callable[..., object]],
        whole: Iterable[str],
        follows: Callable[[str, Location], bool],
    ) -> str:
        """Digest of the `whole` modules and folders and the `roots`, and of all that they rest on.

        `follows` says whether something counts where a module names it. Raises LookupError for a
        root that no file holds.
        """
        waiting = [self.root(each) for each in roots]
        waiting += [Location(module, WHOLE) for part in whole for module in self.modules(part)]
        seen, told = set(waiting), set()
        while waiting:
            place = waiting.pop()
            found = [Location(place.module, ON_IMPORT)]
            if place.name == WHOLE:
                found += [Location(place.module, name) for name in self.parsed(place).statements]
            for definition in self.at(place):
                means = [meant for meant in definition.means if follows(place.module, meant)]
                said = (part.digest for meant in means for part in self.at(meant))
                told.add(" ".join([definition.digest, *said]))
                found += means
            waiting += [other for other in dict.fromkeys(found) if other not in seen]
            seen.update(found)
        return sha256("\n".join(sorted(told)).encode())

    def root(self, each: Callable[..., object]) -> Location:
        """Where a function or class is; its module may be another's than the project's."""
        module, name = each.__module__, each.__qualname__.partition(".")[0]
        if self.file(module) is None:
            path = getattr(sys.modules.get(module), "__file__", None)
            if path is None:
                raise LookupError(f"{module}.{name} is in no file, so no key can tell its code")
            self.files[module] = parsed(Path(path), module)
        place = Location(module, name)
        return place if name in self.parsed(place).statements else Location(module, WHOLE)

    def place(self, dotted: str) -> Location | None:
        """Where what a dotted name stands for is defined; None where that is not in the project.

        What a module has otherwise than by a definition stands for the whole of it.
        """
        if dotted not in self.places:
            module, name = dotted, WHOLE
            while (file := self.file(module)) is None and module:
                module, _, name = module.rpartition(".")
            if file is None:
                self.places[dotted] = None
            elif name in file.names and name not in file.statements:
                self.places[dotted] = self.place(file.names[name])
            else:
                self.places[dotted] = Location(module, name if name in file.statements else WHOLE)
        return self.places[dotted]

    def file(self, module: str) -> File | None:
        """A module of the project, by its dotted name."""
        if module not in self.files:
            path = self.home / module.replace(".", "/")
            paths = path.with_name(f"{path.name}.py"), path / "__init__.py"
            known = module.partition(".")[0] in self.tops
            found = next((path for path in paths if known and path.is_file()), None)
            self.files[module] = parsed(found, module) if found is not None else None
        return self.files[module]

    def parsed(self, place: Location) -> File:
        file = self.file(place.module)
        assert file is not None  # a place is in a file
        return file

    def modules(self, part: str) -> list[str]:
        """The modules of a folder, or a module itself."""
        part = part.removesuffix(".")
        folder = self.home / part.replace(".", "/")
        return [f"{part}.{p.stem}" for p in sorted(folder.glob("[!_]*.py"))] or [part]

    def at(self, place: Location) -> list[Definition]:
        """What stands at a place; nothing for a whole module, which is told part by part."""
        if place not in self.definitions:
            file = self.parsed(place)
            statements = file.statements.get(place.name, [])
            self.definitions[place] = [self.definition(s, file.names) for s in statements]
            if place.name == ON_IMPORT:
                beside = (self.home / place.module.replace(".", "/")).parent.glob("*")
                native = [sha256(path.read_bytes()) for path in beside if path.suffix in NATIVE]
                self.definitions[place] += [Definition(digest, []) for digest in native]
        return self.definitions[place]

    def definition(self, statement: ast.stmt, names: dict[str, str]) -> Definition:
        """A statement of a file in which `names` stand for something."""
        names = dict(names)  # imports within a function come on top
        text: list[str] = []
        means: list[Location] = []

        def dotted(node: ast.AST) -> str | None:
            """What a name stands for, or an attribute of a module of this project."""
            match node:
                case ast.Name():
                    return names.get(node.id)
                case ast.Attribute():
                    owner = dotted(node.value)
                    place = self.place(owner) if owner is not None else None
                    if place is not None and place.name == WHOLE:
                        return f"{owner}.{node.attr}"
            return None

        def tell(node: ast.AST) -> None:
            match node:
                case ast.Name() | ast.Attribute() if meaning := dotted(node):
                    place = self.place(meaning)
                    text.append(meaning if place is None else meaning.rpartition(".")[2])
                    if place is not None:
                        means.append(place)
                case ast.Constant():
                    text.append(repr(node.value))
                case ast.Import() | ast.ImportFrom():
                    names.update(imported(node))
                case ast.Expr(ast.Constant(str())):
                    pass
                case _:
                    text.append(type(node).__name__)
                    for field in node._fields:
                        value = getattr(node, field)
                        if field == "ctx" or value is None or value == []:
                            continue  # the last two as where Python lacks the field
                        for item in value if isinstance(value, list) else [value]:
                            tell(item) if isinstance(item, ast.AST) else text.append(repr(item))
                        text.append(field)

        tell(statement)
        return Definition(sha256(" ".join(text).encode()), means)


def parsed(path: Path, module: str) -> File:
    """The statements of a file by the names that they define."""
    statements: dict[str, list[ast.stmt]] = {}
    names: dict[str, str] = {}
    for statement in ast.parse(path.read_bytes()).body:
        match statement:
            case ast.Import() | ast.ImportFrom():
                names.update(imported(statement))
            case ast.Expr(ast.Constant(str())):
                pass
            case ast.FunctionDef() | ast.ClassDef():
                statements.setdefault(statement.name, []).append(statement)
            case _:
                stored = set()
                for node in ast.walk(statement):
                    match node:
                        case ast.Name(name, ast.Store()):
                            stored.add(name)
                        case ast.Import() | ast.ImportFrom():
                            names.update(imported(node))
                for name in stored or {ON_IMPORT}:
                    statements.setdefault(name, []).append(statement)
    names.update((name, f"{module}.{name}") for name in statements if name)
    return File(statements, names)


def imported(node: ast.Import | ast.ImportFrom) -> dict[str, str]:
    """Name → what it stands for."""
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    tops = {name: name for name in (a.name.partition(".")[0] for a in node.names if not a.asname)}
    return tops | {alias.asname: alias.name for alias in node.names if alias.asname}
