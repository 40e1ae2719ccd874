"""Which chains a study runs, and every mistake in writing one."""

from __future__ import annotations

import pytest

from experiment.study.plan import load_study
from experiment.suite.messages import ConfigError
from tests.support.home import HOME
from tests.support.studies import STUDY, study
from tests.support.suites import Suites

# --- plans ---------------------------------------------------------------------------------------


def test_every_chain_spends_the_study_s_epochs(suites: Suites) -> None:
    path = suites.write(STUDY + "STUDY['epochs'] = 5\n")
    found = load_study(path, "Tiny")
    assert set(found.epochs.values()) == {5}
    sequences = {link.name: link.written[-1] for link in found.links}
    assert sequences["Tiny_Q"] == {"finetune": {"epochs": 4}}
    assert sequences["Tiny_QP_p0"] == {"finetune": {"epochs": 3}}


def test_permutations_hold_all_shorter_orders(suites: Suites) -> None:
    changes = "STUDY.update(orders='permutations', strengths={'P': [{'ratio': 0.5}]})\n"
    path = suites.write(f"{STUDY}{changes}STUDY['stages']['F'] = 'finetune'\n")
    found = load_study(path, "Tiny")
    assert [link.order for link in found.links] == [
        "P", "Q", "F", "PQ", "PF", "QP", "QF", "FP", "FQ",
        "PQF", "PFQ", "QPF", "QFP", "FPQ", "FQP",
    ]  # fmt: skip
    assert found.links[3].name == "Tiny_PQ"


def test_the_shipped_studies_are_sound() -> None:
    digits = load_study(HOME / "configs" / "order_study_digits.py", "Digits")
    assert {link.order for link in digits.links} >= {"DP", "PD", "QE", "EQ"}
    cifar = load_study(HOME / "configs" / "order_study_cifar10.py", "CIFAR10")
    assert sum(len(link.order) == 4 for link in cifar.links) == 48
    with pytest.raises(ConfigError, match="data/cifar10/train is not a folder"):
        load_study(HOME / "configs" / "order_study_folder.py", "Folder_Pairs")


# --- mistakes ------------------------------------------------------------------------------------


MISTAKES = {
    "ORDER_STUDIES = 5": "ORDER_STUDIES: 5 should be a list of dicts",
    "ORDER_STUDIES = [7]": "ORDER_STUDIES[0]: 7 is not a dict",
    "ORDER_STUDIES.append(STUDY)": "Tiny: another study has this name",
    "STUDY['name'] = 'a/b'": "a/b.name: 'a/b' should have only letters",
    "STUDY['stage'] = STUDY.pop('stages')": "Tiny.stage: 'stage' is not known; did you mean",
    "STUDY['baseline'] = 'Bas'": "Tiny.baseline: 'Bas' is not an experiment; did you mean 'Base'?",
    "EXPERIMENT_CONFIGS.append(chain('C', 'ptq')); STUDY['baseline'] = 'C'": "Tiny.baseline: 'C' "
    "is not a baseline; set its is_fp32_baseline_generation",
    "STUDY['stages'] = {'PQ': 'ptq', 'Q': 'qat'}; STUDY['strengths'] = {}": "Tiny.stages: 'PQ' "
    "should be one capital letter",
    "STUDY['stages'] = {'P': 'ptq'}; STUDY['strengths'] = {}": "Tiny.stages: P alone has no order",
    "STUDY['stages']['Q'] = []": "Tiny.stages.Q: should name a stage",
    "STUDY['cost'] = 'latency_ms'; "
    "EXPERIMENT_CONFIGS[0]['deployment_args'] = {'batch_sizes': [8]}": "Tiny.cost: 'latency_ms' is "
    "that of batches of 1, and deployment_args.batch_sizes of Base is [8]; add 1",
    "STUDY['stages']['Q'] = 7": "Tiny.stages: 7 should be a valid string",
    "STUDY['stages']['Q'] = {'ptq': {}, 'qat': {}}": "Tiny.stages.Q: {'ptq': {}, 'qat': {}} "
    "should be {stage: options}",
    "STUDY['stages']['Q'] = 'qta'": "Tiny.stages.Q: 'qta' is not a stage; did you mean 'qat'?",
    "STUDY['stages']['Q'] = {'qat': {'epoch': 1}}": "Tiny.stages.Q.epoch: 'epoch' is not known",
    "STUDY['strengths']['P'][1]['ratio'] = 2.0": "Tiny.stages.P[0] with strengths.P[1].ratio: 2.0 "
    "should be less than 1",
    "STUDY['strengths']['R'] = [{}]": "Tiny.strengths: 'R' is not one of the stages; allowed: P, Q",
    "STUDY['strengths']['P'] = []": "Tiny.strengths.P: should list at least one dict of options",
    "STUDY['orders'] = 'pair'": "Tiny.orders: 'pair' should be 'pairs' or 'permutations' or",
    "STUDY['orders'] = []": "Tiny.orders: should be 'pairs', 'permutations' or a list",
    "STUDY['orders'] = ['PR']": "Tiny.orders: 'PR' should be made of the letters P, Q",
    "STUDY['orders'] = ['PQP']": "Tiny.orders: 'PQP' has a letter twice",
    "STUDY['orders'] = ['PQ', 'PQ']": "Tiny.orders: one stands twice",
    "STUDY['seeds'] = [0, 0]": "Tiny.seeds: [0, 0] should be different whole numbers",
    "STUDY['epochs'] = 1": "Tiny.epochs: 1, but the stages of Tiny_PQ_p0 train 2",
    "STUDY['cost'] = 'macs'": "Tiny.cost: 'macs' should be 'bitops', 'latency_ms', ",
    "STUDY['strengths'] = {'Q': [{}, {'epochs': 3}], 'P': [{'ratio': 0.5}]}": "Tiny: Tiny_Q_q0 "
    "trains 1 epochs and Tiny_Q_q1 3, so that they cannot be compared; set 'epochs' to 4",
    "DEFAULT_DATASET_CONFIG['validation_share'] = 0.0": "validation_share: 0.0 should be greater",
    "EXPERIMENT_CONFIGS.append(chain('tiny_pq_p0', 'ptq'))": "Tiny: its chain Tiny_PQ_p0 has an "
    "experiment's name",
    "BASE['seeds'] = [0]": "Tiny: seed 1 is not among the seeds [0] of its baseline Base",
    "STUDY['stages'] = {'Q': {'ptq': {'float_layers': ['head']}}, 'P': {'prune': {'mode': "
    "'structural', 'targets': ['depth']}}}": "Tiny.stages.P with strengths.P[0]: target 'depth'",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:60])
def test_mistakes_get_one_clear_line(suites: Suites, text: str) -> None:
    path = suites.write(f"{STUDY}\n{text}\n")
    assert study(path, "Tiny", "--dry-run") == 2
    captured = suites.capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert "Traceback" not in captured.err and not suites.models.exists()
    assert MISTAKES[text] in lines[0]
    assert len(lines) == 1 or "depth" in text, lines
