"""The report's figures by hand, its reading of any results folder, and what it writes beside it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import random
import re
import xml.etree.ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import main
from experiment.report.charts import chart_data
from experiment.report.page import page, times
from experiment.report.reader import read_folder
from experiment.report.rows import Row, best, effects, front, pareto, rows_of, signed
from experiment.report.write import html, write_report
from experiment.running.metrics import FIGURES
from machine.errors import Interrupted
from tests.conftest import Suites
from tests.report_samples import history, metrics, sensitivities, small_suite, study, write

EVIL = '<script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" ${x} {{ 7*7 }}'


def rows(folder: Path) -> dict[str, Row]:
    return {row.name: row for row in rows_of(read_folder(folder))}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    small_suite(tmp_path)
    return tmp_path


# --- what was found -----------------------------------------------------------------------------


def test_a_pareto_front_by_hand() -> None:
    points = [
        ("cheap", 1, 80.0),
        ("beaten", 2, 79.0),
        ("middle", 2, 85.0),
        ("twin", 2, 85.0),  # equal to middle: neither beats the other
        ("dear", 5, 85.0),  # no more accurate than middle
        ("best", 6, 90.0),
    ]
    assert pareto(points) == ["cheap", "middle", "twin", "best"]
    assert pareto([]) == []


def test_a_pareto_front_is_what_nothing_beats() -> None:
    random.seed(3)
    points = [(str(i), random.randint(0, 9), float(random.randint(0, 9))) for i in range(60)]
    unbeaten = {
        name
        for name, cost, accuracy in points
        if not any(c <= cost and a >= accuracy and (c < cost or a > accuracy) for _, c, a in points)
    }
    assert set(pareto(points)) == unbeaten


def test_the_best_chain_under_each_drop_by_hand(small: Path) -> None:
    by_name = rows(small)
    found = {
        (limit, cost): chain.name if (chain := best(by_name.values(), limit, cost)) else None
        for limit in (0.05, 0.5, 1.0, 2.0)
        for cost in ("bitops", "model_size_mb", "latency_ms_batch_1")
    }
    # drops: E 0.1, Q 0.5, PF 0.8, PFQ 1.4, Slow 3
    assert found == {
        (0.05, "bitops"): None, (0.05, "model_size_mb"): None, (0.05, "latency_ms_batch_1"): None,
        (0.5, "bitops"): "Q", (0.5, "model_size_mb"): "Q", (0.5, "latency_ms_batch_1"): "E",
        (1.0, "bitops"): "Q", (1.0, "model_size_mb"): "Q", (1.0, "latency_ms_batch_1"): "E",
        (2.0, "bitops"): "PFQ", (2.0, "model_size_mb"): "PFQ", (2.0, "latency_ms_batch_1"): "E",
    }  # fmt: skip


def test_a_chain_no_cheaper_or_not_done_is_never_the_best(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None)
    write(tmp_path, "Same", [("ptq", metrics(90.0))])
    write(tmp_path, "Failed", [("ptq", metrics(90.0, bitops=1))], status="failed")
    found = list(rows(tmp_path).values())
    assert best(found, 2.0, "bitops") is None
    assert front(found, "bitops") == ["Base", "Same"]


def test_what_the_page_says_was_found(small: Path) -> None:
    said = page(read_folder(small))
    assert said["headlines"][0] == (
        "At most 1 point below Base: Q (ptq), 16.0× fewer BitOps, 4.0× smaller, 1.25× faster at "
        "batch 1; 89.50\N{NO-BREAK SPACE}% (−0.50)."
    )
    half, one, two = said["found"][0]["limits"]
    assert [limit["within"] for limit in (half, one, two)] == [2, 3, 4]
    assert [item["name"] for item in two["bests"]] == ["PFQ", "PFQ", "E"]
    assert two["bests"][0]["times"] == "32× fewer BitOps"


def test_what_each_stage_brought_by_hand(small: Path) -> None:
    found = {effect.kind: effect for effect in effects(rows(small).values())}
    pruning = found["pruning (structural) + finetune"]
    assert pruning.uses == 1  # PF and PFQ share it
    assert pruning.points == pytest.approx((-0.8, -0.8, -0.8))
    assert pruning.ratios["macs"] == pytest.approx((0.5, 0.5, 0.5))
    int8 = found["int8 (ptq)"]
    assert int8.uses == 3  # Q: -0.5, PFQ: -0.6 after PF, Slow: -3
    assert int8.points == pytest.approx((-0.6, -3.0, -0.5))
    assert int8.ratios["model_size_mb"] == pytest.approx((0.25, 0.25, 0.25))
    assert int8.ratios["latency_ms_batch_1"] == pytest.approx((0.5 / 0.6, 0.8, 3.0))


def test_a_prune_without_training_after_it_says_so(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None)
    write(tmp_path, "P", [("prune", metrics(50.0)), ("ptq", metrics(49.0))])
    assert [e.kind for e in effects(rows(tmp_path).values())] == [
        "int8 (ptq)",
        "pruning (structural), nothing after",
    ]


def test_changes_are_against_the_same_seeds(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None, seeds=(0, 1, 2), spread=1.0)
    write(tmp_path, "Q", [("ptq", metrics(89.0))], seeds=(1, 2), spread=2.0)
    chain = rows(tmp_path)["Q"]
    # baseline at seeds 1 and 2: 91 and 92; the chain: 91 and 93
    assert chain.drop == pytest.approx(91.5 - 92)
    assert chain.final["accuracy"].std == pytest.approx(2**0.5)
    cells = page(read_folder(tmp_path))["rows"][1]["cells"]
    assert cells["accuracy"][:2] == ("92.00", "± 1.41 (2)")


def test_ratios_in_words() -> None:
    size, latency = FIGURES["model_size_mb"], FIGURES["latency_ms_batch_1"]
    assert times(0.25, size) == "4.0× smaller"
    assert times(1.5, latency) == "1.50× slower"
    assert times(1 / 859, FIGURES["bitops"]) == "859× fewer BitOps"
    assert times(1.001, size) == "the same"
    assert [signed(-0.004), signed(-0.5), signed(2)] == ["+0.00", "−0.50", "+2.00"]


# --- reading ------------------------------------------------------------------------------------


def test_a_folder_without_results(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert page(read_folder(folder))["headlines"] == [
            "No results yet: python main.py makes them."
        ]


def test_what_cannot_be_read_is_named(small: Path) -> None:
    (small / "Broken_results.json").write_text('{"experiment": "Bro')
    (small / "List_results.json").write_text("[1, 2]")
    (small / "Text_results.json").write_text(
        json.dumps(
            {"experiment": "Text", "stages": [{"stage": "ptq", "metrics": {"accuracy": "x"}}]}
        )
    )
    (small / "Copy_results.json").write_text((small / "Q_results.json").read_text())
    (small / "Binary_results.json").write_bytes(b"\xff\xfe\x00")
    (small / "study_X.json").write_text("3")
    (small / "Y_sensitivity.json").write_text('{"curves": 3}')
    (small / "_all_experiments_summary.json").write_text("{}")
    folder = read_folder(small)
    assert len(folder.results) == 6
    told = "\n".join(folder.problems)
    for name in ("Broken", "List", "Text", "Copy", "Binary", "study_X", "Y_sensitivity"):
        assert name in told
    assert "Text_results.json: stages.0.metrics: Value error, accuracy is not a number" in told
    assert len(folder.problems) == 7
    assert "Broken_results.json" in html(folder)


def test_partial_results_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None)
    write(
        tmp_path,
        "Half",
        [("prune", metrics(40.0)), ("finetune", metrics(88.0))],
        status="interrupted",
        final={},
        config={"sequence": [{"prune": {}}, {"finetune": {}}, {"ptq": {}}]},
    )
    write(tmp_path, "Orphan", [("ptq", metrics(80.0))], baseline="Gone")
    error = {"seed": 1, "stage": "prune", "error": "ValueError", "message": EVIL}
    nothing: dict[str, Any] = {"status": "failed", "final": {}, "stages": [], "errors": [error]}
    write(tmp_path, "Nothing", [("ptq", metrics(1.0))], **nothing)
    write(tmp_path, "On_Bare", [("ptq", metrics(80.0))], baseline="Bare")
    (tmp_path / "Bare_results.json").write_text('{"experiment": "Bare"}')
    said = page(read_folder(tmp_path))
    unfinished = {item["name"]: item for item in said["unfinished"]}
    assert unfinished["Half"]["done"] == "2 of 3 stages"
    assert unfinished["Nothing"]["errors"] == [f"seed 1 in prune: ValueError: {EVIL}"]
    assert unfinished["Bare"]["status"] == "unknown"
    assert any(line.startswith("Gone: no results here") for line in said["problems"])
    charts = {item["name"]: item for item in said["data"]["experiments"]}
    assert [step["metrics"]["accuracy"] for step in charts["Half"]["steps"]] == [40.0, 88.0]
    assert charts["Half"]["start"]["accuracy"] == 90.0


def test_figures_that_are_not_finite(tmp_path: Path) -> None:
    diverged = metrics(10.0, loss=None)
    write(tmp_path, "Base", [("train", diverged)], baseline=None, final={
        "accuracy": {"mean": 10.0, "std": None, "n": 1},
        "loss": {"mean": None, "std": None, "n": 1}})  # fmt: skip
    text = html(read_folder(tmp_path))
    assert "NaN" not in text.split('id="data">')[1].split("</script>")[0]


def test_other_machines_are_pointed_out(small: Path) -> None:
    write(small, "Q2", [("ptq", metrics(89.0))], environment={"device": "cpu", "threads": 8})
    said = page(read_folder(small))
    assert any("latencies come from 2 machines" in line for line in said["problems"])
    assert len(said["environments"]) == 2


def test_warnings_that_differ_in_figures_are_told_once(tmp_path: Path) -> None:
    for name, speed in (("A", 0.48), ("B", 0.51)):
        slow = metrics(80.0, warnings=[f"int8 speed over its float form: {speed}"])
        write(tmp_path, name, [("ptq", slow)])
    (told,) = page(read_folder(tmp_path))["warnings"]
    assert told == {"text": "int8 speed over its float form: 0.48", "names": ["A", "B"]}


# --- series for the charts ----------------------------------------------------------------------


def data_of(folder: Path) -> dict[str, Any]:
    read = read_folder(folder)
    return chart_data(read, rows_of(read), [])


def test_widths_before_and_after(tmp_path: Path) -> None:
    details = {
        "prune": {
            "widths": {"ffn_dim": [[128, 64], [96]], "embed_dim": [64, 48]},
            "zero_channels": {"embed": [51, 128]},
            "layer_macs": {"head": [10, 5]},
        }
    }
    write(tmp_path, "P", [("prune", metrics(50.0))], details=details)
    (step,) = data_of(tmp_path)["experiments"][0]["steps"]
    assert step["widths"] == {
        "ffn_dim 1": [128, 96],
        "ffn_dim 2": [64, 0],  # that layer is gone
        "embed_dim": [64, 48],
        "embed": [128, 77],
    }
    assert step["layer_macs"] == {"head": [10, 5]}


def test_curves_exits_and_scans(tmp_path: Path) -> None:
    exits = {"places": ["cnn", "end"], "share": [0.5, 0.5], "macs": [1, 2]}
    other = {**exits, "share": [0.7, 0.3]}
    write(tmp_path, "E", [("early_exit", metrics(50.0, exits=exits))], seeds=(0, 1),
          details={"early_exit": {"history": history(3)}})  # fmt: skip
    written = json.loads((tmp_path / "E_results.json").read_text())
    written["stages"][1]["metrics"]["exits"] = other
    (tmp_path / "E_results.json").write_text(json.dumps(written))
    auto = {
        "ptq": {"float_layers": {"scan": [{"layer": "head", "sqnr_db": 9.0, "accuracy": 80.0}],
                                 "float_accuracy": 81.0, "float_layers": ["head"]}},
        "prune": {"sensitivity": {"cnn.blocks.0": [[0.0, 90.0], [0.5, 70.0]]}},
    }  # fmt: skip
    write(tmp_path, "Auto", [("prune", metrics(50.0)), ("ptq", metrics(49.0))], details=auto)
    sensitivities(tmp_path)
    data = data_of(tmp_path)
    (shares,) = data["exits"]
    assert shares["share"] == pytest.approx([0.6, 0.4])
    curves = next(e for e in data["experiments"] if e["name"] == "E")["curves"]
    assert [curve["seed"] for curve in curves] == [0, 1]
    assert curves[0]["train_loss"] == pytest.approx([1, 1 / 2, 1 / 3], rel=1e-5)
    assert [scan["title"] for scan in data["sensitivities"]] == [
        "Base: int8", "Base: pruning, l1", "Auto: prune", "Auto: ptq",
    ]  # fmt: skip
    assert data["sensitivities"][1]["lines"]["cnn.blocks.0"] == [[0, 90.0], [0.5, 65.0]]


def test_a_study_of_the_documented_fields(small: Path) -> None:
    study(small)
    said = page(read_folder(small))
    (shown,) = said["studies"]
    assert shown["findings"][:2] == ["order: P → Q → E", "undecided: Q / E"]
    assert shown["stages"] == ["P", "Q", "E"]
    assert [chain["name"] for chain in shown["ranking"]] == ["S_PQ", "S_QP"]
    assert shown["ranking"][1]["text"] == "88.00 ± 0.50"
    assert shown["pairs"][0]["at"] == ["+0.80 (+0.20 to +1.40)", "–"]
    assert said["headlines"][-1] == "Study S, order: P → Q → E; undecided: Q / E."


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "it"),
        ({"pairs": 3}, "pairs"),
        ({"pairs": [{"first": "P", "second": "Q"}, {}]}, "pairs.1.first"),
        ({"chains": [{"name": "X", "metrics": {"accuracy": "x"}}]}, "chains.0.metrics.accuracy"),
        ({"pairs": [{"first": "P", "second": "Q", "interval": [None, 1]}]}, "pairs.0.interval.0"),
        ({"config": {"stages": {"P": 3}}}, "config.stages.P.str"),
        ({"best": [{"within": 1}]}, "best.0.chain"),
    ],
)
def test_a_study_of_another_shape_is_named_and_left_out(
    tmp_path: Path, value: Any, field: str
) -> None:
    (tmp_path / "study_X.json").write_text(json.dumps(value))
    folder = read_folder(tmp_path)
    assert folder.studies == {}
    (problem,) = folder.problems
    assert problem.startswith(f"study_X.json: {field}: ") and problem.endswith("; left out")
    assert "study_X.json" in html(folder)


def test_a_study_with_nothing_in_it_is_shown(tmp_path: Path) -> None:
    (tmp_path / "study_X.json").write_text("{}")
    folder = read_folder(tmp_path)
    assert page(folder)["headlines"][-1] == "Study X, order: none."
    assert "Order studies" in html(folder)


# --- the page -----------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the contents of its scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data


def hostile(folder: Path) -> None:
    """Hostile text wherever results can hold text."""
    small_suite(folder)
    result = json.loads((folder / "PFQ_results.json").read_text())
    for key in ("suite", "command", "git_commit", "written", "status"):
        result[key] = EVIL
    result["errors"] = [{"seed": EVIL, "stage": EVIL, "error": EVIL, "message": EVIL}]
    result["environment"] = {EVIL: EVIL}
    result["config"] = {"dataset_args": {"name": EVIL}, "sequence": [{EVIL: {EVIL: EVIL}}]}
    for stage in result["stages"]:
        stage["stage"] = EVIL
        stage["spec"] = {EVIL: EVIL}
        stage["metrics"]["warnings"] = [EVIL]
        stage["metrics"]["exits"] = {"places": [EVIL], "share": [1.0]}
        stage["details"] = {
            "widths": {EVIL: [3, 2]},
            "history": history(2),
            "sensitivity": {EVIL: [[0.0, 1.0]]},
        }
    (folder / "PFQ_results.json").write_text(json.dumps(result))
    named = {**result, "experiment": f"x{EVIL}".replace("/", ""), "baseline": EVIL}
    (folder / f"{named['experiment']}_results.json").write_text(json.dumps(named))
    pair = {"first": EVIL, "second": "Q", "difference": 1.0}
    text = {"order": [EVIL], "pairs": [pair], "undecided": [[EVIL, EVIL]], "cycles": [[EVIL]],
            "chains": [{"name": EVIL, "metrics": {"accuracy": {"mean": 1}}}], "failed": [EVIL],
            "config": {"stages": {EVIL: EVIL}}}  # fmt: skip
    (folder / "study_S.json").write_text(json.dumps(text))
    (folder / "Z_sensitivity.json").write_text(
        json.dumps({"experiment": EVIL, "curves": {EVIL: [{"ratio": 0, "accuracy": 1}]}})
    )


def test_every_text_is_escaped(tmp_path: Path) -> None:
    hostile(tmp_path)
    tags = Tags(html(read_folder(tmp_path)))
    assert len(tags.scripts) == 3  # the data, ours, Plotly: no other
    assert not any(tag == "img" for tag, _ in tags.tags)
    assert not any(name.startswith("on") for _, attributes in tags.tags for name in attributes)
    assert EVIL in json.dumps(json.loads(tags.scripts[0]), ensure_ascii=False).replace('\\"', '"')


def test_nothing_is_loaded_and_only_the_two_scripts_may_run(small: Path) -> None:
    tags = Tags(html(read_folder(small)))
    for _, attributes in tags.tags:
        for name in ("src", "href", "action", "srcset"):
            target = attributes.get(name) or "#"
            assert target.startswith("#") or target == "data:,"
    policy = next(a["content"] or "" for t, a in tags.tags if t == "meta" and "content" in a)
    allowed = re.findall("'sha256-([^']+)'", policy)
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in tags.scripts[1:]
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert set(allowed) == set(digests)


def test_equal_results_give_equal_bytes(small: Path) -> None:
    first = {path.name: path.read_bytes() for path in write_report(small)}
    assert {path.name: path.read_bytes() for path in write_report(small)} == first
    assert read_folder(small).problems == []  # what it wrote does not disturb it


# --- tables and pictures ------------------------------------------------------------------------


def test_tables_hold_the_same_figures(tmp_path: Path) -> None:
    write(
        tmp_path, "Base_FP32", [("train", metrics(90.0))], baseline=None, seeds=(0, 1), spread=1.0
    )
    write(tmp_path, "Q_8", [("ptq", metrics(89.0, model_size_mb=1.0))], baseline="Base_FP32",
          seeds=(0, 1), spread=1.0)  # fmt: skip
    write_report(tmp_path)
    base, chain = csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text()))
    assert (chain["experiment"], chain["n"], chain["stages"]) == ("Q_8", "2", "ptq")
    assert float(chain["accuracy_mean"]) == 89.5
    assert float(chain["accuracy_std"]) == pytest.approx(0.5**0.5)
    assert float(chain["accuracy_points"]) == -1.0
    assert float(chain["model_size_mb_ratio"]) == 0.25
    assert base["accuracy_points"] == ""
    markdown = (tmp_path / "summary.md").read_text().splitlines()
    assert markdown[3].startswith("| Q\\_8 | ptq | 89.50 ± 0.71 (2) | −1.00 | 1.000 ± 0.000 (2) |")
    assert len({line.count(" | ") for line in markdown if "---" not in line}) == 1
    latex = (tmp_path / "summary.tex").read_text().splitlines()
    assert latex[0] == r"\begin{tabular}{llrrrrrr}"
    assert latex[5].startswith(r"Q\_8 & ptq & 89.50 $\pm$ 0.71 (2) & $-$1.00 & 1.000")
    assert latex[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_pictures_for_a_paper(small: Path) -> None:
    names = {path.name for path in write_report(small) if path.parent.name == "figures"}
    stems = ("accuracy_bitops", "accuracy_latency", "accuracy_size")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert (small / "figures/accuracy_size.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    xml.etree.ElementTree.parse(small / "figures/accuracy_size.svg")
    write(small, "Other", [("train", metrics(50.0))], baseline=None,
          config={"dataset_args": {"name": "ImageFolder", "root": "/x/pets"}})  # fmt: skip
    write_report(small)
    drawn = {path.name for path in (small / "figures").iterdir()}
    assert "accuracy_size_ImageFolder_pets.png" in drawn
    assert "accuracy_size.png" not in drawn  # of one test split only, so no longer true
    assert len(drawn) == 12


# --- the command line ---------------------------------------------------------------------------


def test_a_run_writes_the_report(suites: Suites) -> None:
    text = """
        EXPERIMENT_CONFIGS += [chain("SQ", {"prune": {"mode": "structural", "ratio": 0.4}}, "ptq")]
    """
    assert suites.run(text) == 0
    written = suites.results / "report.html"
    assert f"report: {written}" in suites.capsys.readouterr().out
    tags = Tags(written.read_text())
    data = json.loads(tags.scripts[0])
    by_name = {item["name"]: item for item in data["experiments"]}
    assert by_name["SQ"]["sequence"] == "prune → ptq"
    assert by_name["SQ"]["steps"][0]["layer_macs"]
    assert by_name["Base"]["curves"][0]["train_loss"]
    # From the JSON alone: no data set, no checkpoints, and a suite that could not run here.
    before = written.read_bytes()
    written.unlink()
    lost = 'DEFAULT_DATASET_CONFIG = {"name": "ImageFolder", "root": "/not/there"}'
    assert suites.run(lost, "--report") == 0
    assert written.read_bytes() == before


def test_an_interrupted_run_writes_the_report(suites: Suites, monkeypatch: Any) -> None:
    def interrupted(*args: Any) -> None:
        raise Interrupted

    monkeypatch.setattr("experiment.running.executor.SerialExecutor.run", interrupted)
    assert suites.run() == 130
    assert (suites.results / "report.html").exists()


def test_report_on_the_command_line(suites: Suites) -> None:
    assert suites.run("", "--report") == 0
    assert "No results yet" in (suites.results / "report.html").read_text()
    assert not suites.models.exists()
    assert suites.run("RESULTS_DIR = 3", "--report") == 2
    assert "RESULTS_DIR: 3 is not a folder name" in suites.capsys.readouterr().err
    assert suites.run("", "--report", "--dry-run") == 2
    assert main.main(["--config", "nowhere.py", "--report"]) == 2
