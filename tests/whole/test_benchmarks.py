"""Benchmarks in a tiny form: they run, their sides are what they say, their last line is JSON."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiment.outcomes.wish import parse_wish
from methods.quantization.fake_quant import quantizers
from tests.support.noise_folder import noise_folder

TINY = {"cnn_channels": [8], "cnn_pools": [4], "embed_dim": 8, "num_layers": 1, "num_heads": 2}


@pytest.fixture
def qat_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.import_module("benchmarks.qat_step")
    monkeypatch.setitem(module.ARGS, module.REFERENCE, TINY)
    return module


def test_training_accuracy_compares_both_loops(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # decoded images are kept in data/
    noise_folder(tmp_path)
    benchmark = importlib.import_module("benchmarks.training_accuracy")
    benchmark.main(["--root", str(tmp_path), "--epochs", "1", "--seeds", "1"])
    *_, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["by_seed"] == [found["ours_minus_plain"]]
    assert found["ours_minus_plain"] % 5 == 0  # of 20 test images
    with pytest.raises(SystemExit):
        benchmark.main(["--root", str(tmp_path), "--images", "100"])
    assert "needs at least 128 training images" in capsys.readouterr().err


def test_qat_step_runs(qat_step: Any, capsys: pytest.CaptureFixture[str]) -> None:
    qat_step.main([], batch=4, rounds=2)
    *_, table_end, last = capsys.readouterr().out.splitlines()
    ratios = json.loads(last)
    assert ratios.keys() == {
        "observing_vs_float", "frozen_vs_float", "torchao_vs_float", "torchao_vs_float_fp32",
    }  # fmt: skip
    assert all(ratio > 0 for ratio in ratios.values())
    assert table_end.startswith(f"| {qat_step.TORCHAO} |")


def test_stage_steps_sides_are_what_they_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = importlib.import_module("benchmarks.stage_steps")
    sides: dict[str, Any] = {}
    measured = benchmark.measured
    monkeypatch.setattr(benchmark, "measured", lambda *a: sides.update(measured(*a)) or sides)
    saved = tmp_path / "steps.json"
    small = {**TINY, "image_size": 8, "num_layers": 2}
    benchmark.main(["--quick", "--device", "cpu", "--batch", "8", "--save", str(saved)], small)
    *_, last = capsys.readouterr().out.splitlines()
    ratios, kept = json.loads(last), json.loads(saved.read_text())
    assert ratios == kept["ratios"] and ratios.keys() == benchmark.STAGES.keys() == sides.keys()
    assert ratios["train"] == 1 and all(ratio > 0 for ratio in ratios.values())
    assert all(len(side.seconds) == 3 for side in sides.values())

    networks = {name: side.step.args[0] for name, side in sides.items()}
    for name, moves in ("qat, ranges move", True), ("qat, ranges frozen", False):
        observing = [quantizer.observing for _, quantizer in quantizers(networks[name])]
        assert observing and set(observing) == {moves}
    trained = [
        n for n, p in networks["early_exit, frozen trunk"].named_parameters() if p.grad is not None
    ]
    assert trained and all(name.startswith("exits.") for name in trained)
    for name, options in ("distill", (0, 0)), ("distill, features", (1, 1)):
        spec = sides[name].step.keywords["criterion"].spec
        assert (spec.feature_weight, spec.attention_weight) == options
    with pytest.raises(SystemExit):
        benchmark.main(["--batch", "1"])
    assert "--batch should be 2 or more" in capsys.readouterr().err


def test_qat_steps_sides_are_what_they_say(qat_step: Any) -> None:
    images = qat_step.digits(8).to(memory_format=torch.channels_last)
    labels = torch.arange(8)
    moved = {}
    for observing in (True, False):
        side = qat_step.Side(qat_step.ours(images, observing), True)
        before = {name: q.scale.clone() for name, q in quantizers(side.network)}
        side.step(3 * images, labels)
        moved[observing] = any(
            not torch.equal(before[name], q.scale) for name, q in quantizers(side.network)
        )
    assert moved == {True: True, False: False}
    peer, plain = qat_step.torchao(images), qat_step.network()
    assert [(n, p.shape) for n, p in peer.named_parameters()] == [
        (n, p.shape) for n, p in plain.named_parameters()
    ]
    graph = [str(node.target) for node in peer.graph.nodes]
    fakes = [target for target in graph if target.startswith("activation_post_process")]
    assert len(fakes) > sum(p.ndim > 1 for p in plain.parameters())  # weights, and their inputs


def test_the_inference_benchmarks_exits_are_left(tmp_path: Path) -> None:
    """Some images early and some not, in the network as it is: else its cells would be no news."""
    inference = importlib.import_module("benchmarks.inference")
    engines = importlib.import_module("benchmarks.engines")
    calibration = inference.digits(64)
    model = inference.network(inference.EXITS, calibration)
    deployed = engines.Subject(model, calibration, tmp_path, 1).ours_float
    with torch.inference_mode():
        deployed.network(calibration)
    early, end = sum(deployed.network.left[:-1]), deployed.network.left[-1]
    assert early and end and early + end == len(calibration)


def test_simulated_studies_are_judged_in_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = importlib.import_module("benchmarks.study_design")
    words = ["--studies", "4", "--resampled", "2"]
    benchmark.main([*words, "--only", "4 letters, luck small, truth mixed, 2000"])
    *_, table, _, _, lead, seconds, last = capsys.readouterr().out.splitlines()
    assert lead.startswith("least lead over today")
    assert table.split(" | ")[1] == "2-8" and seconds.startswith("verdicts on 16 chains")
    figures = json.loads(last)
    assert list(figures) == [
        *("false_decisions_per_study", "coverage", "power_vs_today", "stages_vs_fixed"),
    ]
    assert 0 < figures["stages_vs_fixed"] <= 1
    benchmark.main([*words, "--only", "truth none, 2000, "])  # losses and curves
    assert "curves | 3 |" in capsys.readouterr().out


def test_planted_differences_of_simulated_studies_are_there() -> None:
    """Large samples of each kind of score have the truth that they were drawn with."""
    benchmark = importlib.import_module("benchmarks.simulated_studies")
    random = np.random.default_rng(0)
    truth, luck = np.array([3.0, 0.0, -1.0]), np.zeros(3)
    for scores, unit in ("answers", 1.0), ("losses", benchmark.NATS):
        scenario = benchmark.Scenario(3, "none", "none", 40_000, scores)
        found = benchmark.drawn(scenario, random, truth, luck).mean(axis=(1, 2))
        assert found == pytest.approx(unit * truth, abs=0.35 * unit)
    curves = benchmark.Scenario(3, "none", "none", 40_000, "curves")
    samples = benchmark.curves(curves, random, truth, luck).samples()
    assert [s.difference for s in samples] == pytest.approx(list(truth), abs=0.35)
    pairs = [("D", "P"), ("D", "Q"), ("P", "Q")]
    stages = importlib.import_module("benchmarks.study_design").stages
    assert stages(pairs, [2, 2, 2]) == 2 * (1 + 3 + 6)
    assert stages(pairs, [2, 1, 1]) == (1 + 3 + 6) + (1 + 2 + 2)


def search_lines() -> list[dict[str, Any]]:
    """Letters A (two strengths, 5 epochs) and B (3); A0B0 is lucky at seed 0, B0A0 always fails."""
    bits = {"A0": 0.2, "A1": 0.5, "B0": 0.3}
    drops = {"": 0.0, "A0": 0.9, "A1": 0.5, "B0": 1.0, "A0B0": 4.0, "A1B0": 1.8, "B0A1": 2.5}
    lines = []
    for seed in range(4):
        for kind in ("full", "short"):
            for chain in [*drops, "B0A0"] if (seed, kind) != (3, "short") else []:
                drop = 1.5 if (seed, chain) == (0, "A0B0") else drops.get(chain, 0.0)
                left = float(np.prod([bits[chain[at : at + 2]] for at in range(0, len(chain), 2)]))
                epochs = {"": 0, "A": 5, "B": 3}[chain[-2:-1]]
                line = {"seed": seed, "kind": kind, "chain": chain, "seconds": 1.0}
                line["epochs"] = epochs if kind == "full" else 1
                if chain == "B0A0":
                    lines.append(line | {"failed": "prune: nothing is left"})
                elif chain or kind == "full":
                    costs = dict.fromkeys(("macs", "params", "model_size_mb"), 1)
                    scores = {"accuracy": 98 - drop, "test_accuracy": 97.0, "loss": 0.1}
                    lines.append(line | scores | costs | {"bitops": 100e6 * left})
    return lines


@pytest.fixture
def search_table(tmp_path: Path) -> Any:
    replay = importlib.import_module("benchmarks.search_replay")
    files = [tmp_path / "even.jsonl", tmp_path / "odd.jsonl"]
    for parity, path in enumerate(files):
        own = [line for line in search_lines() if line["seed"] % 2 == parity]
        path.write_text("".join(json.dumps(line) + "\n" for line in own))
    replay.pack(files, tmp_path / "table.xz")
    return replay.load(tmp_path / "table.xz")


def replayed(table: Any, wish: str = "accuracy_drop<=2, min bitops", seed: int = 0) -> Any:
    replay = importlib.import_module("benchmarks.search_replay")
    return replay.Replay(table, seed, parse_wish(wish))


def test_a_replayed_searchs_epochs_are_counted_once(search_table: Any) -> None:
    assert (search_table.seeds, search_table.with_short) == ([0, 1, 2, 3], [0, 1, 2])
    assert search_table.letters == {"A": 2, "B": 1}
    assert search_table.grid_epochs == dict.fromkeys(range(4), 5 + 5 + 3 + 3 + 3 + 5)
    replay = replayed(search_table)
    spent = 0
    for chain, kind, seed, epochs in (
        ("A0B0", "full", 0, 5 + 3),
        ("A0", "full", 0, 0),
        ("A1B0", "full", 0, 5 + 3),
        ("B0A1", "full", 0, 3 + 5),
        ("B0A0", "full", 0, 0),  # what fails trains nothing; what it goes on from was run
        ("A1B0", "short", 0, 1 + 1),
        ("A0B0", "full", 3, 30 + 5 + 3),  # with this seed's baseline
        ("A1", "full", 3, 5),
    ):
        assert replay.price(chain, kind, seed) == epochs
        replay.run(chain, kind, seed)
        spent += epochs
        assert replay.epochs == spent
    assert replay.run("B0A0") is None
    assert replay.run("")["accuracy_drop"] == 0 and replay.epochs == spent
    assert [row["chain"] for row in replay.seen()] == ["A0", "A0B0", "A1", "A1B0", "B0", "B0A1"]
    assert [row["chain"] for row in replay.seen("short")] == ["A1", "A1B0"]


def test_a_replayed_searchs_pick_is_what_it_saw(search_table: Any) -> None:
    replay = replayed(search_table)
    assert replay.pick() is None
    for chain in search_table.chains:
        replay.run(chain)
    assert (replay.pick().chain, replay.pick().drop) == ("A0B0", 1.5)  # at its word
    confirmed = replay.pick(3)
    assert confirmed.chain == "A1B0" and confirmed.drop == pytest.approx(1.8)
    # A0B0 at one more seed is beyond the limit on the average; then A1B0 at two more.
    assert replay.epochs == 24 + (30 + 5 + 3) + (5 + 3) + (30 + 5 + 3)
    richer = replayed(search_table, "bitops<=40e6, max accuracy")
    richer.run("A1B0")
    richer.run("A0")
    assert richer.pick().chain == "A0"  # A1 is beyond the limit


def test_a_search_has_arrived_where_its_picks_stay_good(search_table: Any) -> None:
    search = importlib.import_module("benchmarks.search")
    pick = importlib.import_module("benchmarks.search_replay").Pick

    def scripted(*picks: str) -> Any:
        def searcher(replay: Any, rng: Any) -> Any:
            for chain, best in zip(("A0B0", "A1B0", "B0A1"), picks, strict=False):
                replay.run(chain)
                yield pick(best, 1.5)

        return searcher

    def went(*picks: str) -> Any:
        replay = replayed(search_table)
        return search.outcome(replay, scripted(*picks), 0, search.best_of(search_table, wish))

    wish = replayed(search_table).wish
    assert search.best_of(search_table, wish)["chain"] == "A1B0"
    stays = went("A0B0", "A1B0", "A1B0")
    assert (stays.arrived, stays.once, stays.share) == (16 / 24, 16 / 24, 16 / 24)
    assert stays.optimism == pytest.approx(0.3) and stays.early is None
    leaves = went("A1B0", "A1B0", "A0B0")
    assert (leaves.arrived, leaves.once, leaves.share) == (None, 8 / 24, 1.0)
    assert leaves.optimism == pytest.approx(4 - 1.5)  # at the seeds that it never ran
    returns = went("A1B0", "A0B0", "A1B0")
    assert (returns.arrived, returns.once) == (1.0, 8 / 24)
    best = {"accuracy_drop": 2.0, "metrics": {"bitops": {"mean": 100.0}}}
    for drop, bits, good in (2.09, 101.9, True), (2.11, 90.0, False), (1.0, 102.1, False):
        row = {"accuracy_drop": drop, "metrics": {"bitops": {"mean": bits}}}
        assert search.as_good(wish, row, best) is good


def test_searches_are_compared_with_ours(
    search_table: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = importlib.import_module("benchmarks.search")
    rivals = importlib.import_module("benchmarks.search_rivals")
    searchers = {"ours": rivals.picking(rivals.pairs_then_grid), "TPE": rivals.RIVALS["random"]}
    words = ["--table", str(tmp_path / "table.xz"), "--repetitions", "4"]
    search.main([*words, "--wishes", *search.WISHES[:2]], searchers)
    *lines, last = capsys.readouterr().out.splitlines()
    assert list(json.loads(last)) == ["epochs_vs_grid", "epochs_vs_tpe", "optimism_points"]
    assert len(lines) == 2 + 2 * len(searchers)
    assert [line.split(" | ")[1] for line in lines[2::2]] == ["A1B0", "A0"]
    with pytest.raises(ValueError, match="is there twice"):
        importlib.import_module("benchmarks.search_replay").pack(
            [tmp_path / "even.jsonl", tmp_path / "even.jsonl"], tmp_path / "none.xz"
        )
    lines = (tmp_path / "even.jsonl").read_text().splitlines()[:-1]
    (tmp_path / "even.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"\(2, 'short', 'B0A0'\) is missing"):
        search.main(["--pack", str(tmp_path / "even.jsonl"), "--table", str(tmp_path / "none.xz")])
    assert not (tmp_path / "none.xz").exists()


def test_optuna_searches_the_whole_space(search_table: Any) -> None:
    pytest.importorskip("optuna")
    replay = replayed(search_table)
    rivals = importlib.import_module("benchmarks.search_rivals")
    *_, last = rivals.RIVALS["TPE"](replay, np.random.default_rng(0))
    assert last.chain in ("A0B0", "A1B0")
    assert 8 <= replay.epochs <= replay.cap


def test_our_search_is_replayed_on_the_table_that_comes_along() -> None:
    search, ours, tables = (
        importlib.import_module(f"benchmarks.{name}")
        for name in ("search", "search_ours", "search_replay")
    )
    table = tables.load()
    wish = parse_wish("accuracy_drop<=1, min model_size_mb")
    replay = tables.Replay(table, 0, wish)
    picks = list(ours.search(replay, np.random.default_rng(0)))
    assert replay.epochs == sum(table.epochs[node] for node in replay.ledger.nodes)
    assert replay.epochs < 0.2 * replay.cap
    best = search.best_of(table, wish)
    assert (
        search.meets(wish, table.truths[picks[-1].chain])
        and search.behind(wish, table.truths[picks[-1].chain], best) < 0.1
    )
