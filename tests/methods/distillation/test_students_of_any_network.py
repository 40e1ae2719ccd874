"""Students of networks that are no hybrid: scaled, of other arguments, of another architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from methods.distillation.students import inherited, student_args, why_no_part
from methods.pruning.cutting import cut_args
from methods.pruning.dimensions import dimensions
from model import blueprint, build_network, resolved_args
from tests.support.user_nets import user_file

DIGITS = {"image_size": 8, "in_channels": 1}


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    return resolved_args({"architecture": f"{user_file(tmp_path)}:TinyNet", "width": 24, **DIGITS})


def resnet(**args: Any) -> dict[str, Any]:
    return resolved_args(
        {"architecture": "torchvision:resnet18", "stem": "small", **DIGITS, **args}
    )


def widths(args: dict[str, Any]) -> dict[str, int]:
    return {d.name: d.size for d in dimensions(blueprint(args), ["conv", "ffn", "embed"])}


def test_width_scales_every_dimension_in_eights(own: dict[str, Any]) -> None:
    half = student_args(own, 0.5, 1.0, {})
    assert widths(half) == {"first": 16, "right": 16}  # 12, to eights
    assert widths(student_args(own, 0.01, 1.0, {})) == {"first": 8, "right": 8}
    assert student_args(own, 1.0, 1.0, {}) == own
    of_resnet = widths(student_args(resnet(), 0.25, 1.0, {}))
    assert set(of_resnet.values()) == {16, 32, 64, 128}
    assert student_args(half, 1.0, 1.0, {}) == half  # what was pruned stays so


def test_own_arguments_make_it_anew(own: dict[str, Any]) -> None:
    pruned = cut_args(own, [(d, torch.arange(5)) for d in dimensions(blueprint(own), ["conv"])])
    student = student_args(pruned, 1.0, 1.0, {"width": 12})
    assert student == {**own, "width": 12} and "shapes" not in student
    assert widths(student_args(pruned, 0.5, 1.0, {"width": 32})) == {"first": 16, "right": 16}


def test_another_architecture_has_the_datas_shape_and_its_own_arguments(
    own: dict[str, Any],
) -> None:
    hybrid = resolved_args({"cnn_channels": [8, 16], "cnn_pools": [2, 2], **DIGITS})
    mine = {"architecture": "torchvision:resnet18", "stem": "small"}
    assert student_args(hybrid, 1.0, 1.0, mine) == resnet()
    there = student_args(
        own, 1.0, 1.0, {"architecture": "hybrid", "cnn_channels": [8], "cnn_pools": [2]}
    )
    assert there == resolved_args({"cnn_channels": [8], "cnn_pools": [2], **DIGITS})
    assert student_args(hybrid, 1.0, 1.0, {"architecture": "hybrid"}) == hybrid


def test_what_no_student_can_be(own: dict[str, Any]) -> None:
    for wanted, said in [
        ((1.0, 0.5, {}), "depth is of the hybrid's encoder layers"),
        ((0.5, 1.0, {"architecture": "hybrid"}), "width is of the network that enters"),
        ((1.0, 1.0, {"widht": 8}), r"takes width; did you mean 'width'"),
        ((1.0, 1.0, {"architecture": "resnet18"}), r"'resnet18' is none of"),
        ((1.0, 1.0, {"in_channels": 3}), "comes from the data"),
    ]:
        with pytest.raises(ValueError, match=said):
            student_args(own, *wanted)


def test_a_part_of_the_teacher_is_evenly_spaced(own: dict[str, Any]) -> None:
    torch.manual_seed(0)
    teacher = build_network(own)
    args = student_args(own, 0.34, 1.0, {})
    assert widths(args) == {"first": 8, "right": 8} and why_no_part(args, own) is None
    part = inherited(own, teacher.state_dict(), args)
    build_network(args).load_state_dict(part)
    units = torch.arange(1, 24, 3)
    whole = teacher.state_dict()
    assert torch.equal(part["first.weight"], whole["first.weight"][units])
    assert torch.equal(part["left.weight"], whole["left.weight"][units][:, units])
    columns = torch.cat([units, 24 + units])
    assert torch.equal(part["head.weight"], whole["head.weight"][:, columns])
    again = student_args(args, 1.0, 1.0, {})  # of a cut teacher
    assert torch.equal(inherited(args, part, again)["head.weight"], part["head.weight"])


def test_why_it_is_no_part(own: dict[str, Any]) -> None:
    narrow = student_args(own, 0.34, 1.0, {})
    assert "width is 12, the teacher's 24" in str(why_no_part({**own, "width": 12}, own))
    assert why_no_part(own, narrow) == "first has 24 units, the teacher's 8"
    assert "it is a torchvision:resnet18, the teacher a hybrid" in str(
        why_no_part(resnet(), resolved_args(DIGITS | {"cnn_channels": [8], "cnn_pools": [2]}))
    )
