"""What a step of quantization-aware training costs, against a float step and against torchao's.

Run: python -m benchmarks.qat_step             (about 3 min on 2 idle cores)
     python -m benchmarks.qat_step --quick     (under 1 min)

The reference network of benchmarks/inference.py, batches of 128, AdamW: single steps of all sides
in turn, medians. Float and ours train in bfloat16 where the processor multiplies it, else in
float32. Our ranges move in the first half of a stage's epochs, then they are frozen.
torchao's prepared graph (`prepare_qat_pt2e`, X86InductorQuantizer) fails under autocast, so it
always trains in float32; a float32 step stands beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings

import torch
from torch import Tensor, nn

from benchmarks.inference import ARGS, REFERENCE, SEED, digits
from machine.environment import environment
from methods.quantization import backends
from model import HybridCNNTransformer
from networks.convolution import fuse_blocks
from stages.qat import QatSpec
from training.losses import cross_entropy
from training.optimizers import get_optimizer
from training.recipe import Recipe, resolve_precision

BATCH = 128
WARM_UP = 3  # steps
ROUNDS = {True: 8, False: 40}  # quick or not
FLOAT, OBSERVING, FROZEN = "float", "QAT, ranges move", "QAT, ranges frozen"
FLOAT32, TORCHAO = "float, fp32", "torchao's QAT, fp32"


class Side:
    """A network in training, in bfloat16 autocast or not."""

    def __init__(self, network: nn.Module, bf16: bool):
        self.network, self.bf16 = network, bf16
        fuse_blocks(network, "cpu")  # as `fit` does
        self.optimizer = get_optimizer(network, Recipe())
        self.seconds: list[float] = []
        self.loss = float("nan")

    def step(self, images: Tensor, labels: Tensor) -> None:
        """As train_one_epoch makes it of a batch."""
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = cross_entropy()(self.network(images).float(), labels, images)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - started)
        self.loss = loss.item()


def network() -> HybridCNNTransformer:
    """The reference network in channels_last, always with the same weights."""
    torch.manual_seed(SEED)
    model = HybridCNNTransformer(**ARGS[REFERENCE])
    return model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]


def ours(images: Tensor, observing: bool) -> nn.Module:
    """Our fake-quantized network, with ranges of these images; whether they move from here on."""
    quant = QatSpec().quant("qat")
    prepared = backends.prepare(network(), quant)
    with torch.no_grad():
        prepared(images)
    backends.set_observing(prepared, quant, observing)
    return prepared


def torchao(images: Tensor) -> nn.Module:
    """The same network prepared by torchao, with its default x86 settings for QAT."""
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    batch = torch.export.Dim("batch", min=2, max=4096)
    exported = torch.export.export(network(), (images[:4],), dynamic_shapes=({0: batch},)).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    prepared = prepare_qat_pt2e(exported, quantizer)
    allow_exported_model_train_eval(prepared)
    prepared.train()
    return prepared


def measure(batch: int, rounds: int) -> dict[str, Side]:
    """All sides after `rounds` steps in turn, and some before that do not count."""
    bf16 = resolve_precision("auto", "cpu") == "bf16"
    images = digits(batch).to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao remarks on its own innards
        sides = {
            FLOAT: Side(network(), bf16),
            OBSERVING: Side(ours(images, observing=True), bf16),
            FROZEN: Side(ours(images, observing=False), bf16),
            FLOAT32: Side(network(), False),
            TORCHAO: Side(torchao(images), False),
        }
        for _ in range(WARM_UP + rounds):
            for side in sides.values():
                side.step(images, labels)
    for side in sides.values():
        del side.seconds[:WARM_UP]
    return sides


def main(arguments: list[str] | None = None, batch: int = BATCH, rounds: int | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    rounds = rounds or ROUNDS[parser.parse_args(arguments).quick]
    sides = measure(batch, rounds)
    median = {name: statistics.median(side.seconds) for name, side in sides.items()}
    print(json.dumps(environment(torch.device("cpu"))))
    precision = "bf16" if sides[FLOAT].bf16 else "fp32"
    print(f"batch {batch}, {rounds} steps each, in turn; float and QAT in {precision}\n")
    print("| step | median ms | × float | × float of its precision | fastest ms | × float |")
    print("|---|---|---|---|---|---|")
    for name, side in sides.items():
        own = median[FLOAT if side.bf16 else FLOAT32]
        fastest = min(side.seconds)  # tells more where the machine does other things too
        print(
            f"| {name} | {1e3 * median[name]:.1f} | {median[name] / median[FLOAT]:.2f} | "
            f"{median[name] / own:.2f} | {1e3 * fastest:.1f} | "
            f"{fastest / min(sides[FLOAT].seconds):.2f} |"
        )
    ratios = {
        "observing_vs_float": median[OBSERVING] / median[FLOAT],
        "frozen_vs_float": median[FROZEN] / median[FLOAT],
        "torchao_vs_float": median[TORCHAO] / median[FLOAT],
        "torchao_vs_float_fp32": median[TORCHAO] / median[FLOAT32],
    }
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))


if __name__ == "__main__":
    main()
