"""Suites of any networks: what a config says of them, checked before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from experiment.running.checkpoint import load_checkpoint
from experiment.suite.chains import plan
from experiment.suite.messages import ConfigError
from experiment.suite.networks import layered
from experiment.suite.schema import load_suite
from tests.support.suites import Suites, results
from tests.support.user_nets import user_file

TAKES = "DEFAULT_COMPRESSION_PARAMS['quantization_backend'] = 'pt2e'\n"


def _suite(folder: Path, *chains: str, args: str = "", net: str = "TinyNet") -> str:
    name = f"{folder / 'my_nets.py'}:{net}"
    base = f"{{**BASE, 'model_args': {{'architecture': {name!r}, {args}}}}}"
    return f"{TAKES}EXPERIMENT_CONFIGS = [{base}, {', '.join(chains)}]"


def test_arguments_of_another_architecture_come_instead() -> None:
    hybrid, mine = {"embed_dim": 8}, {"architecture": "a.py:A", "width": 4}
    assert layered([hybrid, mine, {"width": 5}]) == {"architecture": "a.py:A", "width": 5}
    assert layered([hybrid, {"num_heads": 2}]) == {"embed_dim": 8, "num_heads": 2}
    assert layered([mine, {"architecture": "hybrid"}]) == {"architecture": "hybrid"}
    assert layered([mine, mine]) == mine


def test_a_users_network_is_trained_and_goes_on(suites: Suites, tmp_path: Path) -> None:
    user_file(tmp_path)
    text = _suite(tmp_path, "chain('C', {'finetune': {'epochs': 1}})", args="'width': 4")
    assert suites.run(text) == 0
    printed = suites.capsys.readouterr().out
    assert "my_nets.py:TinyNet, width 4" in printed
    (stage,) = results(suites, "C")["stages"]
    assert stage["metrics"]["params"] == 40 + 8 + 148 + 20 + 90  # counted by hand
    assert stage["metrics"]["macs"] == 64 * (9 * 4 + 9 * 16 + 16) + 80
    assert suites.run(text) == 0
    assert results(suites, "C")["stages"][0]["cached"]


def test_another_file_of_the_same_name_trains_anew(suites: Suites, tmp_path: Path) -> None:
    user_file(tmp_path)
    suite = load_suite(suites.write(_suite(tmp_path)))
    before = plan(suite)[0].steps[-1].key
    path = tmp_path / "my_nets.py"
    path.write_text(path.read_text().replace("F.relu(self.right(x))", "self.right(x)"))
    assert plan(load_suite(suites.write(_suite(tmp_path))))[0].steps[-1].key != before


def test_training_starts_from_weights_in_a_file(suites: Suites, tmp_path: Path) -> None:
    user_file(tmp_path)
    assert suites.run(_suite(tmp_path)) == 0
    first = results(suites, "Base")["stages"][0]
    state = load_checkpoint(suites.models / "Base_fp32_baseline.pth")
    torch.save(state.weights, tmp_path / "w.pth")
    text = _suite(tmp_path, args=f"'weights': {str(tmp_path / 'w.pth')!r}")
    assert suites.run(text) == 0
    again = results(suites, "Base")["stages"][0]
    assert again["key"] != first["key"] and not again["cached"]
    assert again["details"]["start"]["new"] == []
    losses = [stage["details"]["history"][0]["validation_loss"] for stage in (first, again)]
    assert losses[1] < losses[0]
    assert "weights" not in results(suites, "Base")["config"]["model_args"]
    (tmp_path / "w.pth").rename(tmp_path / "renamed.pth")
    renamed = text.replace("w.pth", "renamed.pth")
    assert suites.run(renamed, "--dry-run") == 0
    assert "1 cached" in suites.capsys.readouterr().out  # what they are counts, not their name


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("'widht': 4", "Base.model_args.widht: .*did you mean 'width'"),
        ("'weights': 'none.pth'", "Base.model_args.weights: there is no file none.pth"),
        ("'weights': 3", "Base.model_args.weights: should be a file"),
        ("'num_classes': 7", "Base.model_args.num_classes: 7 does not fit the data"),
        ("'shapes': {}", "Base.model_args.shapes: comes from pruning"),
    ],
)
def test_mistakes_are_told_at_their_place(
    suites: Suites, tmp_path: Path, args: str, said: str
) -> None:
    user_file(tmp_path)
    assert suites.run(_suite(tmp_path, args=args)) == 2
    assert re.search(said, suites.capsys.readouterr().err)
    assert not suites.results.exists()


def test_early_exits_are_refused_where_there_are_no_places(suites: Suites, tmp_path: Path) -> None:
    user_file(tmp_path)
    assert suites.run(_suite(tmp_path, "chain('E', 'early_exit')")) == 2
    said = suites.capsys.readouterr().err
    assert "E.compression_args.sequence[0]: " in said
    assert "names no places where it could be left early" in said


def test_set_reaches_a_users_constructor(suites: Suites, tmp_path: Path) -> None:
    user_file(tmp_path)
    config = suites.write(_suite(tmp_path))
    suite = load_suite(config, overrides=["model_args.width=6"])
    assert suite.experiments[0].model_args["width"] == 6
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        load_suite(config, overrides=["model_args.widht=6"])


def test_a_student_of_another_architecture_is_tried_before_anything_runs(
    suites: Suites, tmp_path: Path
) -> None:
    user_file(tmp_path)
    name = f"{tmp_path / 'my_nets.py'}:TinyNet"
    for student, said in [
        ({"architecture": name, "widht": 3}, "sequence[0].student.widht"),
        ({"architecture": f"{name}s"}, "has no nn.Module 'TinyNets'"),
    ]:
        chain = f"chain('D', {{'distill': {{'student': {student}}}}})"
        text = f"{TAKES}EXPERIMENT_CONFIGS = [BASE, {chain}]"
        assert suites.run(text) == 2
        assert said in suites.capsys.readouterr().err
