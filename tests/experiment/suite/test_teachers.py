"""When a teacher must run, which seeds it gets, and every mistake in naming one."""

from __future__ import annotations

import json

import pytest

from experiment.running.store import Store
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from experiment.suite.teachers import circles
from tests.support.suites import Suites
from tests.support.taught import TAUGHT, stages_of


def test_a_named_teacher_runs_first_also_with_only(suites: Suites) -> None:
    assert suites.run(TAUGHT, "--only", "Student") == 0
    printed = suites.capsys.readouterr().out
    assert printed.index("━━ Base") < printed.index("━━ Teacher") < printed.index("━━ Student")
    assert "━━ Other" not in printed
    (stage,) = stages_of(suites, "Student")
    assert stage["stage"] == "distill" and not stage["cached"]
    assert stage["details"]["teacher"]["name"] == "Teacher" and stage["details"]["teacher"]["int8"]
    assert stage["metrics"]["params"] < stages_of(suites, "Teacher")[-1]["metrics"]["params"]
    assert (suites.models / "Student_distilled.pth").exists()
    assert suites.run(TAUGHT, "--only", "Student") == 0
    assert [s["cached"] for s in stages_of(suites, "Student")] == [True]
    assert suites.run(TAUGHT, "--dry-run") == 0
    assert "teacher=Teacher" in suites.capsys.readouterr().out


def test_other_weights_of_the_teacher_teach_anew(suites: Suites) -> None:
    assert suites.run(TAUGHT, "--only", "Student") == 0
    store, key = Store(suites.models), stages_of(suites, "Teacher")[-1]["key"]
    found = store.load(key)
    assert found is not None
    state, record = found
    weights = {name: value.clone() for name, value in state.weights.items()}
    weights["head.bias"] += 1
    store.put(key, state.changed(weights, quant=state.quant), record)
    assert suites.run(TAUGHT, "--only", "Student") == 0
    assert stages_of(suites, "Teacher")[-1]["cached"]
    assert not stages_of(suites, "Student")[-1]["cached"]
    assert "made from other weights than its parent or teacher" in suites.capsys.readouterr().out


def test_a_chain_of_teachers_and_one_that_trains_itself(suites: Suites) -> None:
    text = TAUGHT.replace(
        'chain("Student"',
        'chain("Last", {"finetune": {"epochs": 1, "teacher": "Student"}}),\n    chain("Student"',
    )
    text += """
ALONE = [{"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1, "teacher": "baseline"}}]
EXPERIMENT_CONFIGS.append({"name": "Alone", "compression_args": {"sequence": ALONE}})
"""
    chains = plan(load_suite(suites.write(text), only=["Last", "Alone"]))
    names = [chain.experiment.name for chain in chains]
    assert names == ["Base", "Teacher", "Student", "Last", "Alone"]
    alone = chains[-1].steps
    assert [step.stage for step in alone] == ["train", "prune", "finetune"]
    assert alone[2].teacher is alone[0] and alone[2].before is alone[1]
    last = chains[-2].steps[-1]
    assert last.teacher is chains[2].steps[-1]
    assert [s.stage for s in chains[-2].all_steps()] == [
        "train", "finetune", "ptq", "distill", "finetune",
    ]  # fmt: skip


def test_a_teacher_gets_its_students_seeds(suites: Suites) -> None:
    text = TAUGHT + 'EXPERIMENT_CONFIGS[1]["seeds"] = [0, 3]\n'
    chains = plan(load_suite(suites.write(text)))
    seeds: dict[str, list[int]] = {}
    for chain in chains:
        seeds.setdefault(chain.experiment.name, []).append(chain.seed)
    assert seeds == {"Base": [0, 3], "Teacher": [0, 3], "Student": [0, 3], "Other": [0]}
    assert all(
        step.teacher is None or step.teacher.seed == step.seed
        for chain in chains
        for step in chain.steps
    )
    lines = suites.refused(text + 'EXPERIMENT_CONFIGS[2]["seeds"] = [0]\n')
    assert lines == [
        "Student: seed 3 is not among the seeds [0] of its teacher Teacher; add it there, or "
        "remove the teacher's 'seeds'"
    ]


def test_students_of_a_failed_teacher_are_skipped_with_the_reason(suites: Suites) -> None:
    text = TAUGHT.replace(
        '{"finetune": {"epochs": 1}}, "ptq"',
        '{"finetune": {"epochs": 3, "optimizer": "sgd", "learning_rate": 100.0}}',
    )
    assert suites.run(text) == 1
    result = json.loads((suites.results / "Student_results.json").read_text())
    assert result["status"] == "skipped"
    assert result["errors"][0]["message"].startswith("its teacher Teacher failed: NonFiniteLoss")
    assert stages_of(suites, "Other")


