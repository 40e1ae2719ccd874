"""Results folders made by hand, for the tests of the report and its benchmark."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome"


BESIDE = "baseline_", "speedup"  # how fields begin that tell of a baseline timed in turn
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)  # the system's, if it has one


def metrics(accuracy: float, **costs: Any) -> dict[str, Any]:
    """A stage's metrics; what is not given is the baseline's, which takes 1 and 20 ms.

    The validation share's accuracy is `validation`, by default the test split's. OpenVINO is the
    fastest for what takes 1 ms or more, ONNX Runtime for all else; eager takes three times as long.
    """
    times = {}
    for size, base in ((1, 1.0), (64, 20.0)):
        taken = costs.pop(f"ms_{size}", base)
        first, second = ("openvino", "onnxruntime")[:: 1 if taken >= 1 else -1]
        by_engine = {"eager": 3 * taken, first: taken, second: 1.4 * taken}
        times[f"batch_{size}"] = {
            "median": taken, "p95": 1.1 * taken, "p99": 1.2 * taken, "runs": 100, "threads": 2,
            "device": "cpu (X)", "engine": first, "baseline_engine": "openvino",
            "by_engine": {
                name: {"median": ms, "p95": 1.1 * ms, "p99": 1.2 * ms}
                for name, ms in by_engine.items()
            },
            "baseline_median": base, "speedup": base / taken,
        }  # fmt: skip
    wanted = 14 if costs.get("model_size_mb", 4.0) <= 1.0 else 0  # of what is that small, int8
    found = {
        "left_out": None, "int8_layers_wanted": wanted, "int8_layers": wanted, "float_instead": [],
        "precision": "float32", "threads": 2, "relative_norm": 0.004, "other_class": 0.001,
        "images": 256, "ready_seconds": 0.6,
    }  # fmt: skip
    engines = dict.fromkeys(("eager", "onnxruntime", "openvino"), found)
    validation = {"accuracy": costs.pop("validation", accuracy), "loss": 0.5, "images": 100}
    plain = {"params": 1000, "nonzero_params": 1000, "macs": 10**6, "bitops": 1024 * 10**6}
    return {
        "accuracy": accuracy,
        "loss": 0.5,
        "validation": validation,
        "model_size_mb": 4.0,
        **plain,
        **costs,
        "inference_time_ms": times,
        "engine": times["batch_64"]["engine"],
        "engines": {**engines, "inductor": {"left_out": "no win is expected of it here"}},
    }


def older(figures: dict[str, Any]) -> dict[str, Any]:
    """The same as versions before there were engines wrote it."""
    gone = "engine", "by_engine", "baseline_engine", "speedup", "p99"
    times = {
        batch: {
            **{name: value for name, value in time.items() if name not in gone},
            "speedup_over_baseline": time["speedup"],
        }
        for batch, time in figures["inference_time_ms"].items()
    }
    plain = {name: value for name, value in figures.items() if name not in ("engine", "engines")}
    return {**plain, "inference_time_ms": times}


def _alone(figures: dict[str, Any]) -> dict[str, Any]:
    """Of a baseline, which is timed beside no other network."""
    times = figures.get("inference_time_ms", {})
    alone = {
        batch: {name: value for name, value in time.items() if not name.startswith(BESIDE)}
        for batch, time in times.items()
    }
    return {**figures, "inference_time_ms": alone} if times else figures


def _moved(figures: dict[str, Any], points: float) -> dict[str, Any]:
    """Its accuracies so many points higher."""
    moved = {**figures, "accuracy": figures["accuracy"] + points}
    if "validation" in figures:
        validation = figures["validation"]
        moved["validation"] = {**validation, "accuracy": validation["accuracy"] + points}
    return moved


def history(epochs: int) -> list[dict[str, float]]:
    return [
        {"epoch": e, "train_loss": 1 / e, "train_accuracy": 90.0, "validation_loss": 1.1 / e,
         "validation_accuracy": 88.0, "learning_rate": 0.1} for e in range(1, epochs + 1)
    ]  # fmt: skip


def write(
    folder: Path,
    name: str,
    chain: list[tuple[str, dict[str, Any]]],
    *,
    baseline: str | None = "Base",
    seeds: tuple[int, ...] = (0,),
    details: dict[str, dict[str, Any]] | None = None,
    spread: float = 0.0,
    **fields: Any,
) -> None:
    """`NAME_results.json` of a chain of (stage, metrics); seed k is `spread` · k more accurate."""
    from experiment.running.metrics import final_metrics

    if baseline is None:
        chain = [(stage, _alone(figures)) for stage, figures in chain]
    entries = [
        {
            "stage": stage,
            "key": fields.get("keys", {}).get(stage, f"{name}/{place}/{seed}"),
            "seed": seed,
            "parent": fields.get("parent"),
            "seconds": 2.0,
            "cached": False,
            "checkpoint": "x.pth",
            "metrics": _moved(figures, spread * seed),
            "details": (details or {}).get(stage, {}),
            "spec": {"mode": "structural"} if stage == "prune" else {},
        }
        for seed in seeds
        for place, (stage, figures) in enumerate(chain)
    ]
    for name_of_stages in ("keys", "parent"):
        fields.pop(name_of_stages, None)
    result: dict[str, Any] = {
        "experiment": name,
        "status": "done",
        "baseline": baseline,
        "config": {
            "name": name,
            "dataset_args": {"name": "Digits"},
            "sequence": [{stage: {}} for stage, _ in chain],
        },
        "seeds": list(seeds),
        "stages": entries,
        "errors": [],
        "suite": "config.py",
        "command": "python main.py",
        "git_commit": "abc",
        "environment": {"device": "cpu", "cpu": "X", "threads": 2, "isa": ["avx2", "amx"]},
        "written": "2026-11-25T00:00:00+00:00",
    }
    result["final"] = final_metrics(result)
    result.update(fields)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_results.json").write_text(json.dumps(result))


def small_suite(folder: Path) -> None:
    """A baseline of 90 % and five chains; the figures in the tests are worked out from these."""
    write(folder, "Base", [("train", metrics(90.0))], baseline=None,
          details={"train": {"history": history(3)}})  # fmt: skip
    int8 = {"model_size_mb": 1.0, "bitops": 64 * 10**6}
    write(folder, "Q", [("ptq", metrics(89.5, **int8, ms_1=0.8))])
    cut = {"model_size_mb": 2.0, "macs": 5 * 10**5, "bitops": 512 * 10**6, "params": 500}
    tiny = {"model_size_mb": 0.5, "macs": 5 * 10**5, "bitops": 32 * 10**6, "params": 500}
    pruned = [
        ("prune", metrics(20.0, **cut, ms_1=0.6)),
        ("finetune", metrics(89.2, **cut, ms_1=0.6)),
    ]
    prune_details = {
        "prune": {
            "widths": {"cnn_channels": [[16, 32], [8, 20]], "embed_dim": [64, 48]},
            "layer_macs": {"cnn.blocks.0.conv": [1000, 500], "head": [10, 10]},
        },
        "finetune": {"history": history(2)},
    }
    keys = {"prune": "shared-p", "finetune": "shared-f"}
    write(folder, "PF", pruned, details=prune_details, keys=keys)
    write(folder, "PFQ", [*pruned, ("ptq", metrics(88.6, **tiny, ms_1=0.5))],
          details=prune_details, keys=keys)  # fmt: skip
    exits = {"places": ["cnn", "end"], "share": [0.75, 0.25], "macs": [4 * 10**5, 10**6]}
    write(folder, "E", [("early_exit", metrics(89.9, bitops=500 * 10**6, ms_1=0.4, exits=exits))])
    write(folder, "Slow", [("ptq", metrics(87.0, model_size_mb=1.0, ms_1=3.0))])


def large_suite(folder: Path, count: int) -> None:
    """A baseline and `count` - 1 chains of three stages and seeds, with all that they can show."""
    write(folder, "Base", [("train", metrics(90.0))], baseline=None)
    details = {
        "prune": {"layer_macs": {f"layer.{i}": [100, 50] for i in range(20)}},
        "finetune": {"history": history(30)},
    }
    for i in range(count - 1):
        cost = {"bitops": 10**9 - i * 10**6, "ms_1": 1 - i / 400, "model_size_mb": 4 - i / 100}
        accuracy = 90 - (i % 17) / 10
        chain = [(name, metrics(accuracy, **cost)) for name in ("prune", "finetune", "ptq")]
        write(folder, f"Chain_{i:03}", chain, seeds=(0, 1, 2), spread=0.1, details=details)


def sensitivities(folder: Path) -> None:
    curves = {
        f"cnn.blocks.{i}": [{"ratio": r, "accuracy": 90 - 50 * r} for r in (0, 0.5)] for i in (0, 1)
    }
    scan = [
        {"layer": n, "sqnr_db": s, "accuracy": 89.0} for n, s in (("head", 12.0), ("embed", 30.0))
    ]
    found = {"scan": scan, "float_accuracy": 90.0, "float_layers": ["head"]}
    for name, fields in (
        ("Base_sensitivity", {"criterion": "l1", "curves": curves}),
        ("Base_quantization_sensitivity", found),
    ):
        (folder / f"{name}.json").write_text(json.dumps({"experiment": "Base", **fields}))


def study(folder: Path) -> None:
    """Only the documented fields."""
    pair = {"first": "P", "second": "Q", "difference": 0.8, "interval": [0.2, 1.4], "decided": True}
    open_pair = {
        "first": "Q",
        "second": "E",
        "difference": 0.1,
        "interval": [-0.3, 0.5],
        "decided": False,
    }
    value = {
        "order": ["P", "Q", "E"],
        "pairs": [pair, open_pair],
        "undecided": [["Q", "E"]],
        "cycles": [],
        "chains": [
            {"name": "S_QP", "metrics": {"accuracy": {"mean": 88.0, "std": 0.5, "n": 2}}},
            {"name": "S_PQ", "metrics": {"accuracy": {"mean": 88.8, "std": None, "n": 1}}},
            {"name": "S_failed", "status": "failed"},
        ],
    }  # fmt: skip
    (folder / "study_S.json").write_text(json.dumps(value))


EVIL = '<script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" ${x} {{ 7*7 }}'


def hostile(folder: Path) -> None:
    """Hostile text wherever results can hold text."""
    small_suite(folder)
    result = json.loads((folder / "PFQ_results.json").read_text())
    for key in ("suite", "command", "git_commit", "written", "status"):
        result[key] = EVIL
    result["errors"] = [{"seed": EVIL, "stage": EVIL, "error": EVIL, "message": EVIL}]
    result["environment"] = {EVIL: EVIL}
    result["config"] = {"dataset_args": {"name": EVIL}, "sequence": [{EVIL: {EVIL: EVIL}}]}
    for stage in result["stages"]:
        stage["stage"] = EVIL
        stage["spec"] = {EVIL: EVIL}
        stage["metrics"]["warnings"] = [EVIL]
        stage["metrics"]["exits"] = {"places": [EVIL], "share": [1.0]}
        stage["details"] = {
            "widths": {EVIL: [3, 2]},
            "history": history(2),
            "sensitivity": {EVIL: [[0.0, 1.0]]},
        }
    (folder / "PFQ_results.json").write_text(json.dumps(result))
    named = {**result, "experiment": f"x{EVIL}".replace("/", ""), "baseline": EVIL}
    (folder / f"{named['experiment']}_results.json").write_text(json.dumps(named))
    pair = {"first": EVIL, "second": "Q", "difference": 1.0}
    text = {"order": [EVIL], "pairs": [pair], "undecided": [[EVIL, EVIL]], "cycles": [[EVIL]],
            "chains": [{"name": EVIL, "metrics": {"accuracy": {"mean": 1}}}], "failed": [EVIL],
            "config": {"stages": {EVIL: EVIL}}, "margin": 0.5,
            "rounds": [{"round": n, "pairs": [{**pair, "interval": [0, 2], "seeds": n}]}
                       for n in (1, 2)],
            "verification": {"predicted": EVIL, "orders": [{"order": EVIL, "why": EVIL}]},
            "literature": [{"claim": EVIL, "source": EVIL, "verdict": "open", "pairs": [[EVIL]]}],
            }  # fmt: skip
    (folder / "study_S.json").write_text(json.dumps(text))
    chain = {"name": EVIL, "order": EVIL, "strengths": {EVIL: {EVIL: EVIL}}, "kind": EVIL}
    figures = {"figures": {"bitops": 1e6, "accuracy_drop": 0.5}}
    effect = {"letter": EVIL, "option": EVIL, "from": EVIL, "to": EVIL, "effect": 1}
    again = {"accuracy_drop": 0.6, "interval": [0, 1], "seeds": [1], **figures}
    search = {"wish": f"accuracy_drop<=1, min bitops, {EVIL}", "config": {"stages": {EVIL: EVIL}},
              "tried": [{**chain, **figures, "hours": 1, "stopped": EVIL},
                        {**chain, "failed": EVIL}],
              "course": [{"hours": 1, "best": EVIL, **figures}],
              "finalists": [{**chain, "apparent": figures["figures"], "confirmed": again,
                             "meets": False}],
              "winner": {**chain, "config": {EVIL: EVIL}}, "front": [{**chain, **figures}],
              "mattered": {"strengths": [effect]}, "next": [chain],
              "space": {"impossible": 1, "impossible_why": [EVIL]}}  # fmt: skip
    (folder / "search_S.json").write_text(json.dumps(search))
    (folder / "Z_sensitivity.json").write_text(
        json.dumps({"experiment": EVIL, "curves": {EVIL: [{"ratio": 0, "accuracy": 1}]}})
    )
