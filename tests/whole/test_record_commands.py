"""Records in a tiny project: run again and compared, taken, marked; pages are checked by them."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmarks.records import pages
from benchmarks.records.__main__ import main
from benchmarks.records.numbers import from_log, numbers_in
from benchmarks.records.record import Code
from experiment.suite.sources import Sources
from machine.environment import environment
from tests.support import docs
from tests.support.home import HOME

RUN = """set -e
echo '{"stages": [{"seed": 1, "stage": "qat", "accuracy": 82.0}, {"seed": 0, "stage": "qat",
 "accuracy": 80.0}, {"seed": 0, "stage": "train", "accuracy": 1}]}' > "$OUT/a.json"
echo '{"stages": [{"seed": 0, "accuracy": 79.5}, {"seed": 1, "accuracy": 80.5}]}' > "$OUT/b.json"
printf '| | ms (min–max) | images/s |\\n|---|---|---|\\n| ours | 44.4 (43.6–47.7) | 2,802 |\\n' \\
  > "$OUT/speed.log"
echo '{"vs_plain": 2.5}' >> "$OUT/speed.log"
"""
A, B = "a.json:stages/stage=qat/accuracy", "b.json:stages/*/accuracy"
FIGURES: dict[str, Any] = {
    "accuracy": {"unit": "%", "at": A, "reduce": "mean"},
    "gain": {"unit": "points", "at": [A, B], "reduce": "difference"},
    "slowest": {"unit": "ms", "at": "speed.json:tables/0/row=ours/ms (min–max)/2", "tolerance": 1},
    "speed": {"at": "speed.json:tables/0/row=ours/images/s", "scale": 1e-3, "tolerance": 0.1},
    "ratio": {"unit": "×", "at": "speed.json:last/vs_plain", "tolerance": 0.2},
}
PAGE = """# Orders

Ours is **2.5 times** as fast.

## One

Record: [one](../../records/one)

