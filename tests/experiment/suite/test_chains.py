"""The plan of a suite: the names of its checkpoints."""

from __future__ import annotations

from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from machine.files import NAME_BYTES, write_atomically
from tests.support.suites import Suites


def test_a_chain_of_any_length_has_names_that_files_can_have(suites: Suites) -> None:
    """Short ones are spelled out; of long ones the middle goes, and each stays its own."""
    path = suites.write(
        """
        STEP = [{"prune": {"ratio": 0.1}}, {"finetune": {"epochs": 1}}]
        EXPERIMENT_CONFIGS.append(chain("A" * 120, *STEP * 24, "ptq", seeds=[0, 2147483647]))
        BASE["seeds"] = [0, 2147483647]
        """
    )
    steps = [step for chain in plan(load_suite(path)) for step in chain.steps]
    names = [step.checkpoint for step in steps]
    assert len(names) == len(set(names)) == 2 + 2 * 49
    for name in names:
        assert len(name) <= NAME_BYTES
        write_atomically(suites.folder / f"{name}.pth", b"content")
    (first,) = [name for name in names if name.startswith("A") and name.endswith("A_pruned_10")]
    assert first == "A" * 120 + "_pruned_10"
    assert names[-1].startswith("AAAA") and names[-1].endswith("_p10_f_quantized_ptq_int8")
