#!/usr/bin/env bash
# onnxruntime 1.32.0: the same QDQ graph of a linear layer on tokens ([batch, 16, 64], int8 weights, MatMul and
# Add of a bias) is run in int8 where the batch size is left open (MatMulIntegerToFloat), and in float, dequantized
# (Gemm between two Reshapes), where it is written as a number. Nothing says so: knowing more makes it slower (1.08
# against 0.48 ms for a small Transformer hybrid at batch 1, one thread, AVX2). The optimizer MatMulAddFusion makes a
# Gemm of MatMul + Add where the number of rows is known, before int8 is recognised, and no fusion takes up this Gemm;
# an open batch that add_free_dimension_override_by_name sets to a number fares the same. Disabled, int8 stays.
# Seen on 2026-11-27 (kinds of nodes in the optimised graph):
#   open batch                       Add MatMulIntegerToFloat QuantizeLinear
#   open batch, set to 4             DequantizeLinear DequantizeLinear Gemm QuantizeLinear Reshape Reshape
#   batch 4                          DequantizeLinear DequantizeLinear Gemm QuantizeLinear Reshape Reshape
#   batch 4, without the fusion      Add MatMulIntegerToFloat QuantizeLinear
# Fails when that changes. Downloads onnxruntime, onnx and numpy into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat >"$folder/kinds.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

TOKENS, WIDTH = 16, 64
draw = np.random.default_rng(0)
CONSTANTS = {
    "x_scale": np.float32(0.05), "x_zero": np.uint8(128),
    "w": draw.integers(-60, 60, (WIDTH, WIDTH)).astype(np.int8),
    "w_scale": np.float32(0.01), "w_zero": np.int8(0),
    "bias": draw.normal(size=WIDTH).astype(np.float32),
}
NODES = [
    helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"]),
    helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xd"]),
    helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"]),
    helper.make_node("MatMul", ["xd", "wd"], ["product"]),
    helper.make_node("Add", ["product", "bias"], ["y"]),
]


def kinds(batch, override=None, disabled=()):
    """Kinds of nodes that are left when onnxruntime has optimised the graph."""
    shape = [batch, TOKENS, WIDTH]
    graph = helper.make_graph(
        NODES, "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in CONSTANTS.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = sys.argv[1], 3
    if override:
        options.add_free_dimension_override_by_name("batch", override)
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"],
        disabled_optimizers=list(disabled),
    )
    return " ".join(sorted(node.op_type for node in onnx.load(sys.argv[1]).graph.node))


print("open batch:", kinds("batch"))
print("open batch, set to 4:", kinds("batch", override=4))
print("batch 4:", kinds(4))
print("batch 4, without the fusion:", kinds(4, disabled=["MatMulAddFusion"]))
PY
found=$("$folder/venv/bin/python" "$folder/kinds.py" "$folder/optimised.onnx")
echo "$found"
int8="Add MatMulIntegerToFloat QuantizeLinear"
float="DequantizeLinear DequantizeLinear Gemm QuantizeLinear Reshape Reshape"
[ "$found" = "open batch: $int8
open batch, set to 4: $float
batch 4: $float
batch 4, without the fusion: $int8" ]
