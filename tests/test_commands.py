"""show, compare, predict, doctor, --quiet, the overall bar and --tensorboard."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console as RichConsole

import dataset
import main
from data_sets.source import DatasetEntry
from dataset import Dataset
from experiment.commands import doctor, predict
from experiment.commands.compare import paired
from experiment.running.checkpoint import load_checkpoint, read_checkpoint
from experiment.running.progress import Forecast, Progress
from experiment.running.tables import Row, figure_tables
from machine import installation
from methods.early_exit.exits import every_logits
from methods.early_exit.thresholds import all_certainties, exit_taken
from stages import STAGES, Stage
from stages.deployment import deploy, parts_of
from tests.conftest import SUITE, Suites

HOME = Path(main.__file__).parent
SEEDS = [0, 1]
CHAINS = """
EXPERIMENT_CONFIGS += [
    chain("PF", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 2}}, seeds=[0, 1]),
    chain("PFQat", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1}}, "qat"),
    chain("QatPF", "qat", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1}}),
    chain("EQ", {"early_exit": {"epochs": 1, "thresholds": 0.25}}, "ptq"),
]
"""


class Ran(NamedTuple):
    """A suite that was run, with --tensorboard."""

    config: Path
    models: Path
    results: Path

    def result(self, name: str) -> dict[str, Any]:
        return json.loads((self.results / f"{name}_results.json").read_text())

    def checkpoint(self, name: str) -> str:
        return self.result(name)["stages"][-1]["checkpoint"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("ran")
    config = folder / "suite.py"
    config.write_text(SUITE.format(folder=folder) + CHAINS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("machine.timing.LATENCY_SECONDS", 0.01)
        assert main.main(["--config", str(config), "--quiet", "--tensorboard"]) == 0
    yield Ran(config, folder / "models", folder / "results")


@pytest.fixture
def command(ran: Ran, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a subcommand on the suite: its exit code, output, and lines of error."""

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        code = main.main([*arguments, "--config", str(ran.config)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return code, printed.out, printed.err.splitlines()

    return run


def rows(printed: str) -> dict[str, list[str]]:
    """The rows of printed tables, by their first cell; of a table in parts put together."""
    cells = [line.strip("│ ").split("│") for line in printed.splitlines() if line.startswith("│")]
    found: dict[str, list[str]] = {}
    for row in cells:
        found.setdefault(row[0].strip(), []).extend(cell.strip() for cell in row[1:])
    return found


# --- show ---------------------------------------------------------------------------------------


def test_show_gives_every_stage_with_its_change(ran: Ran, command: Any) -> None:
    code, out, _ = command("show", "PFQat")
    assert code == 0
    base = ran.result("Base")["stages"][0]["metrics"]  # of seed 0, as the chain
    for number, stage in enumerate(ran.result("PFQat")["stages"], 1):
        found, metrics = rows(out)[f"{number} {stage['stage']}"], stage["metrics"]
        points = metrics["accuracy"] - base["accuracy"]
        assert found[0] == f"{metrics['accuracy']:.2f} ({points:+.2f})"
        share = metrics["model_size_mb"] / base["model_size_mb"]
        assert found[2] == f"{metrics['model_size_mb']:.3f} (×{share:.2f})"
        assert found[-1] == f"{stage['seconds']:.1f}"
    assert rows(out)["Base"][0] == f"{base['accuracy']:.2f}"
    for part in ("from Base: prune → finetune → qat", "ratio=0.4", "cnn_channels=[8, 16]", "done"):
        assert part in out
    for warning in ran.result("PFQat")["stages"][-1]["metrics"]["warnings"]:
        assert warning in out


def test_show_gives_mean_and_deviation_over_seeds(ran: Ran, command: Any) -> None:
    _, out, _ = command("show", "PF")
    stages = ran.result("PF")["stages"]
    for number, stage in enumerate(("prune", "finetune"), 1):
        values = [s["metrics"]["accuracy"] for s in stages if s["stage"] == stage]
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        assert rows(out)[f"{number} {stage}"][0].startswith(f"{mean:.2f} ± {deviation:.2f} (2)")
    assert "seeds 0, 1" in out
    lines = out.splitlines()
    for seed in SEEDS:
        chain = [stage for stage in stages if stage["seed"] == seed]
        assert f"network after finetune, seed {seed}: {chain[-1]['checkpoint']}" in lines
        loss = chain[-1]["details"]["history"][-1]["train_loss"]
        assert any(re.match(rf"seed {seed} .*loss {loss:.4f},", line) for line in lines)


def test_exits_of_every_seed_are_shown(ran: Ran, command: Any, tmp_path: Path) -> None:
    twice = ran.result("EQ")
    others = copy.deepcopy(twice["stages"])
    others[-1]["metrics"]["exits"]["share"] = [0.123, 0.877]
    twice.update(seeds=SEEDS, stages=twice["stages"] + [{**stage, "seed": 1} for stage in others])
    path = tmp_path / "EQ_results.json"
    path.write_text(json.dumps(twice))
    _, out, _ = command("show", str(path))
    first, second = out.split("at the end, seed 0")[1].split("at the end, seed 1")
    assert "12.3" in second and "12.3" not in first


def test_a_name_that_ends_like_a_file(ran: Ran, command: Any, tmp_path: Path) -> None:
    named = {**ran.result("PFQat"), "experiment": "a.json"}
    path = ran.results / "a.json_results.json"
    try:
        path.write_text(json.dumps(named))
        assert command("show", "a.json")[0] == 0
    finally:
        path.unlink()


def test_show_gives_exits_and_takes_a_file(ran: Ran, command: Any) -> None:
    code, out, _ = command("show", str(ran.results / "EQ_results.json"))
    assert code == 0
    exits = ran.result("EQ")["stages"][-1]["metrics"]["exits"]
    for place, share in zip(exits["places"], exits["share"], strict=True):
        assert rows(out)[place][0] == f"{100 * share:.1f}"


def test_show_of_what_failed_half_way(ran: Ran, command: Any, tmp_path: Path) -> None:
    half = ran.result("PFQat")
    half.update(status="failed", final={}, stages=half["stages"][:1], baseline="Gone")
    half["errors"] = [{"seed": 0, "stage": "finetune", "message": "it broke"}]
    path = tmp_path / "PFQat_results.json"
    path.write_text(json.dumps(half))
    code, out, _ = command("show", str(path))
    assert code == 0
    assert "failed" in out and "seed 0, finetune: it broke" in out
    assert rows(out)["2 finetune"][-1] == "failed"
    assert rows(out)["3 qat"] == [*["–"] * 8, "did not run"]
    assert "no change against the baseline: Gone: has no results" in out


def test_names_and_files_that_are_wrong(ran: Ran, command: Any, tmp_path: Path) -> None:
    assert command("show", "PFQa") == (
        2, "", [f"PFQa: has no results in {ran.results}/; did you mean 'PFQat'?"]
    )  # fmt: skip
    code, _, errors = command("compare", "zzz", "Base")
    assert code == 2 and "there are Base, EQ, PF, PFQat, QatPF" in errors[0]
    for content, reason in [
        (b"{", "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"[]", "it holds no experiment"),
        (b'{"experiment": "x"}', "config: Field required"),
        (b'{"order": []}', "it holds no experiment, as NAME_results.json does"),
        (b"[" * 100_000, "it is not JSON"),
    ]:
        path = tmp_path / "x_results.json"
        path.write_bytes(content)
        code, _, errors = command("show", str(path))
        assert code == 2 and len(errors) == 1
        assert f"{path}: is damaged, or from another version (" in errors[0] and reason in errors[0]
    assert command("show", str(tmp_path / "no.json"))[0] == 2
    (tmp_path / "folder.json").mkdir()
    assert "cannot be read" in command("show", str(tmp_path / "folder.json"))[2][0]
    many = tmp_path / "many"
    many.mkdir()
    for number in range(200):
        (many / f"E{number:03}_results.json").touch()
    line = command("show", str(many / "zzz.json"))[2][0]
    assert "E000" in line and line.endswith("E011 and 188 more")


def test_an_output_that_knows_ascii_only_or_closes(ran: Ran) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    show = [sys.executable, "main.py", "show", "PF", "--config", str(ran.config)]
    told = subprocess.run(show, cwd=HOME, env=environment, capture_output=True, text=True)
    assert told.returncode == 0 and told.stderr == "" and "prune ? finetune" in told.stdout
    doctor = [sys.executable, "main.py", "doctor", "--config", str(ran.config)]
    with subprocess.Popen(
        doctor, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""


def test_an_unknown_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["comparr", "A", "B"]) == 2
    error = capsys.readouterr().err
    assert error == "command line: 'comparr' is not a command; did you mean 'compare'?\n"


def test_what_argparse_says_comes_with_the_right_help(command: Any) -> None:
    assert command("show", "PF", "--confg", "x")[2][0].endswith("did you mean --config?")
    for arguments in (["show"], ["compare", "PF"], ["predict", "x", "y", "--top", "²"]):
        code, _, (line,) = command(*arguments)
        assert code == 2 and line.endswith(f"; see python main.py {arguments[0]} --help")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    return [path] * bool(path) + [p for key, item in items for p in leaves(item, (*path, key))]


@pytest.mark.parametrize("name", ["PFQat", "EQ"])
def test_results_spoilt_at_random_are_shown_or_refused(
    name: str, ran: Ran, command: Any, tmp_path: Path
) -> None:
    """One value of the file at a time replaced: a table, or exit code 2 with one line."""
    draw = random.Random(0)
    good, path = ran.result(name), tmp_path / "x_results.json"
    places = leaves(good)
    for place in draw.sample(places, 120):
        spoilt = copy.deepcopy(good)
        parent: Any = spoilt
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = draw.choice([None, -1, 2.5, "", "x", [], {}, [None], {"a": 1}, True])
        path.write_text(json.dumps(spoilt))
        for arguments in (["show", str(path)], ["compare", str(path), "QatPF"]):
            code, _, errors = command(*arguments)
            assert (code, len(errors)) in [(0, 0), (2, 1)], (place, errors)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_narrow_terminal_gets_every_figure(width: int) -> None:
    screen = io.StringIO()
    rich = RichConsole(file=screen, width=width, soft_wrap=True)
    figures = [f"{number}.125 (×{number}.50)" for number in range(9)]
    names = [str(number) for number in range(9)]
    rows = [Row(["A"], figures), Row(["B"], figures)]
    tables = figure_tables(rich, "Figures", ["stage"], names, rows)
    for table in tables:
        rich.print(table)
    printed = screen.getvalue()
    assert all(printed.count(figure) == 2 for figure in figures) and "…" not in printed
    assert max(map(len, printed.splitlines())) <= width
    assert printed.count("Figures") == 1 and len(tables) == {40: 9, 80: 3, 120: 2}[width]


# --- compare ------------------------------------------------------------------------------------


def test_stages_are_paired_where_sequences_agree() -> None:
    assert paired(["p", "f", "q"], ["p", "f", "q"]) == [("p", 0, 0), ("f", 1, 1), ("q", 2, 2)]
    assert paired(["p", "f", "q"], ["q", "p", "f"]) == [
        ("q", None, 0), ("p", 0, 1), ("f", 1, 2), ("q", 2, None)
    ]  # fmt: skip
    assert paired(["p"], []) == [("p", 0, None)]


def test_compare_gives_stages_and_differing_settings(ran: Ran, command: Any) -> None:
    code, out, _ = command("compare", "PFQat", "QatPF")
    assert code == 0
    first, second = (ran.result(n)["stages"][-1]["metrics"] for n in ("PFQat", "QatPF"))
    a, b = first["accuracy"], second["accuracy"]
    assert rows(out)["end"][0] == f"{a:.2f} → {b:.2f} ({b - a:+.2f})"
    assert rows(out)["qat (B only)"][0] == (
        f"{ran.result('QatPF')['stages'][0]['metrics']['accuracy']:.2f}"
    )
    assert rows(out)["sequence"] == ["prune → finetune → qat", "qat → prune → finetune"]
    assert "qat" not in rows(out)  # with the same options on both sides
    _, out, _ = command("compare", "PF", "PFQat")
    assert rows(out)["finetune.epochs"] == ["2", "1"]
    assert rows(out)["seeds"] == ["[0, 1]", "[0]"]
    assert rows(out)["qat"][0] == "–" and "backend=x86" in rows(out)["qat"][1]
    assert "the configurations are the same" in command("compare", "PF", "PF")[1]


def test_compare_says_that_machines_differ(ran: Ran, command: Any, tmp_path: Path) -> None:
    other = ran.result("PF")
    other["environment"]["threads"] = 77
    path = tmp_path / "PF_results.json"
    path.write_text(json.dumps(other))
    _, out, _ = command("compare", "PF", str(path))
    assert "compare no latencies" in out and rows(out)["environment.threads"] == ["1", "77"]


# --- predict ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> list[str]:
    """The first test images as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    names = [str(folder / f"{number}.png") for number in range(12)]
    for name, image in zip(names, digits.arrays.test_images, strict=False):
        Image.fromarray(image[0].numpy()).save(name)
    return names


@pytest.mark.parametrize("name", ["Base", "PFQat"])
def test_predictions_are_the_networks_on_its_test_split(
    name: str, ran: Ran, command: Any, pictures: list[str], ctx: Any
) -> None:
    code, out, _ = command("predict", ran.checkpoint(name), *pictures, "--top", "2")
    assert code == 0
    network = deploy(load_checkpoint(ran.checkpoint(name)))
    images, _ = next(iter(ctx.loaders(batch_size=12).test))
    with torch.inference_mode():
        expected = network(images).softmax(dim=1).topk(2)
    for picture, values, classes in zip(pictures, expected.values, expected.indices, strict=True):
        for shown, value, label in zip(rows(out)[picture], values, classes, strict=True):
            found = re.fullmatch(r"(\d)  (\d+\.\d) %", shown)
            assert found is not None and int(found[1]) == int(label)
            assert float(found[2]) == pytest.approx(100 * float(value), abs=0.06)


def test_predictions_say_where_the_network_was_left(
    ran: Ran, command: Any, pictures: list[str], ctx: Any
) -> None:
    _, out, _ = command("predict", ran.checkpoint("EQ"), *pictures)
    state = load_checkpoint(ran.checkpoint("EQ"))
    images, _ = next(iter(ctx.loaders(batch_size=12).test))
    with torch.inference_mode():
        every = every_logits(parts_of(state)[1], images)
    assert state.exits is not None and state.exits.thresholds is not None
    certain = all_certainties(every, state.exits.criterion)
    taken = exit_taken(certain, state.exits.criterion, state.exits.thresholds).tolist()
    places = [*state.model_args["exits"], "end"]
    assert [rows(out)[picture][-1] for picture in pictures] == [places[i] for i in taken]
    assert len(set(taken)) > 1


def test_images_are_turned_resized_and_made_grey(
    ran: Ran, command: Any, pictures: list[str], tmp_path: Path
) -> None:
    with Image.open(pictures[3]) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90).convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise to be upright
        turned.save(tmp_path / "turned.png", exif=exif)
        image.resize((24, 24), Image.Resampling.NEAREST).save(tmp_path / "large.png")
        names = [pictures[3], str(tmp_path / "turned.png"), str(tmp_path / "large.png")]
        deep = np.asarray(image).astype(np.uint16) * 256 + 255
        Image.fromarray(deep).save(tmp_path / "deep.png")
        (tmp_path / "[").mkdir()
        image.convert("RGBA").save(tmp_path / "[" / "bold] :cat: .png")
        names += [str(tmp_path / "deep.png"), str(tmp_path / "[" / "bold] :cat: .png")]
        Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    _, out, _ = command("predict", ran.checkpoint("Base"), *names)
    upright, turned_row, large, deep_row, odd_name = (rows(out)[name] for name in names)
    assert turned_row == deep_row == odd_name == upright
    assert large[0].split()[0] == upright[0].split()[0]
    code, _, errors = command("predict", ran.checkpoint("Base"), str(tmp_path / "float.tif"))
    assert code == 2 and "32-bit values, whose range nothing tells" in errors[0]


def test_a_large_image_is_read_and_a_bomb_refused(
    ran: Ran, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 50):  # more than 1,000 pixels; more than twice as many
        Image.new("L", (side, side)).save(tmp_path / f"{side}.png")
    assert command("predict", ran.checkpoint("Base"), str(tmp_path / "40.png"))[0] == 0
    code, _, errors = command("predict", ran.checkpoint("Base"), str(tmp_path / "50.png"))
    assert code == 2 and "50.png is not a readable image" in errors[0]


def test_checkpoints_of_earlier_versions_need_data_of(
    ran: Ran, command: Any, pictures: list[str], tmp_path: Path
) -> None:
    plain = torch.load(ran.checkpoint("Base"), weights_only=True)
    assert plain["data"]["classes"] == [str(i) for i in range(10)]
    del plain["data"]
    old = tmp_path / "old.pth"
    torch.save(plain, old)
    assert read_checkpoint(old).data is None and load_checkpoint(old).weights
    code, _, errors = command("predict", str(old), pictures[0])
    assert code == 2 and "name an experiment on the same data: --data-of NAME" in errors[0]
    assert command("predict", str(old), pictures[0], "--data-of", "Bas")[2][0].endswith(
        "did you mean 'Base'?"
    )
    told = command("predict", str(old), pictures[0], "--data-of", "Base")
    assert told == command("predict", ran.checkpoint("Base"), pictures[0])
    for data in ({"name": "x"}, {**read_checkpoint(ran.checkpoint("Base")).data, "mean": ["a"]}, 7):
        torch.save({**plain, "data": data}, old)
        assert "what it says of its data is damaged" in command("predict", str(old), "x")[2][0]
    few = {"name": "x", "classes": ["a"], "mean": [0.5], "std": [0.5]}
    torch.save({**plain, "data": few}, old)
    assert (
        "1 classes and 1 channels of data do not fit the network"
        in (command("predict", str(old), "x")[2][0])
    )


def test_what_cannot_be_predicted_is_told_at_once(
    ran: Ran, command: Any, pictures: list[str], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no image")
    wrong = [str(tmp_path / "none.png"), str(tmp_path), str(tmp_path / "text.png")]
    code, out, errors = command("predict", ran.checkpoint("Base"), pictures[0], *wrong)
    assert (code, out, len(errors)) == (2, "", 3)
    assert "there is no such file" in errors[0] and "is a folder; name the images" in errors[1]
    assert "text.png is not a readable image" in errors[2]
    missing = str(ran.models / "Base_fp32_basline.pth")
    code, _, errors = command("predict", missing, pictures[0])
    assert code == 2 and errors == [
        f"{missing}: there is no such file; did you mean {ran.models / 'Base_fp32_baseline.pth'}?"
    ]
    assert "cannot be read" in command("predict", str(tmp_path), pictures[0])[2][0]
    content = Path(ran.checkpoint("Base")).read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    assert command("predict", str(tmp_path / "half.pth"), pictures[0])[0] == 2
    assert command("predict", ran.checkpoint("Base"), pictures[0], "--top", "0")[0] == 2
    assert command("predict", pictures[0], pictures[0])[2] == [
        f"{pictures[0]}: is not a checkpoint of this project"
    ]
    code, _, errors = command("predict", "PF", pictures[0])
    assert code == 2 and "python main.py show EXPERIMENT names the file" in errors[0]


def test_a_backend_that_is_not_here_is_one_line(
    ran: Ran, command: Any, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise ValueError("backend 'x86' is not here")

    monkeypatch.setattr(predict, "deploy", refuse)
    path = ran.checkpoint("PFQat")
    assert command("predict", path, pictures[0])[2] == [f"{path}: backend 'x86' is not here"]


def test_measuring_again_leaves_checkpoints_as_they_are(suites: Suites) -> None:
    chains = 'EXPERIMENT_CONFIGS.append(chain("Q", "ptq"))'
    assert suites.run(chains) == 0
    before = {p: p.read_bytes() for p in (suites.models / "store").glob("*.pth")}
    assert suites.run(chains, "--remeasure") == 0
    assert before == {p: p.read_bytes() for p in (suites.models / "store").glob("*.pth")}
    results = json.loads((suites.results / "Q_results.json").read_text())
    assert [stage["cached"] for stage in results["stages"]] == [True]


# --- the bar, and being quiet -------------------------------------------------------------------


def a_step(key: str, stage: str, **spec: Any) -> Any:
    data = SimpleNamespace(fingerprint="digits")
    experiment = SimpleNamespace(data=data, name="E")
    return SimpleNamespace(
        key=key, stage=stage, spec=SimpleNamespace(**spec), experiment=experiment
    )


def a_record(stage: str, seconds: float, epochs: int, data: str = "digits") -> dict[str, Any]:
    settings = {"spec": {"epochs": epochs}, "data": {"fingerprint": data}}
    return {"stage": stage, "seconds": seconds, "settings": settings}


def test_a_forecast_is_the_median_of_such_stages_on_such_data() -> None:
    forecast = Forecast([a_record("train", 10, 5), a_record("train", 90, 9, "photographs")])
    assert forecast.seconds(a_step("a", "train", epochs=3)) == pytest.approx(6)
    forecast.learn(a_step("b", "train", epochs=2), 8)
    assert forecast.seconds(a_step("a", "train", epochs=3)) == pytest.approx(9)  # 2 and 4 s
    assert forecast.seconds(a_step("c", "ptq")) is None


def test_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("experiment.running.progress.time.monotonic", lambda: now.seconds)
    first, second = a_step("a", "train", epochs=10), a_step("b", "train", epochs=20)
    third = a_step("c", "ptq")
    chains = [SimpleNamespace(steps=(first,)), SimpleNamespace(steps=(first, second, third))]
    store = SimpleNamespace(has=lambda key: False, records=lambda: [])
    progress = Progress(chains, store)  # type: ignore[arg-type]
    assert progress.begin_chain() == "1 of 2"  # nothing is known yet
    progress.begin_stage(first)
    now.seconds = 50.0
    progress.end_stage(first, 50.0)  # 5 s an epoch
    assert progress.begin_chain() == "2 of 2, at least 2 min left"
    progress.begin_stage(second)
    now.seconds = 80.0
    assert progress.time_left() == "at least 70 s left"
    progress.end_stage(second, 100.0)
    progress.forecast.learn(third, 7)
    assert progress.time_left() == "about 7 s left"
    progress.give_up(chains[1], 2)  # type: ignore[arg-type]
    assert progress.time_left() == ""


def test_stages_done_elsewhere_count_as_done() -> None:
    steps = tuple(a_step(name, "train", epochs=10) for name in "abc")
    store = SimpleNamespace(has=lambda key: False, records=lambda: [])
    progress = Progress([SimpleNamespace(steps=steps)], store)  # type: ignore[list-item, arg-type]
    progress.forecast.learn(steps[0], 80)
    progress.at_once = 2
    assert progress.time_left() == "about 2 min left"  # 240 s of work
    progress.computed(steps[0])
    progress.computed(steps[1])
    assert progress.time_left() == "about 40 s left"
    progress.end_stage(steps[0], 80.0)
    assert progress.time_left() == "about 40 s left"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_bar_over_all_chains_on_a_terminal_only(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains = 'EXPERIMENT_CONFIGS.append(chain("F", {"finetune": {"epochs": 3}}))'
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert suites.run(chains) == 0
    drawn = screen.getvalue()
    assert "all chains   0%" in drawn and "2/2 stages" in drawn
    assert "epoch 1/3" in drawn  # the bar inside
    assert "(2 of 2)" in suites.capsys.readouterr().out
    more = chains.replace("3}}", '3, "learning_rate": 0.002}}')
    assert suites.run(more) == 0
    assert re.search(r"about \d+ s left", screen.getvalue())
    screen.truncate(0)
    assert suites.run(chains.replace("3}}", "2}}"), "--quiet") == 0
    assert screen.getvalue() == ""


def test_quiet_shows_what_is_wrong_and_the_table(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains = """
    EXPERIMENT_CONFIGS += [
        chain("Q", "ptq"), chain("Bad", {"finetune": {"epochs": 1, "learning_rate": 100.0,
                                                      "optimizer": "sgd"}}),
    ]
    """
    assert suites.run(chains, "--quiet") == 1
    out = suites.capsys.readouterr().out.splitlines()
    before = out[: next(i for i, line in enumerate(out) if line.startswith("Results"))]
    assert any(line.startswith("Bad: FAILED in finetune: NonFiniteLossError") for line in before)
    assert all("FAILED" in line or "warning" in line or "snapshot" in line for line in before)
    assert any("│ Q " in line for line in out)


# --- TensorBoard --------------------------------------------------------------------------------


def test_tensorboard_has_curves_figures_and_hparams(ran: Ran) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for seed in SEEDS:
        board = EventAccumulator(str(ran.results / "tensorboard" / f"PF_seed{seed}"))
        board.Reload()
        stages = [s for s in ran.result("PF")["stages"] if s["seed"] == seed]
        for name in ("train_loss", "validation_accuracy", "learning_rate"):
            events = board.Scalars(f"2_finetune/{name}")
            history = stages[1]["details"]["history"]
            assert [event.step for event in events] == [1, 2]
            np.testing.assert_allclose([e.value for e in events], [row[name] for row in history])
        sizes = [event.value for event in board.Scalars("stages/model_size_mb")]
        np.testing.assert_allclose(sizes, [s["metrics"]["model_size_mb"] for s in stages])
        (final,) = board.Scalars("final/accuracy")
        np.testing.assert_allclose(final.value, stages[-1]["metrics"]["accuracy"])
        content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        assert b"1_prune.ratio" in content and "prune → finetune".encode() in content


def test_tensorboard_that_is_not_installed(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    (line,) = suites.refused("", "--tensorboard")
    assert line.startswith("--tensorboard: ") and line.endswith("pip install tensorboard")


# --- doctor -------------------------------------------------------------------------------------


def fake_packages(folder: Path, **content: str) -> dict[str, str]:
    """An environment where the packages are these, and others that torch would need are empty."""
    modules = [installation.MODULES.get(name, name) for name in installation.requirements()]
    for name in modules:
        package = folder / name / "__init__.py"
        package.parent.mkdir(parents=True)
        package.write_text(content.get(name, ""))
    return {**os.environ, "PYTHONPATH": str(folder)}


def run_doctor(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "main.py", *(arguments or ["doctor"])]
    done = subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def test_the_doctor_explains_a_broken_pair(tmp_path: Path) -> None:
    broken = 'raise RuntimeError("operator torchvision::nms does not exist")'
    environment = fake_packages(tmp_path, torchvision=broken)
    code, out = run_doctor(environment)
    assert code == 1
    assert "BAD   torchvision" in out and "its compiled part does not fit torch" in out
    assert "pip install --force-reinstall 'torch>=" in out and "1 to be mended" in out
    assert "this folder" in out and "can be written" in out


def test_the_doctor_works_without_torch(tmp_path: Path) -> None:
    crash = "import os; os.kill(os.getpid(), 11)"
    environment = fake_packages(tmp_path, torch=crash, torchvision="import torch")
    code, out = run_doctor(environment)
    assert code == 1
    assert "killed by SIGSEGV" in out and "not tried without torch" in out
    shutil.rmtree(tmp_path)
    (tmp_path / "numpy").mkdir(parents=True)
    (tmp_path / "numpy" / "__init__.py").write_text('raise ImportError("half installed")')
    code, out = run_doctor(environment, "--dry-run")
    assert code == 2
    assert out == (
        "cannot start: ImportError: half installed; to find the remedy: python main.py doctor\n"
    )


@pytest.mark.parametrize(
    ("name", "error", "cause", "remedy"),
    [
        ("torchao", "ModuleNotFoundError: No module named 'torchao'", "is not installed", "-r req"),
        ("torch", "ImportError: libcudnn.so.9: cannot open", "lacks one of its lib", "'torch>="),
        ("torch", "killed by SIGILL", "another processor", "--force-reinstall torch"),
        ("scikit-learn", "ValueError: numpy.dtype size changed", "another numpy", "-r req"),
        ("rich", "SyntaxError: bad", "SyntaxError: bad", "--force-reinstall rich"),
        ("torchvision", "ImportError: _C.so: undefined symbol: _Z", "are not a pair", "one place"),
    ],
)
def test_failed_imports_have_a_cause_and_a_remedy(
    name: str, error: str, cause: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "not installed" in cause:
        monkeypatch.setattr(installation, "installed", lambda name: None)
    found = installation.explain(name, error)
    assert cause in found[0] and remedy in found[1]


def test_versions_are_held_against_their_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "import_error", lambda name: "")
    assert {finding.mark for finding in installation.packages()} == {"ok"}
    monkeypatch.setattr(installation, "installed", lambda name: "0.1.9+cpu")
    findings = {finding.subject: finding for finding in installation.packages()}
    assert findings["torch"].mark == "note" and "0.1.9+cpu is outside of >=2" in (
        findings["torch"].text
    )


def test_the_doctor_looks_at_machine_suite_and_folders(
    ran: Ran, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(installation, "import_error", lambda name: "")
    assert main.main(["doctor", "--config", str(ran.config)]) == 0
    out = capsys.readouterr().out
    assert "suite          " in out and "5 experiments, no mistakes" in out
    assert "Digits, 10 classes, 1×8×8: found" in out
    assert f"{ran.results} can be written" in out
    monkeypatch.setattr(doctor, "LEAST_FREE", 1e18)
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    other = tmp_path / "suite.py"
    other.write_text(SUITE.format(folder=tmp_path) + 'DEFAULT_DATASET_CONFIG = {"name": "CIFAR10"}')
    assert main.main(["doctor", "--config", str(other)]) == 0
    out = capsys.readouterr().out
    assert "needs a C++ compiler" in out and "make room" in out
    assert "cifar-10-python.tar.gz is not in" in out and "configs/quickstart.py" in out
    other.write_text("EXPERIMENT_CONFIGS = [{'name': 'a', 'sedes': [1]}]")
    assert main.main(["doctor", "--config", str(other)]) == 1
    assert "a.sedes: 'sedes' is not known; did you mean 'seeds'?" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_a_compiler_that_does_not_work_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "cxx"
    fake.write_text("#!/bin/sh\necho 'cannot find -lgomp' >&2\nexit 1\n")
    fake.chmod(0o700)
    monkeypatch.setenv("CXX", str(fake))
    found = doctor.compiler()
    assert (
        found.mark == "note" and "cannot make and run a program: cannot find -lgomp" in found.text
    )


def test_a_folder_below_a_file_is_bad(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert doctor.folder("X", tmp_path / "file" / "below").mark == "bad"
    assert doctor.folder("X", tmp_path / "a" / "b").mark == "ok"
    assert not (tmp_path / "a").exists()


def test_mistakes_in_ones_own_stage_are_told_with_their_place() -> None:
    try:
        exec(compile("1 / 0", str(HOME / "stages" / "mine.py"), "exec"))
    except ZeroDivisionError as error:
        assert installation.cannot_start(error) == (
            "stages/mine.py:1: ZeroDivisionError: division by zero"
        )


# --- the README's cookbook ----------------------------------------------------------------------


def python_code(readme: str = "README.md") -> list[str]:
    return re.findall(r"```python\n(.*?)```", (HOME / readme).read_text(), re.DOTALL)


def recipes() -> dict[str, str]:
    """Python code of the README by its first line."""
    return {text.splitlines()[0]: text for text in python_code()}


def test_both_readmes_have_the_same_code() -> None:
    """But comments, which are in the README's language."""
    english, chinese = (
        [re.sub(r" *#.*", "", text) for text in python_code(name)]
        for name in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese


def test_the_readmes_order_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "suite.py"
    config.write_text(
        (HOME / "configs" / "quickstart.py").read_text()
        + recipes()["ORDER_STUDIES = ["]
        + f"MODEL_SAVE_DIR = RESULTS_DIR = DATA_DIR = {str(tmp_path)!r}\n"
    )
    assert main.main(["study", "Digits_Orders", "--config", str(config), "--dry-run"]) == 0
    assert "= Digits_Orders_DPQ_p1" in capsys.readouterr().out


def test_what_the_readme_reads_from_json_is_there(ran: Ran) -> None:
    """Names that its pandas and MLflow code takes from a result."""
    result = ran.result("PF")
    rows = [{"experiment": result["experiment"], **stage} for stage in result["stages"]]
    for row in rows:
        assert {"seed", "stage", "experiment", "details", "metrics"} <= row.keys()
        assert {"accuracy", "model_size_mb", "bitops", "inference_time_ms"} <= row["metrics"].keys()
    assert any("history" in row["details"] for row in rows)
    assert {"status", "git_commit", "config"} <= result.keys()
    assert all(stat["mean"] > 0 for stat in result["final"].values())


def test_the_cookbooks_data_set(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_describe_shapes", "_load_shapes"):
        monkeypatch.setattr(dataset, name, None, raising=False)
    exec(recipes()["# in dataset.py"], vars(dataset))
    row = DatasetEntry(vars(dataset)["_describe_shapes"], vars(dataset)["_load_shapes"])
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


def test_the_cookbooks_stage(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("stages.rounding")
    monkeypatch.setitem(sys.modules, "stages.rounding", module)
    code = recipes()["# stages/rounding.py"].split("\n\n\n# in STAGES")[0]
    exec(code, vars(module))
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
