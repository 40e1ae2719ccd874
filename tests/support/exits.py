"""Tiny networks with early exits, new or trained a little, and digits to show them."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from data_sets.source import DatasetArgs
from dataset import load_dataset
from methods.early_exit.exits import EarlyExitNetwork, Exits
from model import HybridCNNTransformer
from networks.args import exit_places
from stages.deployment import deploy
from stages.finetuning import TrainSpec, train
from stages.stage import Context
from stages.state import ModelState, initial_state, state_of
from tests.support.tiny import TINY, tiny

FAST: dict[str, Any] = {"epochs": 1, "learning_rate": 5e-3, "precision": "fp32"}


def with_exits(fusion: str = "serial", exits: Exits | None = None, **args: Any) -> ModelState:
    layers = args.get("num_layers", TINY["num_layers"])
    places = exit_places(fusion, layers)
    model = tiny(fusion=fusion, exits=places, **args)
    state = state_of(model)
    return replace(state, exits=exits or Exits(thresholds=(0.3,) * len(places)))


def network_of(state: ModelState) -> EarlyExitNetwork:
    network = deploy(state).network
    assert isinstance(network, EarlyExitNetwork)
    return network


@functools.cache
def learned(fusion: str) -> ModelState:
    """A network of four layers with exits that has learned a little, so that they differ."""
    digits = load_dataset(DatasetArgs(name="Digits"), "data")
    ctx = Context(digits, torch.device("cpu"), seed=0, say=lambda text: None)
    places = exit_places(fusion, 4)
    model = HybridCNNTransformer(**{**TINY, "num_layers": 4, "fusion": fusion, "exits": places})
    spec = TrainSpec(**{**FAST, "epochs": 5})
    state = train(initial_state(model.model_args, 0), spec, ctx)
    return replace(state, exits=Exits(thresholds=(0.3,) * len(places)))


@functools.cache
def some_digits(count: int = 100) -> Tensor:
    digits = load_dataset(DatasetArgs(name="Digits"), "data")
    ctx = Context(digits, torch.device("cpu"), seed=0)
    return next(iter(ctx.loaders(batch_size=count).test))[0]
