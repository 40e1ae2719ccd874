"""`show` gives what a results file says, figure by figure, also of failed and spoilt files."""

from __future__ import annotations

import copy
import json
import random
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.support.ran import SEEDS, rows
from tests.support.suites import Ran


def test_show_gives_every_stage_with_its_change(ran: Ran, command: Any) -> None:
    code, out, _ = command("show", "PFQat")
    assert code == 0
    base = ran.result("Base")["stages"][0]["metrics"]  # of seed 0, as the chain
    for number, stage in enumerate(ran.result("PFQat")["stages"], 1):
        found, metrics = rows(out)[f"{number} {stage['stage']}"], stage["metrics"]
        points = metrics["accuracy"] - base["accuracy"]
        assert found[0] == f"{metrics['accuracy']:.2f} ({points:+.2f})"
        share = metrics["model_size_mb"] / base["model_size_mb"]
        judged = metrics["validation"]["accuracy"]
        assert found[1] == f"{judged:.2f} ({judged - base['validation']['accuracy']:+.2f})"
        assert found[3] == f"{metrics['model_size_mb']:.3f} (×{share:.2f})"
        assert found[-1] == f"{stage['seconds']:.1f}"
    assert rows(out)["Base"][0] == f"{base['accuracy']:.2f}"
    for part in ("from Base: prune → finetune → qat", "ratio=0.4", "cnn_channels=[8, 16]", "done"):
        assert part in out


def test_show_gives_warnings(ran: Ran, command: Any, tmp_path: Path) -> None:
    """Planted: which speeds are warned of hangs on the machine."""
    warned = ran.result("PFQat")
    for number, stage in enumerate(warned["stages"]):
        stage["metrics"]["warnings"] = [f"planted in stage {number}"]
    path = tmp_path / "PFQat_results.json"
    path.write_text(json.dumps(warned))
    _, out, _ = command("show", str(path))
    for number in range(3):
        assert f"planted in stage {number}" in out


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
    title = "Early exits by confidence, at the end, seed "
    first, second = (out.split(f"{title}{seed}")[1].split("└")[0] for seed in (0, 1))
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
    *figures, said = rows(out)["3 qat"]
    assert set(figures) == {"–"} and said == "did not run"
    assert "no change against the baseline: Gone: has no results" in out


def test_a_baseline_that_is_not_the_one_a_chain_began_from(
    ran: Ran, command: Any, tmp_path: Path
) -> None:
    """As after another run of the baseline alone, with other settings."""
    trained_anew = ran.result("Base")
    for stage in trained_anew["stages"]:
        stage["key"] = "0" * 64
    for name, result in (("Base", trained_anew), ("PFQat", ran.result("PFQat"))):
        (tmp_path / f"{name}_results.json").write_text(json.dumps(result))
    chain, base = (str(tmp_path / f"{name}_results.json") for name in ("PFQat", "Base"))
    _, out, _ = command("show", chain)
    assert "began from another Base than the one whose results are here (key " in out
    assert "+" not in rows(out)["1 prune"][0] and "×" not in "".join(rows(out)["1 prune"])
    _, out, _ = command("compare", base, chain)
    assert rows(out)["began from (seed 0)"][0] == "0" * 12
    *_, time_at_64, _ = rows(out)["end"]  # the last column is peak memory
    assert "×" not in time_at_64 and "→" in time_at_64
    _, out, _ = command("compare", "Base", "PFQat")
    ratio = ran.result("PFQat")["stages"][-1]["metrics"]["inference_time_ms"]["batch_64"]
    assert rows(out)["end"][-2].endswith(f"(×{1 / ratio['speedup']:.2f})")


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


STOPS = [{"seed": 1, "stage": "prune", "why": "accuracy_drop 7.3 > 5"}]


def test_a_stopped_chain_is_shown_with_the_reason(ran: Ran, command: Any, tmp_path: Path) -> None:
    """As the chain of two seeds is, had its second been stopped."""
    result = ran.result("PF")
    kept = [
        stage for stage in result["stages"] if (stage["seed"], stage["stage"]) != (1, "finetune")
    ]
    changed = {"status": "stopped", "stopped": STOPS, "stages": kept}
    config = {**result["config"], "stop_if": {"accuracy_drop": 5}}
    (tmp_path / "PF_results.json").write_text(json.dumps({**result, **changed, "config": config}))
    (tmp_path / "Base_results.json").write_text(json.dumps(ran.result("Base")))
    path = str(tmp_path / "PF_results.json")
    code, out, _ = command("show", path)
    assert code == 0 and "━━ PF  stopped" in out
    assert "   seed 1 stopped after prune: accuracy_drop 7.3 > 5\n" in out
    assert re.search(r"stop_if +accuracy_drop=5", out)
    mine, its = (
        next(s for s in stages if s["seed"] == 0 and s["stage"] == name)["metrics"]["accuracy"]
        for stages, name in ((kept, "finetune"), (ran.result("Base")["stages"], "train"))
    )
    assert rows(out)["2 finetune"][0] == f"{mine:.2f} ({mine - its:+.2f})"  # of seed 0 alone
    code, out, _ = command("compare", path, "PF")
    assert code == 0 and "   seed 1 stopped after prune: accuracy_drop 7.3 > 5\n" in out
    assert rows(out)["stop_if.accuracy_drop"] == ["5", "–"]
