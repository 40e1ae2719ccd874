"""What a student is: widths by hand, and a part of its teacher evenly spaced."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from methods.distillation.students import inherited, student_args, why_no_part
from model import HybridCNNTransformer
from tests.support.tiny import RICH, tiny

DEFAULT = {"cnn_channels": [32, 64, 64, 128], "cnn_pools": [2, 1, 2, 2]}


def resolved(**args: Any) -> dict[str, Any]:
    return HybridCNNTransformer(**args).model_args


def test_half_of_the_default_network() -> None:
    half = student_args(resolved(**DEFAULT), 0.5, 0.5, {})
    assert half["cnn_channels"] == [16, 32, 32, 64]
    assert half["embed_dim"] == 64
    assert (half["num_layers"], half["num_heads"], half["head_dim"]) == (1, [2], [32])
    assert half["ffn_dim"] == [128]
    parallel = student_args(resolved(**DEFAULT, fusion="parallel"), 0.5, 1.0, {})
    assert parallel["mlp_dims"] == [128, 64]


def test_odd_widths_of_a_pruned_network_and_small_shares() -> None:
    pruned = resolved(
        cnn_channels=[9, 17, 61, 100], cnn_pools=[2, 1, 2, 2], embed_dim=100, num_layers=4,
        num_heads=[4, 3, 1, 2], head_dim=[9, 20, 32, 5], ffn_dim=[68, 70, 7, 200],
    )  # fmt: skip
    student = student_args(pruned, 0.4, 0.5, {})
    assert student["cnn_channels"] == [8, 8, 24, 40]
    assert student["embed_dim"] == 40
    assert student["num_layers"] == 2  # from the second and the fourth
    assert (student["num_heads"], student["head_dim"]) == ([1, 1], [20, 5])
    assert student["ffn_dim"] == [32, 80]
    tiny_one = student_args(pruned, 0.01, 0.01, {})
    assert tiny_one["num_layers"] == 1 and tiny_one["embed_dim"] == 8
    assert student_args(pruned, 1.0, 1.0, {}) == pruned
    for args in (student, tiny_one):
        images = torch.zeros(2, 3, 32, 32)
        assert HybridCNNTransformer(**args).eval()(images).shape == (2, 10)


def test_own_arguments_go_over_the_scaled_ones() -> None:
    teacher = resolved(**DEFAULT)
    student = student_args(teacher, 0.5, 1.0, {"ffn_dim": 40, "num_layers": 3, "embed_dim": 48})
    assert student["ffn_dim"] == [40, 40, 40] and student["cnn_channels"] == [16, 32, 32, 64]
    assert (student["num_heads"], student["head_dim"]) == ([2, 2, 2], [24, 24, 24])
    other = student_args(teacher, 1.0, 1.0, {"fusion": "parallel", "mlp_dims": [32]})
    assert other["fusion"] == "parallel" and other["mlp_dims"] == [32]


def test_residual_blocks_stay_residual() -> None:
    """Equal widths are scaled alike, and a part of the teacher is taken alike in all of them."""
    teacher = tiny(**{**RICH, "cnn_channels": [32, 32, 32, 64, 64]})
    args = student_args(teacher.model_args, 0.5, 1.0, {})
    assert args["cnn_channels"] == [16, 16, 16, 32, 32]
    assert args["cnn_residual"] == teacher.model_args["cnn_residual"]
    assert args["cnn_squeeze_excite"] == teacher.model_args["cnn_squeeze_excite"]
    assert why_no_part(args, teacher.model_args) is None
    part = inherited(teacher.model_args, teacher.state_dict(), args)
    HybridCNNTransformer(**args).load_state_dict(part)
    plain = resolved(**{**args, "cnn_residual": False})
    of_plain = resolved(**{**teacher.model_args, "cnn_residual": False})
    assert "cnn_residual is None" in str(why_no_part(plain, teacher.model_args))
    assert "the teacher's None" in str(why_no_part(args, of_plain))


@pytest.mark.parametrize("fusion", ["serial", "parallel", "parallel_attention"])
def test_a_part_of_the_teacher_is_evenly_spaced(fusion: str) -> None:
    teacher = tiny(fusion=fusion, num_layers=4, cnn_channels=[8, 16], embed_dim=24, exits=["cnn"])
    args = student_args(
        teacher.model_args, 0.5, 0.5, {"cnn_channels": [4, 16], "head_dim": [6, 6]}
        if fusion != "parallel" else {"cnn_channels": [4, 16]},
    )  # fmt: skip
    part = inherited(teacher.model_args, teacher.state_dict(), args)
    student = HybridCNNTransformer(**{**args, "exits": []})
    student.load_state_dict(part)
    whole = teacher.state_dict()
    assert torch.equal(part["cnn.blocks.0.conv.weight"], whole["cnn.blocks.0.conv.weight"][1::2])
    assert torch.equal(part["cnn.blocks.1.conv.weight"], whole["cnn.blocks.1.conv.weight"][:, 1::2])
    if fusion == "parallel":
        assert torch.equal(
            part["mlp.0.bias"],
            whole["mlp.0.bias"][[0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23]],
        )
        return
    assert args["num_layers"] == 2 and args["num_heads"] == [1, 1]
    dims = torch.tensor(_evenly(24, args["embed_dim"]))
    assert torch.equal(
        part["transformer.layers.1.norm1.weight"], whole["transformer.layers.3.norm1.weight"][dims]
    )
    heads, own = torch.tensor([1]), torch.tensor(_evenly(12, 6))
    values = whole["transformer.layers.1.attention.qkv.weight"].view(3, 2, 12, 24)[2]
    expected = values[heads][:, own][:, :, dims].reshape(6, -1)
    assert torch.equal(part["transformer.layers.0.attention.qkv.weight"][-6:], expected)


def _evenly(size: int, count: int) -> list[int]:
    return [math.floor(size * (2 * i + 1) / (2 * count)) for i in range(count)]