MISTAKES = {
    "chain('C', 'distill')": "C.compression_args.sequence[0]: should say the student",
    "chain('C', {'distill': {'width': 0.5, 'teacher': 'Bas'}})": "C.compression_args.sequence[0]."
    "teacher: 'Bas' is not a teacher; did you mean 'Base'?",
    "chain('C', {'finetune': {'epochs': 1, 'teacher': 'curent'}})": "did you mean 'current'?",
    "chain('C', {'distill': {'width': 0.5, 'teacher': 'C'}})": "C.compression_args: teachers go "
    "round in a circle: C → C",
    "chain('C', {'distill': {'width': 0.5, 'teacher': 'E'}}), chain('E', {'distill': {'width': "
    "0.5, 'teacher': 'C'}})": "teachers go round in a circle: C → E → C",
    "{**BASE, 'name': 'Half', 'dataset_args': {'validation_share': 0.5}}, chain('C', {'distill': "
    "{'width': 0.5, 'teacher': 'Half'}})": "'Half' learned from Digits (10 classes, 1×8×8, "
    "validation_share 0.5), this experiment learns from Digits (10 classes",
    "{**BASE, 'name': 'current'}, chain('C', {'distill': {'width': 0.5}})": "'current' is also an "
    "experiment's name; rename that",
    "chain('C', {'distill': {'student': {'embed_dmi': 8}}})": "C.compression_args.sequence[0]."
    "student.embed_dmi: 'embed_dmi' is not known; did you mean 'embed_dim'?",
    "chain('C', {'distill': {'student': {'embed_dim': 'wide'}}})": "student.embed_dim: 'wide' "
    "should be a valid integer",
    "chain('C', {'distill': {'student': {'embed_dim': 15}}})": "embed_dim 15 is not a multiple of "
    "num_heads 2",
    "chain('C', {'distill': {'student': {'num_classes': 5}}})": "student.num_classes comes from "
    "the data",
    "chain('C', {'distill': {'student': {'exits': ['cnn']}}})": "student.exits: remove the key",
    "chain('C', {'distill': {'student': {'num_layers': 'x'}}})": "student.num_layers: 'x' should "
    "be a valid integer",
    "chain('C', {'distill': {'width': 0.5, 'temperature': -1.0}})": "temperature: -1.0 should be "
    "greater than 0",
    "chain('C', {'ptq': {}}, {'distill': {'width': 0.5, 'feature_weight': 1.0}})": "C.compression_"
    "args.sequence[1].teacher: teacher 'current' is int8 or bfloat16, which shows its logits alone",
    "chain('E', 'ptq'), chain('C', {'distill': {'width': 0.5, 'teacher': 'E', 'attention_weight': "
    "1.0}})": "teacher 'E' is int8",
    "chain('C', {'distill': {'student': {'fusion': 'parallel'}, 'init': 'teacher'}})": "sequence"
    "[0].teacher: init 'teacher' needs a student that is a part of 'current', but fusion is",
    "chain('C', {'ptq': {'float_layers': ['cnn.blocks.1.*']}}, {'distill': {'student': {"
    "'cnn_channels': [8], 'cnn_kernels': 3, 'cnn_strides': 1, 'cnn_pools': 2}}})": "C.compression_"
    "args.sequence[1]: float_layers: 'cnn.blocks.1.*' matches no layer",
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:70])
def test_mistakes_get_one_clear_line(suites: Suites, text: str) -> None:
    lines = suites.refused(f"EXPERIMENT_CONFIGS += [{text}]")
    assert len(lines) == 1, lines
    assert MISTAKES[text] in lines[0]


def test_depth_of_what_has_no_layers_is_refused(suites: Suites) -> None:
    lines = suites.refused(
        'BASE["model_args"] = {"fusion": "parallel"}\n'
        'EXPERIMENT_CONFIGS.append(chain("C", {"distill": {"depth": 0.5}}))'
    )
    assert len(lines) == 1 and "fusion 'parallel' has not" in lines[0]


def test_stages_after_a_student_are_checked_against_it(suites: Suites) -> None:
    """Its layers, not the baseline's: a pattern of the second layer matches nothing."""
    text = """
        BASE["model_args"] = {"num_layers": 2}
        EXPERIMENT_CONFIGS.append(chain(
            "C", {"distill": {"depth": 0.5}}, {"ptq": {"float_layers": ["transformer.layers.1.*"]}},
        ))
    """
    (line,) = suites.refused(text)
    assert line.startswith("C.compression_args.sequence[1]: float_layers: 'transformer.layers.1.*'")
    assert suites.run(text.replace("layers.1", "layers.0"), "--dry-run") == 0
    auto = 'EXPERIMENT_CONFIGS.append(chain("C", {"ptq": {"float_layers": "auto"}}, STUDENT))'
    assert suites.run(f'STUDENT = {{"distill": {{"width": 0.5}}}}\n{auto}', "--dry-run") == 0


def test_circles_are_found_once_each() -> None:
    needed = {"E": ["C"], "C": ["B"], "A": ["C"], "B": ["X", "A"], "X": [], "D": ["D"]}
    assert sorted(circles(needed)) == [["A", "C", "B", "A"], ["D", "D"]]
