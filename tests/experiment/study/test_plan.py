"""Which chains a study runs, and every mistake in writing one."""

from __future__ import annotations

from typing import Any

import pytest

from experiment.study.config import SeedsByRounds, StudyConfig
from experiment.study.plan import load_study, named_studies
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
    networks = HOME / "configs" / "order_study_networks.py"
    for name in named_studies(networks, "Networks"):
        assert len(load_study(networks, name).links) == 7
    with pytest.raises(ConfigError, match="data/cifar10/train is not a folder"):
        load_study(HOME / "configs" / "order_study_folder.py", "Folder_Pairs")


# --- rounds, margins, whole orders ---------------------------------------------------------------


def config(**changes: Any) -> StudyConfig:
    stages: dict[str, Any] = {"Q": "qat", "P": ["prune", "finetune"]}
    return StudyConfig(**{"name": "S", "baseline": "Base", "stages": stages, **changes})


def test_what_is_not_written_is_filled_in() -> None:
    fixed = config(seeds=[3, 5])
    assert fixed.by_rounds is None and fixed.all_seeds == [3, 5]
    assert config().all_seeds is None and not config().verify
    assert config().equal_within == 0.5 and config(compare="loss").equal_within == 0.02
    assert config(margin=0.1).equal_within == config(margin=0.1, compare="loss").equal_within == 0.1
    rounds = config(seeds={"max": 3}, budget_hours=2.5, budget_epochs=40)
    assert rounds.by_rounds == SeedsByRounds(min=2, max=3) and rounds.all_seeds == [0, 1, 2]
    assert config(seeds={}).by_rounds == SeedsByRounds(min=2, max=8)
    assert not list(rounds.mistakes())


def test_the_order_of_the_papers_in_a_studys_letters() -> None:
    """Distil, prune, quantize, leave early, whatever letters stand for them."""
    four = {"A": "early_exit", "B": [{"qat": {}}, "finetune"], "C": "prune", "D": "distill"}
    assert config(stages=four).papers_order() == "DCBA"
    assert config(stages={"Q": "ptq", "P": "prune"}).papers_order() == "PQ"
    assert config(stages={"Q": "ptq", "R": "qat", "P": "prune"}).papers_order() is None  # which?
    assert config(stages={"F": "finetune", "P": "prune"}).papers_order() is None


THREE = """
STUDY["stages"] = {"E": {"early_exit": {}}, **STUDY["stages"]}
STUDY.update(strengths={"P": [{"ratio": 0.5}]}, seeds={"min": 2, "max": 4}, verify=True, epochs=5)
"""


def test_a_study_by_rounds_is_planned_with_every_seed_and_the_papers_order(suites: Suites) -> None:
    found = load_study(suites.write(STUDY + THREE), "Tiny")
    assert [link.order for link in found.links if len(link.order) == 3] == ["PQE"]
    assert found.experiment("Tiny_EP").seeds == (0, 1, 2, 3)
    longer = found.extended(["EQP", "PQE"])
    assert [link.order for link in longer.links if len(link.order) == 3] == ["PQE", "EQP"]
    assert [link.name for link in longer.links if len(link.order) < 3] == [
        link.name for link in found.links if len(link.order) < 3
    ]


def test_a_part_has_these_chains_at_their_seeds_and_what_they_start_from(suites: Suites) -> None:
    found = load_study(suites.write(STUDY + THREE), "Tiny")
    part = found.part({"Tiny_EP": (0, 1, 3), "Tiny_P": (2,)})
    assert {e.name: e.seeds for e in part.experiments} == {
        "Base": (0, 1, 2, 3), "Tiny_EP": (0, 1, 3), "Tiny_P": (2,)
    }  # fmt: skip
    assert not found.part({}).experiments


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
    "STUDY['seeds'] = [0, 'a']": "Tiny.seeds[1]: 'a' should be a valid integer",
    "STUDY['seeds'] = []": "Tiny.seeds: [] should name at least one seed",
    "STUDY['seeds'] = 3": "Tiny.seeds: 3 should be a valid list or should be a valid dictionary",
    "STUDY['seeds'] = {'min': 1}": "Tiny.seeds.min: 1 should be greater than or equal to 2",
    "STUDY['seeds'] = {'max': 400}": "Tiny.seeds.max: 400 should be less than or equal to 100",
    "STUDY['seeds'] = {'min': 5, 'max': 3}": "Tiny.seeds: min 5 is above max 3; exchange them",
    "STUDY['seeds'] = {'maxx': 3}": "Tiny.seeds.maxx: 'maxx' is not known; did you mean 'max'?",
    "STUDY['seeds'] = {'max': 3}; BASE['seeds'] = [0, 1]": "Tiny: seed 2 is not among the seeds "
    "[0, 1] of its baseline Base; add it there, or remove the baseline's 'seeds'",
    "STUDY['budget_hours'] = 2.5": "Tiny.budget_hours: is of seeds by rounds; set seeds to "
    "{'min': 2, 'max': 8}, or remove it",
    "STUDY['budget_epochs'] = 9": "Tiny.budget_epochs: is of seeds by rounds; set seeds to",
    "STUDY.update(seeds={}, budget_hours=0)": "Tiny.budget_hours: 0 should be greater than 0",
    "STUDY.update(seeds={}, budget_epochs=0)": "Tiny.budget_epochs: 0 should be greater than or",
    "STUDY['bugdet_hours'] = 2": "Tiny.bugdet_hours: 'bugdet_hours' is not known; did you mean "
    "'budget_hours'?",
    "STUDY['margin'] = 0": "Tiny.margin: 0 should be greater than 0",
    "STUDY['margin'] = float('inf')": "Tiny.margin: inf should be a finite number",
    "STUDY['compare'] = 'acuracy'": "Tiny.compare: 'acuracy' should be 'accuracy' or 'loss'",
    "STUDY['verify'] = 'yes'": "Tiny.verify: 'yes' should be a valid boolean",
    "STUDY['verify'] = True": "Tiny.verify: is of three letters or more, and there are 2; remove",
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
