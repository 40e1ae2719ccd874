"""What only a GPU can show: its results against the CPU's, and that nothing makes it wait.

Skipped where there is none.
"""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import train_eval
from dataset import Dataset, get_dataloaders
from experiment.running.measure import measure
from machine.errors import Interrupted
from machine.timing import latencies
from stages.deployment import calibrated, deploy
from stages.distillation import DistillSpec, distill
from stages.early_exit import EarlyExitSpec, early_exit
from stages.finetuning import TrainSpec, train
from stages.pruning import PruneSpec, prune
from stages.ptq import PtqSpec, ptq
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import build, initial_state
from tests.support.fits import FITS, aware, distilled, recordings_in
from tests.support.home import HOME
from tests.support.memory import Memory
from tests.support.suites import Suites
from tests.support.tiny import TINY, tiny
from train_eval import compile_step, take_step, train_one_epoch
from training.cuda_graph import WARM_UP, CapturedStep, Recording
from training.losses import cross_entropy
from training.optimizers import get_optimizer, get_scheduler
from training.recipe import Recipe

GPU = torch.device("cuda")


pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),  # torch 2.11's own
]


@pytest.fixture
def on_gpu(digits: Dataset) -> Context:
    return Context(digits, GPU, seed=0, say=lambda text: None)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_a_step_on_the_gpu_is_one_on_the_cpu(optimizer: Any) -> None:
    """Logits, gradients and the weights after a step, in float32 without TF32."""
    recipe = Recipe(optimizer=optimizer, batch_size=64, learning_rate=1e-2)
    images = torch.randn(64, 1, 8, 8)
    labels = torch.randint(0, 10, (64,))
    found: list[dict[str, torch.Tensor]] = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for device in ("cpu", "cuda"):
            torch.manual_seed(0)
            model = tiny(cnn_activation="gelu").to(device).train()  # no kinks to fall either way of
            steps = get_optimizer(model, recipe)
            logits = model(images.to(device))
            torch.nn.functional.cross_entropy(logits, labels.to(device)).backward()
            gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
            steps.step()
            weights = {n: p.detach().cpu() for n, p in model.named_parameters()}
            found += [{"logits": logits.detach().cpu()}, gradients, weights]
    for cpu, gpu, close in zip(found[:3], found[3:], (1e-4, 1e-4, 2e-2), strict=True):
        assert cpu.keys() == gpu.keys()
        for name, value in cpu.items():
            # Newton-Schulz is in bfloat16 on one side, and Adam divides by gradients near zero.
            error = (gpu[name] - value).norm() / value.norm().clamp_min(1e-3)
            assert error < close, (name, float(error))


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muon", "sgd", "rmsprop"])
def test_a_captured_step_is_a_step(optimizer: Any, digits: Dataset) -> None:
    """Nine steps recorded and replayed against nine as they are, with a moving rate and momentum;
    then the optimizer's state is saved and loaded, as when a run goes on."""
    recipe = Recipe(optimizer=optimizer, batch_size=128, learning_rate=2e-3)
    loader = get_dataloaders(digits, 128, device=GPU).train
    losses: list[list[float]] = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True):
        for captured in (False, True):
            torch.manual_seed(0)
            model = tiny(cnn_activation="gelu").to(GPU).train()
            steps = get_optimizer(model, recipe)
            schedule = get_scheduler(steps, recipe, 1, 20)
            take = partial(take_step, model, steps, criterion=cross_entropy(0.1), grad_clip=1.0)
            step: Any = CapturedStep(take, steps, GPU) if captured else take
            found = []
            for images, labels in loader:
                found.append(step(images, labels)[0])
                schedule.after_step()
            assert not captured or step.recording is not None
            assert isinstance(steps.param_groups[0]["lr"], float)
            saved = copy.deepcopy(steps.state_dict())
            steps = get_optimizer(model, recipe)
            steps.load_state_dict(saved)
            found.append(take_step(model, steps, images, labels, criterion=cross_entropy())[0])
            losses.append(torch.stack(found).tolist())
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def recordings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of the call at which a step is recorded, for each that is."""
    recorded: list[int] = []
    record = CapturedStep._recorded

    def counted(self: CapturedStep, images: torch.Tensor, labels: torch.Tensor) -> Recording:
        recorded.append(self.calls)
        return record(self, images, labels)

    monkeypatch.setattr(CapturedStep, "_recorded", counted)
    return recorded


def test_compiled_training_equals_eager_and_is_captured(
    on_gpu: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recordings(monkeypatch)
    losses = []
    for compile in (False, True):
        on_gpu.details = {}
        spec = TrainSpec(epochs=3, batch_size=128, precision="fp32", compile=compile)
        train(initial_state(TINY, 0), spec, on_gpu)
        assert on_gpu.details["compiled"] is compile
        history = on_gpu.details["history"]
        losses.append([row[f"{part}_loss"] for row in history for part in ("train", "validation")])
    assert recorded == [4]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


@pytest.mark.parametrize("name", FITS)
def test_recorded_stages_have_the_losses_of_unrecorded_ones(
    name: str, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to rounding, and without dropout, which draws other numbers when it is recorded."""
    recorded = recordings(monkeypatch)
    losses: dict[Any, list[float]] = {}
    for compile in (False, "auto"):
        context = Context(digits, GPU, seed=0, say=lambda text: None)
        torch.manual_seed(0)
        FITS[name](initial_state(TINY, 0), context, compile=compile)
        assert context.details["recorded"] == (compile == "auto"), context.details["not_recorded"]
        history = context.details["history"]
        losses[compile] = [row[f"{p}_loss"] for row in history for p in ("train", "validation")]
        assert all(map(math.isfinite, losses[compile]))
    assert recorded == [WARM_UP + 1] * recordings_in(name)
    assert losses["auto"] == pytest.approx(losses[False], rel=3e-2)


