"""Architectures × stages: each works on real images, or is refused with the reason at the check."""

from __future__ import annotations

import json
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import main
from experiment.running.checkpoint import load_checkpoint
from stages.deployment import deploy
from tests.support.any_networks import CHAINS, NETWORKS, STAGES, config, refusals
from tests.support.comparing import assert_equal_tensors, comparable
from tests.support.docs import TWINS, tables
from tests.support.processes import in_new_process
from tests.support.suites import SUITE, Suites, results
from tests.whole.test_kill import before_writing, run_to_the_end, start

YES = ("yes", "是")


def test_the_table_in_the_docs_is_what_the_check_says(suites: Suites) -> None:
    refused = {network: refusals(suites, network) for network in NETWORKS}
    for text in ("docs/networks.md", TWINS["docs/networks.md"]):
        (table,) = [t for t in tables(text) if len(t[0]) == len(STAGES) + 1]
        assert [cell.strip("`") for cell in table[0][1:]] == list(STAGES)
        assert [row[0].strip("`") for row in table[1:]] == list(NETWORKS)
        for row, why in zip(table[1:], refused.values(), strict=True):
            told = {stage for stage, cell in zip(STAGES, row[1:], strict=True) if cell not in YES}
            assert told == set(why), (row[0], why)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_every_stage_that_is_not_refused_works(suites: Suites, network: str) -> None:
    refused = refusals(suites, network)
    for problem in refused.values():
        assert problem.startswith("C.compression_args.sequence[0]") and len(problem) < 400
    chains = {f"One_{i}": chain for i, (n, chain) in enumerate(STAGES.items()) if n not in refused}
    for name, chain in CHAINS.items():
        used = {"S": "prune, structural", "D": "distill"}
        if not any(letter in name and used[letter] in refused for letter in used):
            chains[name] = chain
    assert suites.run(config(suites.folder, network, chains)) == 0
    for name, chain in chains.items():
        last = results(suites, name)["stages"][-1]
        quantized = [s for s in chain if s == "ptq" or (isinstance(s, dict) and "qat" in s)]
        for engine, said in last["metrics"]["engines"].items():
            if quantized and "left_out" not in said:
                counted = said["int8_layers"], said["int8_layers_wanted"]
                assert counted[0] == counted[1] > 0, (name, engine, said)
    for name, format_ in [("One_2", "onnx"), ("One_2", "openvino"), ("SFSQ", "onnx-int8"),
                          ("SFSQ", "openvino")]:  # fmt: skip
        options = ["--config", str(suites.folder / "suite.py"), "--format", format_]
        folder = suites.folder / f"{name}_{format_}"
        assert main.main(["export", name, *options, "--output", str(folder)]) == 0, name
        assert any(folder.iterdir())
    before = {name: suites.folder / "logits" / f"{name}.pth" for name in chains}
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    (suites.folder / "logits").mkdir()
    for name, path in before.items():
        checkpoint = suites.folder / results(suites, name)["stages"][-1]["checkpoint"]
        torch.save((str(checkpoint), images, _logits(checkpoint, images)), path)
    in_new_process(_equal_logits, [str(path) for path in before.values()])


def _logits(checkpoint: Path, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return deploy(load_checkpoint(checkpoint)).network(images)


def _equal_logits(paths: list[str]) -> None:
    sys.modules["torch_pruning"] = None  # type: ignore[assignment]
    torch.set_num_threads(1)
    for path in paths:
        checkpoint, images, logits = torch.load(path)
        assert torch.equal(_logits(Path(checkpoint), images), logits), checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cct", "torchvision:resnet18", "FILE.py:CLASS"])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path, network: str) -> None:
    paths = []
    for name in ("plain", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        text = config(tmp_path, network, {"QSF": CHAINS["QSF"]})
        (folder / "suite.py").write_text(SUITE.format(folder=folder) + text)
        paths.append(folder / "suite.py")
    run_to_the_end(paths[0])
    kills = 0
    while kills < 4:  # before files of every kind are written
        process = start(paths[1], partial(before_writing, str(paths[1].parent), 7 + 9 * kills))
        process.join(600)
        assert process.exitcode == -signal.SIGKILL, (paths[1].parent / "log.txt").read_text()
        kills += 1
    run_to_the_end(paths[1])
    (expected, wanted), (found, weights) = (comparable(path.parent) for path in paths)
    told = json.dumps(found).replace(str(paths[1].parent), str(paths[0].parent))
    assert json.loads(told) == expected
    assert_equal_tensors(weights, wanted, "weights")
