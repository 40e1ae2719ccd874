"""`baseline: [..]`: a study or a search of each baseline, run by one name."""

from __future__ import annotations

from experiment.search.plan import load_search, named_searches
from experiment.study.plan import load_studies, load_study, named_studies
from tests.support.suites import Suites, main

TWO = """
OTHER = {"name": "Other", "is_fp32_baseline_generation": True,
         "model_args": {"architecture": "resnet_cifar", "depth": 8, "width": 4}}
EXPERIMENT_CONFIGS = [BASE, OTHER]
DEFAULT_DEPLOYMENT_PARAMS = {"engines": ["onnxruntime"], "batch_sizes": [1]}
ORDER_STUDIES = [{
    "name": "S", "baseline": ["Base", "Other"], "seeds": [0],
    "stages": {"M": {"prune": {"ratio": 0.3}}, "F": {"finetune": {"epochs": 1}}},
}]
SEARCHES = [{
    "name": "W", "baseline": ["Base", "Other"], "wish": "accuracy_drop<=90, min bitops",
    "stages": {"Q": {"ptq": {"backend": "pt2e"}}, "F": {"finetune": {"epochs": 1}}},
    "budget_epochs": 30, "seeds_final": 1,
}]
"""


def test_a_name_stands_for_one_of_each_baseline(suites: Suites) -> None:
    path = suites.write(TWO)
    assert named_studies(path, "S") == ["S_Base", "S_Other"]
    assert named_studies(path, "S_Other") == ["S_Other"]
    assert [(s.name, s.baseline) for s in load_studies(path)] == [
        ("S_Base", "Base"), ("S_Other", "Other"),
    ]  # fmt: skip
    chains = load_study(path, "S_Other").suite.experiments
    assert {e.baseline for e in chains if not e.is_baseline} == {"Other"}
    assert named_searches(path, "W") == ["W_Base", "W_Other"]
    assert load_search(path, "W_Other").baseline.model_args["architecture"] == "resnet_cifar"


def test_studies_of_all_baselines_run_and_are_shown_side_by_side(suites: Suites) -> None:
    path = suites.write(TWO)
    assert main.main(["study", "S", "--config", str(path)]) == 0
    printed = suites.capsys.readouterr().out
    assert "Studies S, side by side" in printed
    assert "no pair of stages is settled one way" in printed
    assert (suites.results / "study_S_Base.json").exists()
    assert (suites.results / "study_S_Other.json").exists()
    assert "Side by side" in (suites.results / "report.html").read_text()


def test_searches_of_all_baselines_run(suites: Suites) -> None:
    path = suites.write(TWO)
    assert main.main(["search", "W", "--config", str(path)]) == 0
    for baseline in ("Base", "Other"):
        assert (suites.results / f"search_W_{baseline}.json").exists()


def test_mistakes_in_a_list_of_baselines(suites: Suites) -> None:
    for written, said in [
        ("[]", "S.baseline: "),
        ('["Base", "Nowhere"]', "S_Nowhere.baseline: 'Nowhere' is not an experiment"),
        ('["Base", "Base"]', "another study has this name"),
        ('["Base", 3]', "S_3.baseline: "),
    ]:
        path = suites.write(TWO.replace('["Base", "Other"], "seeds"', f'{written}, "seeds"'))
        assert main.main(["study", "S", "--config", str(path)]) == 2
        assert said in suites.capsys.readouterr().err