def test_what_cannot_be_recorded_trains_as_it_is(on_gpu: Context) -> None:
    state = initial_state(TINY, 0)
    aware(backend="x86")(state, on_gpu)
    assert on_gpu.details["not_recorded"] == "backend 'x86' looks at values on the GPU"
    rounded = calibrated(ptq(state, PtqSpec(backend="x86"), on_gpu), on_gpu).state
    distilled()(rounded, on_gpu)
    assert on_gpu.details["not_recorded"].startswith("the teacher is int8 or bfloat16")
    assert len(on_gpu.details["history"]) == 2


def test_training_learns_in_bf16(on_gpu: Context) -> None:
    for optimizer in ("adamw", "muon"):
        spec = TrainSpec(epochs=15, batch_size=64, optimizer=optimizer, learning_rate=1e-2)
        train(initial_state(TINY, 0), spec, on_gpu)
        assert on_gpu.details["precision"] == "bf16"
        assert on_gpu.details["history"][-1]["validation_accuracy"] > 85, optimizer


@pytest.mark.parametrize(
    "recipe",
    [
        {"mixup": 0.2, "cutout": 2, "grad_clip": 1.0},
        {"mixup": 0.2, "mixup_schedule": "rising", "rotation": 10.0, "color": 0.2},
        {"sparsity": 1e-4, "ema_decay": 0.9, "keep": "best"},
        {"augmentation": "randaugment", "scheduler": "plateau"},
    ],
)
def test_recorded_training_learns_with_every_option(
    recipe: dict[str, Any], on_gpu: Context
) -> None:
    """Dropout and stochastic depth draw anew at each replay; channels that are zero stay so."""
    args = {**TINY, "dropout": 0.1, "stochastic_depth": 0.1}
    spec = TrainSpec(epochs=12, batch_size=64, learning_rate=1e-2, **recipe)
    state = prune(initial_state(args, 0), PruneSpec(ratio=0.2), on_gpu)
    after = train(state, spec, on_gpu)
    assert on_gpu.details["compiled"]
    assert on_gpu.details["history"][-1]["validation_accuracy"] > 70
    losses = [row["train_loss"] for row in on_gpu.details["history"]]
    assert len(set(losses)) == len(losses)
    for name, before in state.weights.items():
        if name.endswith("conv.weight"):
            assert not after.weights[name][before.flatten(1).abs().sum(1) == 0].any()


