"""What a step's key depends on, and what it does not depend on."""

from __future__ import annotations

import pytest

from tests.support.suites import Suites
from tests.support.taught import TAUGHT, keys


def test_the_teacher_is_in_the_key_and_its_name_is_not(suites: Suites) -> None:
    first = keys(suites, TAUGHT)
    renamed = keys(suites, TAUGHT.replace("Teacher", "Master"))
    assert renamed["Student"] == first["Student"]
    other = keys(suites, TAUGHT.replace('"teacher": "Teacher"', '"teacher": "Other"'))
    assert other["Student"] != first["Student"]
    longer = keys(
        suites,
        TAUGHT.replace(
            '"Teacher", {"finetune": {"epochs": 1}}', '"Teacher", {"finetune": {"epochs": 2}}'
        ),
    )
    assert longer["Student"] != first["Student"] and longer["Other"] == first["Other"]
    words = [
        keys(suites, TAUGHT.replace('"teacher": "Teacher"', f'"teacher": "{word}"'))["Student"]
        for word in ("baseline", "current", "Base")
    ]
    assert len(set(words)) == 1  # three names of one network


def test_a_teachers_code_does_not_concern_who_has_none(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiment.suite import chains as module

    before = keys(suites, TAUGHT)
    real = module._code_digest
    monkeypatch.setattr(
        module,
        "_code_digest",
        lambda path: "changed" if path.name in ("teacher.py", "transfer.py") else real(path),
    )
    after = keys(suites, TAUGHT)
    assert {name for name in before if before[name] != after[name]} == {"Student"}
