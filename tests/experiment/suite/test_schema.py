"""Every kind of mistake in a suite: one clear line, exit 2, nothing run, and all listed at once."""

from __future__ import annotations

import pytest

from tests.support.suites import Suites

LOADS = "load_fp32_baseline_from_experiment"


MISTAKES = {
    # experiment level
    "EXPERIMENT_CONFIGS = []": "EXPERIMENT_CONFIGS: should be a list with at least one",
    "EXPERIMENT_CONFIGS.append(7)": "EXPERIMENT_CONFIGS[1]: 7 is not a dict",
    "EXPERIMENT_CONFIGS.append({'nam': 'X'})": "EXPERIMENT_CONFIGS[1].nam: 'nam' is not known; "
    "did you mean 'name'?",
    "EXPERIMENT_CONFIGS.append({})": "EXPERIMENT_CONFIGS[1].name: is missing",
    "EXPERIMENT_CONFIGS.append({'name': 'a/b'})": "a/b.name: 'a/b' should have only letters",
    "EXPERIMENT_CONFIGS.append(BASE)": "Base: this name stands twice",
    "EXPERIMENT_CONFIGS.append({**BASE, 'name': 'base'})": "base: differs from another name only",
    "BASE['is_fp32_baseline_generation'] = 'yes'": "Base.is_fp32_baseline_generation: 'yes' should "
    "be a valid boolean",
    "BASE['seeds'] = [1, 1]": "Base.seeds: [1, 1] should be different whole numbers",
    "BASE['seeds'] = []": "Base.seeds: [] List should have at least 1 item",
    # unknown keys in each section
    "BASE['dataset_args'] = {'nme': 'Digits'}": "Base.dataset_args.nme: 'nme' is not known; "
    "did you mean 'name'?",
    "BASE['model_args'] = {'num_head': 2}": "Base.model_args.num_head: 'num_head' is not known; "
    "did you mean 'num_heads'?",
    "BASE['training_args'] = {'batchsize': 2}": "Base.training_args.batchsize: 'batchsize' is not "
    "known; did you mean 'batch_size'?",
    "EXPERIMENT_CONFIGS.append(chain('C', compression_args={'pruning_rati': 1}))": "C."
    "compression_args.pruning_rati: 'pruning_rati' is not known; did you mean 'pruning_ratio'?",
    "DEFAULT_TRAINING_PARAMS['learning_rat'] = 1.0": "DEFAULT_TRAINING_PARAMS.learning_rat: "
    "'learning_rat' is not known; did you mean 'learning_rate'?",
    "DEFAULT_MODEL_PARAMS = 5": "DEFAULT_MODEL_PARAMS: 5 is not a dict",
    "DEFAULT_MODEL_PARAM = {}": "DEFAULT_MODEL_PARAM is not a name of the suite; did you mean "
    "DEFAULT_MODEL_PARAMS?",
    # wrong types and ranges
    "BASE['training_args'] = {'batch_size': 'many'}": "Base.training_args.batch_size: 'many' "
    "should be a valid integer",
    "BASE['training_args'] = {'batch_size': True}": "Base.training_args.batch_size: True should be",
    "BASE['training_args'] = {'learning_rate': -1.0}": "Base.training_args.learning_rate: -1.0 "
    "should be greater than 0",
    "BASE['training_args'] = {'learning_rate': float('nan')}": "Base.training_args.learning_rate: "
    "nan should be a finite number",
    "BASE['training_args'] = {'optimizer': 'adan'}": "Base.training_args.optimizer: 'adan' should "
    "be 'sgd', 'adam', 'adamw', 'rmsprop' or 'muon'",
    "BASE['model_args'] = {'fusion': 'sequential'}": "Base.model_args.fusion: 'sequential' should "
    "be 'serial', 'parallel' or 'parallel_attention'",
    "BASE['model_args'] = {'cnn_channels': [8, -1]}": "Base.model_args.cnn_channels[1]: -1 should "
    "be greater than or equal to 1",
    "BASE['model_args'] = {'num_heads': 'two'}": "Base.model_args.num_heads: 'two' should be a "
    "valid integer or should be a valid list",
    "BASE['model_args'] = {'cnn_pools': [4, 4]}": "Base.model_args: cnn.blocks.1: a feature map "
    "of 2×2 is too small",
    "BASE['model_args'] = {'num_classes': 3}": "Base.model_args.num_classes: 3 does not fit",
    "BASE['dataset_args'] = {'name': 'CIFAR11'}": "Base.dataset_args.name: 'CIFAR11' is not a data "
    "set; did you mean 'CIFAR10'?",
    "BASE['dataset_args'] = {'name': 'ImageFolder'}": "Base.dataset_args.root: ImageFolder "
    "needs the folder",
    "BASE['dataset_args'] = {'name': 'ImageFolder', 'root': '/nowhere'}": "/nowhere/train is not a "
    "folder",
    "BASE['training_args'] = {'initial_train_epochs': 0}": "Base: starts from nothing",
    "DEFAULT_DATASET_CONFIG = {'name': 'Digts'}; EXPERIMENT_CONFIGS += [chain('C', 'ptq', "
    "dataset_args={'validation_share': 0.2})]": "DEFAULT_DATASET_CONFIG.name: 'Digts' is not a "
    "data set; did you mean 'Digits'?",
    "BASE['dataset_args'] = {'name': 'Digts'}; EXPERIMENT_CONFIGS.insert(0, chain('C', 'ptq'))": ""
    "Base.dataset_args.name: 'Digts' is not a data set",
    "DEVICE = 'gpu'": "DEVICE: 'gpu' is not a device; allowed: 'cpu', 'cuda'",
    "DEVICE = 'cuda:7'": "DEVICE: 'cuda:7' is not on this machine; use 'cpu'",
    "RESULTS_DIR = 'x' * 300": "xxx cannot be a folder (File name too long)",
    "RESULTS_DIR = 3": "RESULTS_DIR: 3 is not a folder name",
    # baselines
    f"EXPERIMENT_CONFIGS.append({{**chain('C', 'ptq'), '{LOADS}': 'Bas'}})": f"C.{LOADS}: 'Bas' is "
    "not an experiment; did you mean 'Base'?",
    f"EXPERIMENT_CONFIGS += [chain('C', 'ptq'), {{**chain('D', 'ptq'), '{LOADS}': 'C'}}]": f"D."
    f"{LOADS}: 'C' is not a baseline",
    f"EXPERIMENT_CONFIGS += [{{**chain('C', 'ptq'), '{LOADS}': 'D'}}, {{**chain('D', 'ptq'), "
    f"'{LOADS}': 'C'}}]": "baselines go round in a circle: C → D → C",
    f"EXPERIMENT_CONFIGS.append({{**chain('C', 'ptq'), '{LOADS}': 'C'}})": "baselines go round in "
    "a circle: C → C",
    "EXPERIMENT_CONFIGS.append(chain('C', 'ptq', training_args={'initial_train_epochs': 5}))": "C."
    "training_args.initial_train_epochs: 5 beside a loaded baseline; set it to 0",
    "EXPERIMENT_CONFIGS.append(chain('C', 'ptq', model_args={'embed_dim': 32}))": "C.model_args."
    "embed_dim: 32 does not fit baseline Base, which has 16",
    "EXPERIMENT_CONFIGS.append(chain('C', 'ptq', dataset_args={'validation_share': 0.3}))": "C."
    "dataset_args.validation_share: 0.3 does not fit baseline Base, which has 0.1",
    "BASE['compression_args'] = {'quantization': 'ptq'}": "Base.compression_args: a baseline is "
    "only trained",
    "BASE['seeds'] = [0]; EXPERIMENT_CONFIGS.append(chain('C', 'ptq', seeds=[0, 1]))": "C: seed 1 "
    "is not among the seeds [0] of its baseline Base",
    # sequences
    "EXPERIMENT_CONFIGS.append(chain('C', 'ptq', 'prun'))": "C.compression_args.sequence[1]: "
    "'prun' is not a stage; did you mean 'prune'?",
    "EXPERIMENT_CONFIGS.append(chain('C', 'train'))": "C.compression_args.sequence[0]: 'train' "
    "comes by itself",
    "EXPERIMENT_CONFIGS.append(chain('C'))": "C.compression_args: nothing to do",
    "EXPERIMENT_CONFIGS.append(chain('C', {'prune': {'ratio': 1.5}}))": "C.compression_args."
    "sequence[0].ratio: 1.5 should be less than 1",
    "EXPERIMENT_CONFIGS.append(chain('C', {'prune': {'rato': 0.5}}))": "C.compression_args."
    "sequence[0].rato: 'rato' is not known; did you mean 'ratio'?",
    "EXPERIMENT_CONFIGS.append(chain('C', {'prune': {}, 'ptq': {}}))": "should be {stage: options}",
    "EXPERIMENT_CONFIGS.append(chain('C', 7))": "C.compression_args.sequence[0]: 7 should be a",
    "EXPERIMENT_CONFIGS.append(chain('C', {'ptq': {'backend': 'tpu'}}))": "C.compression_args."
    "sequence[0].backend: 'tpu' is not a backend; allowed: pt2e, x86, fbgemm, qnnpack, onednn",
    "EXPERIMENT_CONFIGS.append(chain('C', {'ptq': {'float_layers': ['haed']}}))": "C.compression_"
    "args.sequence[0]: float_layers: 'haed' matches no layer",
    "EXPERIMENT_CONFIGS.append(chain('C', 'finetune'))": "C.compression_args.sequence[0].epochs: 0 "
    "should be greater than or equal to 1",
    "EXPERIMENT_CONFIGS.append(chain('C', 'prune'))": "C.compression_args.sequence[0]: should have "
    "ratio",
    "EXPERIMENT_CONFIGS.append(chain('C', {'ptq': {'float_layers': ['head']}}, {'prune': {'mode': "
    "'structural', 'ratio': 0.5, 'targets': ['depth']}}))": "sequence[1]: target 'depth' renumbers",
    "BASE['training_args'] = {'seed': 5}; EXPERIMENT_CONFIGS.append(chain('C', 'ptq'))": "C: seed "
    "0 is not among the seeds [5] of its baseline Base",
    "EXPERIMENT_CONFIGS += [chain('C', 'ptq', {'prune': {'ratio': 0.5}}), chain('C_quantized_ptq_"
    "int8', {'prune': {'ratio': 0.5}})]": "its checkpoint C_quantized_ptq_int8_pruned_50.pth is "
    "also one of C; rename one of them",
    # the module itself
    "def broken(:": "invalid syntax",
    "1 / 0": "ZeroDivisionError: division by zero",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:60])
def test_mistakes_get_one_clear_line(suites: Suites, text: str) -> None:
    lines = suites.refused(text)
    assert len(lines) == 1, lines
    assert MISTAKES[text] in lines[0]


def test_all_mistakes_are_listed_at_once(suites: Suites) -> None:
    lines = suites.refused(
        """
        DEFAULT_TRAINING_PARAMS["epoch"] = 3
        BASE["model_arg"] = {}
        EXPERIMENT_CONFIGS.append({"name": "x y"})
        """
    )
    assert len(lines) == 3
