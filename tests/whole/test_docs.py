"""README and docs/ are true: code runs, what is named is there, both languages say the same."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import io
import json
import keyword
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import dataset
import main
from data_sets.source import DatasetEntry
from experiment.running import measure
from experiment.running.checkpoint import load_checkpoint, read_checkpoint
from experiment.running.metrics import FIGURES, Figure
from experiment.search.plan import load_search, load_searches
from experiment.study.plan import load_studies, load_study
from experiment.suite.schema import load_suite
from model import ARCHITECTURES, HYBRID
from networks.foreign import FACTS
from stages import STAGES, Stage
from stages.deployment import Deployed
from tests.support import docs
from tests.support.docs import RESULTS, TEXTS, TWINS, Block
from tests.support.home import HOME
from tests.support.hurried import hurry
from tests.support.option_tables import options_of
from tests.support.search_samples import full_search
from tests.support.suites import Suites
from tests.support.user_nets import user_file

LONGEST_README = 200  # lines
LINES_TOLERANCE = 0.15  # by which the map's numbers of lines may be off

# The file's tables of options in their order: what each is about.
OPTION_TABLES = {
    "configuration.md": [
        "experiment", "stop_if", "dataset_args", "model_args", "training_args", "compression_args",
        "deployment_args",
    ],
    "stages.md": [*STAGES, "teacher"],
    "order-studies.md": ["study"],
    "searches.md": ["search"],
}  # fmt: skip

# Put after the quickstart's text, so that the chains that README names take seconds.
TINY = """
DEVICE = "cpu"
DEFAULT_MODEL_PARAMS |= {"cnn_channels": [8, 16], "embed_dim": 16, "num_layers": 1, "num_heads": 2}
DEFAULT_TRAINING_PARAMS |= {"initial_train_epochs": 1, "batch_size": 256}
DEFAULT_COMPRESSION_PARAMS |= {
    "finetune_epochs": 1, "qat_epochs": 1, "ptq_calibration_batches": 1,
}
NAMED = ("Digits_Baseline_FP32", "Digits_P_F_QAT", "Digits_QAT_P_F", "Digits_S_F_Q")
EXPERIMENT_CONFIGS = [config for config in EXPERIMENT_CONFIGS if config["name"] in NAMED]
"""

# Names of other programs, which our code has no reason to hold.
FOREIGN = {
    ".venv", "AOTI_CPU_ISA", "booktabs", "get_metadata", "make", "mlflow", "named_modules", "null",
    "operator torchvision::nms does not exist", "pandas", "rt_info", "VisionTransformer",
    "IMAGENET1K_V1", "aux_logits", "shufflenet_v2_x0_5",
}  # fmt: skip
# What stands for something of the user's.
PLACEHOLDERS = {
    "CHECKPOINT", "EXPERIMENT", "FILE", "FOLDER", "HOST", "IMAGE", "KEY", "NAME", "PORT",
    "a/b.py", "tests/a/test_b.py", "BASELINE", "CLASS", "PLACE", "TinyNet", "my_nets", "my_nets.py",
}  # fmt: skip
SUFFIXES = {".csv", ".html", ".json", ".md", ".pth", ".py", ".tex", ".toml", ".txt"}  # of files


# --- the code runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the project's configs, the quickstart made tiny, in which README's code ran."""
    folder = tmp_path_factory.mktemp("ran")
    shutil.copytree(HOME / "configs", folder / "configs")
    shutil.copy(HOME / "config.py", folder)
    quickstart = folder / "configs" / "quickstart.py"
    quickstart.write_text(quickstart.read_text() + TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        hurry(patch)
        patch.setattr("experiment.report.write.draw_pictures", lambda *about: [])
        for block in docs.blocks("README.md"):
            if (block.language, block.use) == ("bash", "run"):
                for command in commands(block):
                    assert run(command) == 0, command
    return folder


def commands(block: Block) -> list[str]:
    """The lines of a block of bash, each whole."""
    lines = block.code.replace("\\\n", "").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def run(command: str) -> int:
    """A command of README, in this process where it is the project's own."""
    words = shlex.split(command, comments=True)
    if words == ["python", "main.py", "doctor"]:
        return 0  # loads every package in a process of its own; tested with the command
    if words[:2] == ["python", "main.py"]:
        with redirect_stdout(io.StringIO()):
            return main.main(words[2:])
    if words[:2] == ["python", "-c"]:
        exec(words[2], {})
        return 0
    return subprocess.run(words, check=False).returncode


def test_readmes_commands_run(ran: Path) -> None:
    assert len(list((ran / "results").glob("*_results.json"))) == 4
    assert (ran / "digit.png").exists()


@pytest.mark.parametrize("text", TWINS)
def test_python_blocks(text: str, ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """'run' is run in a folder of results; 'config' makes a suite that the checks let pass."""
    monkeypatch.chdir(ran)
    for number, block in enumerate(docs.blocks(text)):
        if block.language != "python":
            continue
        compile(block.code, f"{text}, block {number}", "exec")
        if block.use == "run":
            with redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
                for name, stand_in in STAND_INS.items():
                    if f"import {name}" in block.code:
                        patch.setitem(sys.modules, name, stand_in)
                exec(block.code, {})
        elif block.use == "config":
            suite = ran / "configs" / f"block_{number}.py"
            suite.write_text(docs.read("configs/quickstart.py") + block.code)  # not made tiny
            load_suite(suite)
            for study in load_studies(suite):
                load_study(suite, study.name)
            for search in load_searches(suite):
                load_search(suite, search.name)


class Table:
    """As far as docs/outputs.md uses pandas' tables: knows its columns alone."""

    def __init__(
        self, rows: list[Any], path: list[str] | None = None, meta: list[str] | None = None
    ):
        self.columns = {name for row in rows for name in flat(row)}
        if path is not None:
            inner = [item for row in rows for item in functools.reduce(dict.__getitem__, path, row)]
            assert set(meta or []) <= self.columns
            self.columns = {*flat(inner[0]), *(meta or [])}

    def groupby(self, columns: list[str], sort: bool) -> Table:
        return self[columns]

    def last(self) -> Table:
        return self

    def __getitem__(self, columns: list[str]) -> Table:
        assert set(columns) <= self.columns, columns
        return self


def flat(row: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in row.items():
        yield f"{before}{key}"
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")


def log_metrics(values: dict[str, float]) -> None:
    assert values and all(isinstance(value, float) for value in values.values())


STAND_INS: dict[str, Any] = {  # for packages that are not installed for the tests
    "pandas": types.SimpleNamespace(json_normalize=Table),
    "mlflow": types.SimpleNamespace(
        start_run=lambda run_name: nullcontext(),
        set_tags=dict,
        log_dict=lambda values, name: json.dumps(values),
        log_metrics=log_metrics,
    ),
}


def example(first_line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The file of docs/extending.md that begins so, imported as what it says it is."""
    name = first_line.removeprefix("# ").removesuffix(".py").replace("/", ".")
    path = folder / Path(first_line).name
    path.write_text(docs.block("docs/extending.md", first_line))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_example_of_a_data_set(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("# data_sets/shapes.py", suites.folder, monkeypatch)
    row = DatasetEntry(module.describe_shapes, module.load_shapes)
    monkeypatch.setitem(dataset.DATASET_REGISTRY, "Shapes", row)
    suite = 'DEFAULT_DATASET_CONFIG = {"name": "Shapes"}'
    assert "shapes.npz is missing; put it there" in suites.refused(suite)[0]
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (80, 1, 8, 8), dtype=np.uint8)
    labels = draw.integers(0, 2, 80)
    (suites.folder / "data").mkdir()
    np.savez(
        suites.folder / "data" / "shapes.npz",
        train_images=images, train_labels=labels, test_images=images[:9], test_labels=labels[:9],
    )  # fmt: skip
    assert suites.run(suite, "--set", "training_args.batch_size=16") == 0
    data = read_checkpoint(suites.models / "Base_fp32_baseline.pth").data
    assert data is not None and data["classes"] == ["circle", "square"]


def test_the_example_of_a_stage(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("# stages/rounding.py", suites.folder, monkeypatch)
    monkeypatch.setitem(STAGES, "round", Stage(module.RoundSpec, module.round_weights))
    chains = 'EXPERIMENT_CONFIGS.append(chain("R", "ptq", {"round": {"places": 1}}))'
    assert suites.run(chains) == 0
    results = json.loads((suites.results / "R_results.json").read_text())
    assert 0 < results["stages"][1]["details"]["largest_change"] <= 0.05 + 1e-6
    path = suites.models / "R_quantized_ptq_int8_rounded_1.pth"
    weight = load_checkpoint(path).weights["cnn.blocks.0.conv.weight"]
    torch.testing.assert_close(weight * 10, (weight * 10).round())
    assert suites.run(chains.replace("places", "place")) == 2
    assert "did you mean 'places'?" in suites.capsys.readouterr().err


@pytest.mark.parametrize("text", ["docs/networks.md", docs.TWINS["docs/networks.md"]])
def test_the_example_of_a_network(
    text: str, suites: Suites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_file(tmp_path, docs.block(text, "# my_nets.py"))
    monkeypatch.chdir(tmp_path)
    assert suites.run(docs.block(text, "# my_suite.py")) == 0
    assert "my_nets.py:TinyNet, width 32" in suites.capsys.readouterr().out


def test_the_example_of_a_metric(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    space: dict[str, Any] = {"Figure": Figure, "nn": torch.nn, "torch": torch}
    exec(docs.block("docs/extending.md", "# in experiment/running/measure.py"), space)
    plain = measure.static_metrics

    def static_metrics(deployed: Deployed, *ran: Any) -> dict[str, Any]:
        return {**plain(deployed, *ran), "zero_share": space["zero_share"](deployed.float_network)}

    monkeypatch.setattr(measure, "static_metrics", static_metrics)
    monkeypatch.setitem(FIGURES, "zero_share", space["ZEROS"])
    chain = 'EXPERIMENT_CONFIGS.append(chain("P", {"prune": {"ratio": 0.5}}))'
    assert suites.run(chain) == 0
    result = json.loads((suites.results / "P_results.json").read_text())
    assert 0.2 < result["final"]["zero_share"]["mean"] < 0.6
    assert "zero_share_mean" in (suites.results / "summary.csv").read_text()


# --- figures have one source ---------------------------------------------------------------------


def test_readmes_excerpt_is_of_the_run_that_the_quickstart_tells_of() -> None:
    told = ast.get_docstring(ast.parse(docs.read("configs/quickstart.py"))) or ""
    figures = re.search(
        r"baseline ([\d.]+) %, .*?\s([\d.]+) %\s+at ([\d.]+) of its size", told, re.S
    )
    assert figures is not None
    (table,) = (b.code for b in docs.blocks("README.md") if "┃ experiment" in b.code)
    rows = [[cell.strip() for cell in line.split("│")[1:]] for line in table.splitlines()[1:]]
    shown = {name: (accuracy.split()[0], size) for name, _, accuracy, size, *_ in rows}
    baseline, chain = shown["Digits_Baseline_FP32"], shown["Digits_P_F_QAT"]
    assert [f"{float(accuracy):.1f}" for accuracy, _ in (baseline, chain)] == [
        *figures.groups()[:2]
    ]
    assert f"×{figures[3]}" in chain[1]


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_map_counts_the_lines(readme: str) -> None:
    (rows,) = (table for table in docs.tables(readme) if table[1][0].startswith("`main.py`"))
    counted = []
    for part, lines, _ in rows[1:]:
        counted += docs.spans(part)
        here = sum(map(lines_of, docs.spans(part)))
        assert abs(int(lines.replace(",", "")) - here) <= LINES_TOLERANCE * here, (part, here)
    code = {path.parts[0] for path in map(Path, files()) if path.suffix == ".py"}
    folders = {name.rstrip("/").split("/")[0] for name in counted}
    assert folders == code


def lines_of(part: str) -> int:
    """Lines of a file, or of all files below a folder that somebody wrote as text."""
    kinds = (".py", ".cpp", ".h", ".js", ".css", ".j2")
    inside = [name for name in files() if name == part or name.startswith(part)]
    return sum(len(docs.read(name).splitlines()) for name in inside if name.endswith(kinds))


def test_readme_is_short() -> None:
    for readme in ("README.md", "README.zh-CN.md"):
        assert len(docs.read(readme).splitlines()) <= LONGEST_README


# --- what is named is there ----------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["docs", "docs/zh-CN"])
@pytest.mark.parametrize("text", OPTION_TABLES)
def test_options_have_the_specs_defaults_and_ranges(text: str, folder: str) -> None:
    found = [t for t in docs.tables(f"{folder}/{text}") if len(t[0]) == 4]
    for table, kind in zip(found, OPTION_TABLES[text], strict=True):
        expected = [[f"`{name}`", *cells] for name, cells in options_of(kind).items()]
        assert [row[:3] for row in table[1:]] == expected, kind


@pytest.mark.parametrize("folder", ["docs", "docs/zh-CN"])
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != HYBRID])
def test_arguments_of_networks_are_those_of_their_constructors(name: str, folder: str) -> None:
    found = [t for t in docs.tables(f"{folder}/configuration.md") if len(t[0]) == 3]
    arguments = inspect.signature(ARCHITECTURES[name]).parameters.values()
    own = [a for a in arguments if a.name not in ("exits", *FACTS)]
    expected = [[f"`{a.name}`", f"`{a.default!r}`"] for a in own]
    assert expected in [[row[:2] for row in table[1:]] for table in found]


def test_every_requirement_is_explained() -> None:
    for text in ("docs/configuration.md", "docs/zh-CN/configuration.md"):
        assert requirements() <= set(docs.spans(docs.prose(text)))


@pytest.mark.parametrize("text", [*TEXTS, *RESULTS])
def test_links_lead_somewhere(text: str) -> None:
    for link in docs.links(text):
        name, _, place = link.partition("#")
        target = (HOME / text).parent / name if name else HOME / text
        assert target.exists(), link
        if place:
            there = docs.headings(str(target.resolve().relative_to(HOME)))
            assert place in map(docs.anchor, there), link


@pytest.mark.parametrize("text", TEXTS)
def test_results_are_pointed_to_by_section(text: str) -> None:
    """But for the table of all claims; that the section is there, the test above says."""
    for link in docs.links(text):
        if "results/" in link and not link.endswith("results/README.md"):
            assert "#" in link, link


@pytest.mark.parametrize("text", TEXTS)
def test_what_stands_in_backticks_exists(text: str, ran: Path) -> None:
    missing = [span for span in docs.spans(docs.prose(text)) if not exists(span, ran)]
    if text == "CHANGELOG.md":  # says what baselines were called before, and how benchmarks ran
        gone = r"(Serial|Parallel)_CIFAR100?_Baseline_FP32|python benchmarks/training.py"
        missing = [span for span in missing if not re.fullmatch(gone, span)]
    assert missing == []


def test_commands_in_blocks_are_known(ran: Path) -> None:
    for text in TWINS:
        for block in docs.blocks(text):
            if block.language == "bash":
                for line in commands(block):
                    assert "main.py" not in line or command_exists(line), line


def exists(span: str, ran: Path) -> bool:
    """Whether the thing that a text names in backticks is there."""
    span = span.replace("\\|", "|")
    if span in FOREIGN or span.startswith("pip install "):
        return True
    if span.startswith(("python main.py", "--")):
        return command_exists(span)
    if span.startswith("python -m pytest "):
        return exists(span.split()[3], ran)
    if span.startswith("python -m "):
        module = HOME / span.split()[2].replace(".", "/")
        return module.with_suffix(".py").exists() or (module / "__main__.py").exists()
    if span.startswith("sh "):
        return (HOME / span.split()[1]).exists()
    if span.startswith("make "):
        return all(made_by_make(word.partition("=")[0]) for word in span.split()[1:])
    if re.fullmatch(r"[\w.<>*/-]+", span) and ("/" in span or Path(span).suffix in SUFFIXES):
        return file_exists(span, ran)
    return all(map(word_exists, re.findall(r"[A-Za-z_][\w-]*(?:\.\w+)*\*?", span)))


def made_by_make(word: str) -> bool:
    """Whether the Makefile has such a target or variable."""
    return re.search(rf"^{word}(:| \?=)", docs.read("Makefile"), re.MULTILINE) is not None


@functools.cache
def files() -> tuple[str, ...]:
    """Every file of the project, as git lists it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=True)
    return tuple(name for name in listed.stdout.splitlines() if (HOME / name).exists())


def file_exists(name: str, ran: Path) -> bool:
    """A file or folder of the project, one that the run has made, or one that the code makes."""
    if name in PLACEHOLDERS or (HOME / name).exists():
        return True
    if any(file.endswith(f"/{name}") for file in files()):
        return True  # a bare name, beside others of its folder
    made = re.sub("NAME|KEY", "*", name.rstrip("/"))
    if any(ran.glob(made)) or any(ran.glob(f"saved_models/{made}")):
        return True
    parts = re.split(r"[/*]|<\w+>", made)
    return all(any(part in text for text in strings()) for part in parts if part)


def word_exists(word: str) -> bool:
    """A name of the code. Of a dotted one that begins with a module, the attribute."""
    first, *rest = word.split(".")
    if rest and (HOME / f"{first}.py").exists():
        found: Any = importlib.import_module(first)
        for name in rest:
            found = getattr(found, name, None)
        return found is not None
    if word.endswith("*"):
        return any(name.startswith(word[:-1]) for name in names())
    known = names() | requirements() | FOREIGN | PLACEHOLDERS
    return all(
        part in known
        or len(part) == 1
        or keyword.iskeyword(part)
        or part.rstrip("0123456789") in known
        for part in (first, *rest)
    )


@functools.cache
def requirements() -> frozenset[str]:
    text = docs.read("requirements.txt") + docs.read("requirements-dev.txt")
    return frozenset(re.findall(r"^[a-z][\w-]*", text, re.MULTILINE))


@functools.cache
def nodes() -> tuple[ast.AST, ...]:
    """Every piece of the code, but of the tests'."""
    code = [name for name in files() if name.endswith(".py") and not name.startswith("tests/")]
    return tuple(node for name in code for node in ast.walk(ast.parse(docs.read(name))))


@functools.cache
def strings() -> frozenset[str]:
    """Every string of the code, the pieces of f-strings included."""
    constants = (node.value for node in nodes() if isinstance(node, ast.Constant))
    return frozenset(value for value in constants if isinstance(value, str))


@functools.cache
def names() -> frozenset[str]:
    """Every name of the code, and the words of its shorter strings, where options and keys are."""
    found = {word for text in strings() if len(text) < 200 for word in re.findall(r"[\w-]+", text)}
    for node in nodes():
        for kind in ("id", "attr", "arg", "name", "module"):
            value = getattr(node, kind, None)
            found |= set(value.split(".")) if isinstance(value, str) else set()
    return frozenset(found)


@functools.cache
def help_of(command: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit):
        main.main([*([command] if command else []), "--help"])
    return out.getvalue()


def command_exists(line: str) -> bool:
    """`python main.py COMMAND --option ...`, or options alone, which some command should have."""
    rest = line.rpartition("main.py")[2]
    options, words = re.findall(r"(?<!\S)--[a-z-]+", rest), rest.split()
    if line.startswith("--"):
        able = ["", *main.COMMANDS]
    else:
        able = [words[0] if words and not words[0].startswith("-") else ""]
    if not set(able) <= {"", *main.COMMANDS}:
        return False
    return all(any(re.search(rf"{o}\b", help_of(command)) for command in able) for o in options)


# --- every field is documented -------------------------------------------------------------------


def test_every_json_field_is_in_outputs(ran: Path) -> None:
    for text in ("docs/outputs.md", "docs/zh-CN/outputs.md"):
        told = {name for span in docs.spans(docs.prose(text)) for name in span.split(".")}
        for path in (ran / "results").glob("*.json"):
            assert set(fields(json.loads(path.read_text()))) <= told, path


@pytest.mark.parametrize("text", ["docs/outputs.md", "docs/zh-CN/outputs.md"])
def test_every_field_of_a_search_is_in_outputs(text: str) -> None:
    told = {name for span in docs.spans(docs.prose(text)) for name in span.split(".")}
    assert set(fields(full_search())) <= told


# Below these stand names that the user or the network gave, or figures named elsewhere.
OPEN = {
    *("config", "spec", "quant", "zero_channels", "layer_macs", "widths", "sequence"),
    *("train_images", "test_images", "passed_over", "strengths"),
    *("figures", "apparent", "foreseen", "identity", "journal"),
}


def fields(value: Any) -> Iterator[str]:
    """The names of all fields, at whatever depth."""
    if isinstance(value, list):
        for item in value:
            yield from fields(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key.removesuffix("_ratio").removesuffix("_points")  # of a figure, in the summary
            yield from () if key in OPEN else fields(item)


# --- both languages say the same -----------------------------------------------------------------


def test_every_text_has_its_twin() -> None:
    here = {path.name for path in (HOME / "docs").glob("*.md")}
    assert {path.name for path in (HOME / "docs" / "zh-CN").glob("*.md")} == here


@pytest.mark.parametrize(("english", "chinese"), TWINS.items())
def test_twins_have_the_same_shape(english: str, chinese: str) -> None:
    one, other = docs.headings(english), docs.headings(chinese)
    assert [h.split()[0] for h in one] == [h.split()[0] for h in other]
    assert bare(english) == bare(chinese)
    for table, twin in zip(docs.tables(english), docs.tables(chinese), strict=True):
        firsts = [[docs.spans(row[0]) for row in rows] for rows in (table, twin)]
        assert firsts[0] == firsts[1]


def bare(text: str) -> list[tuple[str, str, str]]:
    """Every block without its comments, which are in the text's language."""
    return [(b.language, b.use, re.sub(r" *# .*", "", b.code)) for b in docs.blocks(text)]


def test_stages_have_the_same_headings() -> None:
    for text in ("docs/stages.md", "docs/zh-CN/stages.md"):
        parts = re.findall(r"^## `(\w+)`\n(.*?)(?=^## )", docs.prose(text), re.M | re.S)
        assert [stage for stage, _ in parts] == list(STAGES)
        shapes = {tuple(re.findall(r"^### (.*)$", part, re.M)) for _, part in parts}
        assert [len(shape) for shape in shapes] == [5]