@pytest.mark.parametrize("compiled", [False, True])
def test_no_step_waits_for_the_gpu(
    compiled: bool, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA raises where the host waits between the first step and the last of an epoch."""
    monkeypatch.setattr(train_eval, "SETTLE_SECONDS", math.inf)
    recipe = Recipe(batch_size=64, grad_clip=1.0, optimizer="muon")
    loader = get_dataloaders(digits, 64, cutout=2, rotation=10.0, color=0.2, device=GPU).train
    model = tiny().to(GPU)
    trained = compile_step(model) if compiled else model
    optimizer = get_optimizer(model, recipe)
    take = partial(
        take_step, trained, optimizer, criterion=cross_entropy(), precision="bf16", grad_clip=1.0
    )
    step = CapturedStep(take, optimizer, GPU) if compiled else take
    train_one_epoch(trained, loader, optimizer, step=step)  # compiles and records

    def after_step(progress: train_eval.EpochProgress) -> None:
        last = progress.step == len(loader)
        torch.cuda.set_sync_debug_mode("default" if last else "error")

    try:
        train_one_epoch(trained, loader, optimizer, step=step, after_step=after_step)
        torch.cuda.set_sync_debug_mode("error")
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(1, device=GPU).item()  # so a wait would have been seen
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_interrupted_and_resumed_goes_on(on_gpu: Context) -> None:
    """As on the CPU, but for rounding: atomics add up in any order."""
    spec = TrainSpec(epochs=3, batch_size=128, precision="fp32", ema_decay=0.9)
    train(initial_state(TINY, 0), spec, on_gpu)
    whole = on_gpu.details["history"]
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == 15

    memory = Memory()
    first = replace(on_gpu, details={}, snapshot=memory, stop_requested=stop)
    with pytest.raises(Interrupted):
        train(initial_state(TINY, 0), spec, first)
    second = replace(on_gpu, details={}, snapshot=memory)
    train(initial_state(TINY, 0), spec, second)
    assert len(second.details["history"]) == len(whole) == 3
    for mine, its in zip(second.details["history"], whole, strict=True):
        assert mine["train_loss"] == pytest.approx(its["train_loss"], rel=2e-2)


def test_images_live_on_the_gpu(digits: Dataset) -> None:
    loaders = get_dataloaders(digits, 64, device=GPU)
    assert loaders.train.images.is_cuda and loaders.test.labels.is_cuda
    assert loaders.train.images is loaders.validation.images  # one copy
    images, labels = next(iter(loaders.train))
    assert images.is_cuda and labels.is_cuda


def test_every_stage_in_a_chain(on_gpu: Context) -> None:
    """Trained on the GPU, each result measured; int8 is made for and runs on the CPU."""
    state = train(initial_state(TINY, 0), TrainSpec(epochs=8, batch_size=64), on_gpu)
    trained = deploy(state, GPU)
    before = measure(trained, trained.loaders(on_gpu).test)
    assert before["accuracy"] > 80 and before["inference_time_ms"]["batch_1"]["median"] > 0
    student = distill(state, DistillSpec(epochs=8, batch_size=64, width=0.75), on_gpu)
    cut = prune(student, PruneSpec(mode="structural", ratio=0.2, criterion="taylor"), on_gpu)
    left = calibrated(early_exit(cut, EarlyExitSpec(epochs=4, batch_size=64), on_gpu), on_gpu)
    found = measure(left, left.loaders(on_gpu).test)
    assert found["accuracy"] > 60 and sum(found["exits"]["share"]) == pytest.approx(1)
    aware = qat(cut, QatSpec(epochs=4, batch_size=64, backend="x86"), on_gpu)
    after = ptq(student, PtqSpec(backend="x86"), on_gpu)
    for int8 in (aware, after):
        deployed = calibrated(int8, on_gpu)
        assert measure(deployed, deployed.loaders(on_gpu).test)["accuracy"] > 60


def test_a_network_answers_alike_on_both(on_gpu: Context) -> None:
    state = train(initial_state(TINY, 0), TrainSpec(epochs=2, batch_size=128), on_gpu)
    assert all(value.device.type == "cpu" for value in state.weights.values())
    images = torch.randn(16, 1, 8, 8)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        on_cpu = build(state).eval()(images)
        found = deploy(state, GPU).network(images.to(GPU)).cpu()
    torch.testing.assert_close(found, on_cpu, rtol=1e-3, atol=1e-3)


def test_latency_waits_for_the_gpu() -> None:
    """A product of two large matrices is not done when it has been asked for."""
    size = 8192
    matrix = torch.randn(size, size, device=GPU)
    times = latencies([torch.nn.Linear(size, size, bias=False).to(GPU)], matrix)[0]
    assert times["median"] > 1e3 * 2 * size**3 / 1e15  # faster than any GPU there is


def test_the_command_line_on_the_gpu(suites: Suites) -> None:
    path = suites.write('DEVICE = "cuda"\n')
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "main.py", "--config", str(path)]
    done = subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(next(suites.results.glob("*_results.json")).read_text())
    assert result["environment"]["device"] == torch.cuda.get_device_name(GPU)
    assert result["environment"]["cuda"] == torch.version.cuda
    assert result["stages"][0]["details"]["device"].startswith("cuda")