| | accuracy % | gain |
|---|---|---|
| 99.9 | 81.00 | **1.0** |
"""


class Home:
    """A tiny project with one record, as it is before anything was taken."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys
        self.record = folder / "records" / "one"
        self.out = folder / "out" / "one"
        self.page = folder / "docs" / "results" / "orders.md"
        for path in (self.record, self.page.parent, folder / "code"):
            path.mkdir(parents=True)
        (self.record / "run.sh").write_text(RUN)
        (folder / "code" / "it.py").write_text("def rate():\n    return 1\n")
        self.page.write_text(PAGE)
        (self.page.parent / "README.md").write_text(f"# All\n\n{pages.BEGIN}\n{pages.END}\n")
        self.write(
            claim="Ours gains 1.0 points",
            page="docs/results/orders.md",
            code={"folders": ["code"]},
            figures=FIGURES,
            main=["gain"],
        )

    def read(self) -> dict[str, Any]:
        return json.loads((self.record / "record.json").read_text())

    def write(self, **fields: Any) -> None:
        (self.record / "record.json").write_text(json.dumps(fields))

    def change(self, **fields: Any) -> None:
        self.write(**{**self.read(), **fields})

    def call(self, *arguments: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = main(list(arguments), self.folder)
        return code, *self.capsys.readouterr()

    def taken(self) -> Home:
        assert self.call("run", "one")[0] == 0
        assert self.call("take", "one", str(self.out))[0] == 0
        shutil.rmtree(self.out)
        return self


@pytest.fixture
def home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Home:
    return Home(tmp_path, capsys)


# --- one record: taken, run again, compared ------------------------------------------------------


def test_what_is_taken_is_what_was_written(home: Home) -> None:
    code, out, _ = home.call("run", "one")
    assert code == 0 and "take one out/one" in out
    code, out, _ = home.call("take", "one", str(home.out))
    assert code == 0
    record = home.read()
    gain = record["figures"]["gain"]["found"]  # 80.0 − 79.5 and 82.0 − 80.5, by seed
    half = stats.t.interval(0.95, 1, 1.0, stats.sem([0.5, 1.5]))[1] - 1.0
    assert gain == pytest.approx(
        {"value": 1.0, "n": 2, "std": 0.5**0.5, "low": 1 - half, "high": 1 + half}
    )
    found = {name: figure["found"]["value"] for name, figure in record["figures"].items()}
    assert found == {"accuracy": 81, "gain": 1, "slowest": 47.7, "speed": 2.802, "ratio": 2.5}
    assert record["n"] == 2 and len(record["date"]) == 10 and len(record["code"]["digest"]) == 64
    assert json.loads((home.record / "raw" / "speed.json").read_text())["last"] == {"vs_plain": 2.5}
    assert (home.record / "raw" / "a.json").read_bytes() == (home.out / "a.json").read_bytes()


def test_machine_commit_and_code_are_those_of_the_run(home: Home) -> None:
    import torch

    def git(*arguments: str) -> str:
        whose = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", *whose, *arguments], cwd=home.folder, capture_output=True)
        return done.stdout.decode().strip()

    git("init")
    git("add", "code")
    git("commit", "-m", "as it was measured")
    commit = git("rev-parse", "HEAD")
    digest = Code(folders=["code"]).now(Sources(home.folder))
    about = {"environment": environment(torch.device("cpu")) | {"cpu": "Z80", "isa": ["avx2"]}}
    about |= {"git_commit": commit, "started": "2026-01-02T03:04:05", "seeds": [0, 1]}
    with (home.record / "run.sh").open("a") as script:
        line = json.dumps({"stages": [], **about})[1:]
        script.write(f"sed -i 's|^{{|{{{line[:-1]}, |' $OUT/b.json\n".replace('"stages": [], ', ""))
    (home.folder / "code" / "it.py").write_text("def rate():\n    return 2\n")
    assert Code(folders=["code"]).now(Sources(home.folder)) != digest
    record = home.taken().read()
    assert (record["commit"], record["date"], record["seeds"]) == (commit, "2026-01-02", [0, 1])
    assert record["machine"].startswith("Z80 (AVX2), threads: ")
    assert record["code"]["digest"] == digest
    assert home.call("mark")[0] == 0 and home.read()["measured_at"] == commit
    path = home.record / "run.sh"
    path.write_text(path.read_text().replace(commit, "f" * 40))
    assert home.call("run", "one")[0] == 0
    code, _, err = home.call("take", "one", str(home.out))
    assert code == 2 and f"commit {'f' * 40}, which made these files, is not here" in err


def test_places_of_this_machine_are_not_kept(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name, elsewhere = "b.json", tmp_path_factory.mktemp("elsewhere")
    script = home.record / "run.sh"
    images = elsewhere / "images"
    images.mkdir()
    monkeypatch.setenv("CIFAR10_JPEG", str(images))
    places = f'"{home.out}/saved_models/x.pth", "{images}", "{home.folder}/configs/x.py"'
    script.write_text(RUN + f"""sed -i 's|^{{|{{"at": [{places}], |' $OUT/{name}\n""")
    home.taken()
    kept = json.loads((home.record / "raw" / name).read_text())["at"]
    assert kept == ["$OUT/saved_models/x.pth", "$CIFAR10_JPEG", "./configs/x.py"]
    monkeypatch.delenv("CIFAR10_JPEG")
    home.out.mkdir()
    assert home.call("run", "one")[0] == 2  # it is there
    home.out.rmdir()
    assert home.call("run", "one")[0] == 0
    code, _, err = home.call("take", "one", str(home.out))
    assert code == 2 and f"b.json names {images}, a place of this machine" in err
    for folder in ("images", str(elsewhere / "nowhere")):  # relative; not there
        monkeypatch.setenv("CIFAR10_JPEG", folder)
        code, _, err = home.call("take", "one", str(home.out))
        assert code == 2 and "has to be the absolute path of a folder that is there" in err
    shorter = elsewhere / "image"  # a place that the other begins with
    shorter.mkdir()
    monkeypatch.setenv("CIFAR10_JPEG", str(shorter))
    code, _, err = home.call("take", "one", str(home.out))
    assert code == 2 and "a place of this machine" in err
    assert json.loads((home.record / "raw" / name).read_text())["at"] == kept


def test_a_run_again_holds_or_does_not(home: Home) -> None:
    home.taken()
    code, out, _ = home.call("run", "one")
    assert code == 0 and out.count(" holds") == len(FIGURES)
    (home.record / "run.sh").write_text(RUN.replace('"vs_plain": 2.5', '"vs_plain": 2.71'))
    shutil.rmtree(home.out)
    code, out, _ = home.call("run", "one")
    assert code == 1 and out.count("DOES NOT HOLD") == 1
    (line,) = (line for line in out.splitlines() if line.startswith("ratio"))
    assert line.split() == ["ratio", "2.50", "×", "2.71", "±", "0.2", "DOES", "NOT", "HOLD"]
    (home.out / "a.json").write_text((home.out / "a.json").read_text().replace("82.0", "120.0"))
    code, out, _ = home.call("compare", "one", str(home.out))  # without running it
    assert code == 1 and out.count("DOES NOT HOLD") == 3


def test_what_cannot_be_done_is_one_line(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: str) -> str:
        code, out, err = home.call(*arguments)
        assert code == 2 and not out and err.count("\n") == 1
        return err

    assert "did you mean 'one'?" in refused("run", "oen")
    assert "a.json is missing" in refused("take", "one", str(home.folder))
    assert "it has no figures yet" in refused("compare", "one", str(home.folder))
    before = home.taken().read()
    script = home.record / "run.sh"
    script.write_text("exit 7")
    assert "records/one/run.sh ended with exit code 7; it left nothing" in refused("run", "one")
    script.write_text("touch $OUT/half; exit 7")
    assert "exit code 7; what it left: out/one" in refused("run", "one")
    assert "out/one is there already" in refused("run", "one")
    monkeypatch.delenv("CIFAR10_JPEG", raising=False)
    script.write_text("ls $CIFAR10_JPEG")
    assert "needs CIFAR10_JPEG" in refused("run", "one")
    for path, line in {
        "a.json:stages/stage=ptq/accuracy": "a.json has nothing at stages/stage=ptq/accuracy",
        "a.json:stages/0/stage": "has 'qat' at stages/0/stage, which is no number",
        "a.json:stages/*/accuracy": "reduce 'value' needs one value, not 3 at",
    }.items():
        home.change(figures={"gain": {"at": path, "tolerance": 1}})
        home.out.mkdir(parents=True, exist_ok=True)
        assert line in refused("take", "one", str(home.record / "raw"))
    home.change(figures={"gain": {"at": [A, "a.json:stages/*/accuracy"], "reduce": "ratio"}})
    assert "as many values on both sides, not 2 at" in refused("take", "one", f"{home.record}/raw")
    home.change(figures={"gain": {"at": [A, "c.json:stages/*/accuracy"], "reduce": "difference"}})
    other = (home.record / "raw" / "b.json").read_text().replace('"seed": 1', '"seed": 2')
    (home.record / "raw" / "c.json").write_text(other)
    assert "needs the same seeds on both sides" in refused("take", "one", f"{home.record}/raw")
    home.change(figures={"gain": {"at": "b.json:stages/0/accuracy"}})
    assert "has no interval, so it needs a tolerance" in refused(
        "take", "one", f"{home.record}/raw"
    )
    home.change(figures={"gain": {"at": f"{A}x", "n": A, "interval": [A, A]}})
    assert "a.json has nothing at stages/stage=qat/accuracyx" in refused(
        "take", "one", f"{home.record}/raw"
    )
    home.change(figures={"gain": {"at": "a.json:stages/0/accuracy", "n": A, "tolerance": 1}})
    assert "n are one number each, not 2 at" in refused("take", "one", f"{home.record}/raw")
    home.change(figures={"gain": {"at": [A, A], "reduce": "ratio"}})
    again = (home.record / "raw" / "a.json").read_text()
    (home.record / "raw" / "a.json").write_text(again.replace('"seed": 1', '"seed": 0'))
    assert "needs the same seeds on both sides" in refused("take", "one", f"{home.record}/raw")
    (home.record / "raw" / "a.json").write_text(again)
    for file in ("/abs.json", "../b.json", "sub"):
        home.change(figures={"gain": {"at": f"{file}:x"}})
        assert "a raw file is a .json below the folder" in refused("run", "one")
    home.change(figures={"gain": {"at": "accuracy"}})
    assert "figures.gain: Value error, a path is FILE:PATH" in refused("run", "one")
    home.change(figures=FIGURES, clam="x")
    assert "records/one/record.json: clam: Extra inputs" in refused("run", "one")
    home.write(**{k: v for k, v in home.read().items() if k != "clam"} | {"main": ["gian"]})
    assert "main: 'gian' is not a figure; did you mean 'gain'?" in refused("run", "one")
    home.write(**before | {"code": {"digest": "0", "stages": ["qta"]}})
    assert "code.stages: 'qta' is not a stage; did you mean 'qat'?" in refused("mark")
    home.change(code={"digest": "0", "folders": ["nowhere"]})
    assert "code.folders: there is no nowhere" in refused("mark")
    home.change(raw="published table", code={})
    assert "only the table that was published was kept" in refused("run", "one")


def test_figures_are_computed_again_from_their_own_raw_files(home: Home) -> None:
    before = home.taken().read()
    figures = FIGURES | {"best": {"at": "a.json:stages/0/accuracy", "tolerance": 1}}
    home.write(**before | {"figures": figures, "date": "2020-01-01"})
    assert home.call("take", "one", str(home.record / "raw"))[0] == 0
    after = home.read()
    assert after["figures"].pop("best")["found"]["value"] == 82
    assert after == before | {"date": "2020-01-01"}


def test_the_n_of_a_published_table_is_what_was_said(home: Home) -> None:
    home.taken()
    home.change(raw="published table", n=200)
    assert home.call("take", "one", str(home.record / "raw"))[0] == 0
    assert home.read()["n"] == 200


def test_what_cannot_be_written_leaves_the_record_as_it_was(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in home.record.rglob("*") if p.is_file()}

    home.taken()
    before, write = kept(), Path.write_text

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name == "b.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, *arguments, **options)

    assert home.call("run", "one")[0] == 0
    (home.out / "a.json").write_text((home.out / "a.json").read_text().replace("82.0", "83.0"))
    monkeypatch.setattr(Path, "write_text", full)
    code, out, err = home.call("take", "one", str(home.out))
    assert code == 2 and not out and "No space left" in err and err.count("\n") == 1
    assert kept() == before


def test_a_page_whose_table_has_no_end_is_left_alone(home: Home) -> None:
    page = home.taken().folder / "docs" / "results" / "README.md"
    page.write_text("<!-- claims: written by python -m benchmarks.records claims -->\nmine\n")
    code, _, err = home.call("claims")
    assert code == 2 and "no line <!-- end -->" in err and page.read_text().endswith("mine\n")


def test_a_studys_pair_brings_its_own_interval_and_n(home: Home) -> None:
    study = {
        "pairs": [
            {"first": "D", "second": second, "difference": number, "interval": [number - 2, 9]}
            | {"n": {"seeds": int(number)}}
            for second, number in (("P", 3.0), ("Q", 4.0))
        ]
    }
    (home.record / "raw").mkdir()
    (home.record / "raw" / "study.json").write_text(json.dumps(study))
    pair = "study.json:pairs/first=D&second=Q"
    figure = {"at": f"{pair}/difference", "scale": -1, "n": f"{pair}/n/seeds"}
    ends = [f"{pair}/interval/0", f"{pair}/interval/1"]
    home.change(figures={"gain": figure | {"interval": ends}})
    assert home.call("take", "one", f"{home.record}/raw")[0] == 0
    found = home.read()["figures"]["gain"]["found"]  # Q → D less D → Q
    assert found == {"value": -4, "n": 4, "low": -9, "high": -2} and home.read()["n"] == 4


# --- what has aged -------------------------------------------------------------------------------


def test_mark_follows_the_code(home: Home) -> None:
    home.taken()
    home.change(commit="1234567890")
    assert home.call("mark")[0] == 0 and "measured_at" not in home.read()
    code = home.folder / "code" / "it.py"
    code.write_text('"""Told."""\ndef rate():\n    """Told."""\n    return 1  # and why\n')
    home.call("mark")
    assert "measured_at" not in home.read() and "measured at" not in home.page.read_text()
    code.write_text("def rate():\n    return 2\n")
    assert "code has changed since" in home.call()[1]
    home.call("mark")
    assert home.read()["measured_at"] == "1234567890"
    assert "Record: [one](../../records/one), n = 2, measured at 1234567, " in home.page.read_text()
    code.write_text("def rate():\n    return 1\n")
    home.call("mark")
    assert "measured_at" not in home.read() and "commit 1234567, " in home.page.read_text()


def test_a_stages_code_is_that_of_its_key(tmp_path: Path) -> None:
    for part in ("stages", "engines", "methods", "networks", "data_sets", "training", "machine"):
        shutil.copytree(HOME / part, tmp_path / part)
    for name in ("model.py", "dataset.py", "train_eval.py", "utils.py"):
        shutil.copy(HOME / name, tmp_path)
    code = Code(stages=["qat"])
    first = code.now(Sources(tmp_path))
    assert first == code.now(Sources(HOME))
    file = tmp_path / "stages" / "qat.py"
    text = file.read_text()
    file.write_text(f"# A comment.\n{text}")
    assert code.now(Sources(tmp_path)) == first
    file.write_text(text.replace("trains_in_bf16", "trains_in_fp32"))
    assert code.now(Sources(tmp_path)) != first
    file.write_text(text)
    network = tmp_path / "methods" / "quantization" / "fake_quant.py"
    network.write_text(network.read_text() + "\nCLIPPED = 3\n")  # by folder, as qat declares
    assert code.now(Sources(tmp_path)) != first
    assert Code(stages=["prune"]).now(Sources(tmp_path)) == Code(stages=["prune"]).now(
        Sources(HOME)
    )


# --- pages say what records say ------------------------------------------------------------------


def test_a_changed_digit_is_found(home: Home) -> None:
    home.taken()
    page = "docs/results/orders.md"
    assert pages.unfounded(home.folder, page, PAGE) == []
    for right, wrong, line in (
        ("81.00", "81.01", 11),
        ("**1.0**", "**1.1**", 11),
        ("2.5", "2.6", 3),
    ):
        (found,) = pages.unfounded(home.folder, page, PAGE.replace(right, wrong))
        assert str(found) == f"{page}:{line}: {wrong.strip('*')} is no figure of one"
    other = PAGE + "\n## Two\n\n**81.00 %** without a record.\n"
    (found,) = pages.unfounded(home.folder, page, other)
    assert str(found) == f"{page}:15: 81.00 stands where no record is named"
    plain = "\nA rate of 4e-3 in `x 3.14`, torch 2.14.1, **arXiv:2403.17447**, **seed 3**.\n"
    assert pages.unfounded(home.folder, page, PAGE + plain) == []
    last = '\n`{"vs_plain": 2.5}` and `{"vs_plain": 2.4}`\n'
    assert [u.number for u in pages.unfounded(home.folder, page, PAGE + last)] == ["2.4"]


def test_a_published_row_is_one_row(home: Home) -> None:
    home.taken()
    rows = [
        {"row": "P", "a": "80.1 (−0.5)", "b": 1784},
        {"row": "Q", "a": "81.2 (+0.6)", "b": 9999},
    ]
    (home.record / "raw" / "table.json").write_text(json.dumps({"tables": [rows]}))
    figures = {"gain": {"at": "table.json:tables/0/row=P/a/0"}}
    home.change(raw="published table", figures=figures)
    assert home.call("take", "one", str(home.record / "raw"))[0] == 0
    page = "[one](../../records/one)\n\n| | a | b |\n|---|---|---|\n| P | 80.1 (−0.5) | {} |\n"

    def wrong(text: str) -> list[str]:
        return [u.number for u in pages.unfounded(home.folder, "orders.md", text)]

    assert wrong(page.format("1,784")) == []
    assert wrong(page.format("9,999")) == ["9,999"]  # of the other row


def test_numbers_of_a_text() -> None:
    found = numbers_in(
        "−0.05 to +1,784, ×0.07, 1/25.7, 44.4–48.2, 3.7e-6, 12 %, 3 seeds, v2.14.1, x0_5"
    )
    assert [(n.text, n.value, n.tells) for n in found] == [
        ("−0.05", -0.05, True), ("+1,784", 1784, True), ("0.07", 0.07, True), ("1", 1, False),
        ("25.7", 25.7, True), ("44.4", 44.4, True), ("48.2", 48.2, True), ("3.7e-6", 3.7e-6, True),
        ("12", 12, True), ("3", 3, False),
    ]  # fmt: skip
    assert numbers_in("24.9")[0].shows([24.949]) and not numbers_in("24.9")[0].shows([24.951])
    assert numbers_in("3.7e-6")[0].shows([3.74e-6]) and not numbers_in("3.7e-6")[0].shows([3.8e-6])


def test_a_log_is_read_as_json() -> None:
    about = json.dumps({"platform": "Linux", "cpu": "Z80"})
    log = f"{about}\nseed 0\n| a | |\n|---|---|\n| −1.5 | x 2 |\n\n| b |\n|---|\n| 9,999 |\n"
    assert from_log(log) == {
        "environment": {"platform": "Linux", "cpu": "Z80"},
        "tables": [[{"a": -1.5, "row": "x 2"}], [{"b": 9999.0}]],
    }
    with pytest.raises(ValueError, match="no table"):
        from_log("nothing\n")


def test_claims_are_written_from_records(home: Home) -> None:
    home.taken()
    assert home.call("claims")[0] == 0
    table = docs.FENCE.sub("", (home.page.parent / "README.md").read_text())
    assert "| [Ours gains 1.0 points](orders.md) | gain: 1.00 points (−5.35 to 7.35) | 2 |" in table
    assert pages.fresh(home.folder)["docs/results/README.md"] == table
    assert home.call("claims")[1] == ""  # nothing is rewritten that is fresh
