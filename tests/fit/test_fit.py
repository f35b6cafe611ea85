"""A folder and a number of bytes in, a recogniser out: the whole way in a minute; refusals."""

import shlex
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from rich.console import Console

from pocketscribe.errors import UserError, UserHint
from pocketscribe.files import read_json
from pocketscribe.fit import fit as fitting
from pocketscribe.fit import plan as planning
from pocketscribe.fit.fit import fit
from pocketscribe.fit.look import look
from pocketscribe.fit.ways import DIRECT, SUPERNET
from pocketscribe.models.saved import load_model, save_packed
from pocketscribe.recipes.run import Run
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.prepare import progress_bar
from pocketscribe.speech.synthetic import SyntheticSpeech

SMALL = (
    "model.encoder.width=16",
    "model.encoder.layers=2",
    "model.encoder.heads=2",
    "model.encoder.kernel=4",
    "model.predictor=16",
    "model.joiner=16",
    "model.subsampling=8",
    "model.chunks={sizes=[4], left=8}",
)
ENGLISH = Path(__file__).parents[2] / "models" / "english.safetensors"
WAYS = {  # with what else is made small
    "fit": (SUPERNET, ["stage.search.search.candidates=6"]),
    "fit_direct": (DIRECT, []),
}
MadeOnce = Callable[..., Path]
PlanOf = Callable[..., str]


@pytest.fixture(scope="session")
def folder(made_once: MadeOnce) -> Path:
    """Twenty recordings of spoken digits, each beside its words."""

    def make(path: Path) -> None:
        path.mkdir()
        speech = SyntheticSpeech(kind="digits", texts=None, count=20, split="train", seed=0)
        for number, u in enumerate(speech.utterances()):
            soundfile.write(path / f"{number}.wav", u.samples, SAMPLE_RATE)
            (path / f"{number}.txt").write_text(u.text)
        (path / "silent.wav").write_bytes(b"no audio")
        (path / "silent.txt").write_text("nothing to hear")

    return made_once("spoken", make)


def quietly(folder: Path, budget: str, out: Path, **options: object) -> object:
    return fit(str(folder), budget, out, None, Console(quiet=True), **options)


@pytest.fixture
def plan_of(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> PlanOf:
    """What `--dry-run` says on a machine of sixty times real time, and leaves nothing."""
    monkeypatch.setattr(planning, "measured_speed", lambda config, device: 60.0)
    monkeypatch.setattr(fitting, "START", ENGLISH)

    def plan_of(folder: Path = folder, budget: str = "1MB", **options: object) -> str:
        out, asked = tmp_path / "runs" / "fit", {"minutes": 60.0, **options}
        fit(str(folder), budget, out, None, Console(width=200), dry_run=True, **asked)
        assert not out.exists()
        return capsys.readouterr().out

    return plan_of


def small(way: str) -> list[str]:
    (_, stages), more = WAYS[way]
    trained = [stage for stage, effort in stages.items() if effort.share]
    short = ("batch_seconds=10", "audio_hours=0.004")
    return [*SMALL, *more, *(f"stage.{stage}.{change}" for stage in trained for change in short)]


@pytest.mark.parametrize("way", WAYS)
def test_from_a_folder_to_a_file_under_the_budget(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(planning, "LEAST_SUPERNET", 0.0 if way == "fit" else 1000.0)
    also = ("sherpa-onnx",) if way == "fit" else ()  # ExecuTorch takes a minute
    monkeypatch.setattr(fitting, "ALSO", also)
    monkeypatch.setattr(fitting, "START", tmp_path / "none")
    out = tmp_path / "runs" / "fit-spoken"
    results = quietly(folder, "36kB", out, changes=small(way))
    assert set(results["models"]) == {"student", "low_bits"}
    made = results["models"]["low_bits"]["methods"]
    assert ("supernet" in made) == (way == "fit") and "distilled" in made and len(made) > 1
    assert (
        f"pocketscribe fit {folder} --budget 36kB" in (out / "report" / "report.html").read_text()
    )
    shipped = out / "fit.pocket"
    assert shipped.stat().st_size <= 36_000
    model = load_model(shipped).model
    assert model.config.formats and model.config.encoder.width <= 16
    assert "low_bits" in (out / "README.md").read_text()
    assert (out / "sherpa-onnx" / "encoder.onnx").is_file() == bool(also)
    assert (out / "report" / "report.md").is_file()
    before, exported = shipped.read_bytes(), [(out / target).stat().st_ino for target in also]
    quietly(folder, "36kB", out, changes=small(way))  # there is nothing left to do
    assert shipped.read_bytes() == before
    assert [(out / target).stat().st_ino for target in also] == exported
    for target in also:  # but what was made of another file is made again
        shipped.touch()
        fitting._export(shipped, out)
        assert (out / target).stat().st_ino not in exported


def test_a_dry_run_looks_and_plans(plan_of: PlanOf) -> None:
    said = plan_of()
    assert "1 unusable" in said and "silent.wav" in said
    assert "60 minutes at 60 x real time" in said and "about 60 minutes" in said
    assert "cannot teach it what it has never heard" in said
    assert "loses much of what it knew besides" in said
    assert "stage.start.heads_only" in said and "it knows how to listen" in said
    assert "words of dev tell no sizes apart" in said
    assert "a supernet would hear" in said and "recipe fit_direct" in said
    said = plan_of(minutes=1e5)
    assert "stage.supernet.supernet" in said and "thirds to wholes" in said


def test_a_budget_for_all_of_it_cuts_nothing(plan_of: PlanOf) -> None:
    said = plan_of(budget="10GB")
    assert "nothing has to be cut" in said and "in eight bits, too" in said
    assert "loses much" not in said


def test_what_trains_next_to_nothing_is_told(
    plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "measured_speed", lambda config, device: 1.0)
    said = plan_of(minutes=2.0)
    assert "its shortest stage has 1, and 50 steps are the least" in said
    assert "about 100 minutes in all" in said
    assert "its shortest stage" not in plan_of(minutes=1000.0)
    missing = ['speech.train=[{ corpus = "nowhere" }]']
    with pytest.raises(UserError, match="corpus 'nowhere': neither a folder nor"):
        plan_of(changes=missing)


def test_what_is_in_no_part_is_told(plan_of: PlanOf, folder: Path, tmp_path: Path) -> None:
    """Splits by other names, and a test part of which nothing can be scored."""
    mine = tmp_path / "mine"
    mine.mkdir()
    splits = ["train"] * 6 + ["validation"] * 2 + [""] + ["test"]
    rows = ["path\ttranscript\tsplit"]
    for number, split in enumerate(splits):
        shutil.copy(folder / f"{number}.wav", mine)
        rows.append(f"{number}.wav\t{'' if split == 'test' else 'one two'}\t{split}")
    (mine / "manifest.tsv").write_text("\n".join(rows))
    said = plan_of(mine)
    assert "left out: 2 utterances of split 'validation', none of train, dev, test" in said
    assert "left out: 1 utterances of split ''" in said
    assert "nothing that can be scored is set aside" in said
    (mine / "manifest.tsv").unlink()
    for number, name in enumerate(("train", "train", "valid")):
        (mine / name).mkdir(exist_ok=True)
        for suffix in (".wav", ".txt"):
            shutil.copy(folder / f"{number}{suffix}", mine / name)
    assert "left out: 1 utterances of split 'valid', none of" in plan_of(mine)


def test_the_time_that_is_told_is_of_the_hours_that_are_set(plan_of: PlanOf) -> None:
    hours = {name: 2.0 if name == "student" else 0.5 for name in DIRECT.stages}
    changes = [f"stage.{name}.audio_hours={heard}" for name, heard in hours.items()]
    plain = sum(hours[name] * effort.cost for name, effort in DIRECT.stages.items())
    assert f"about {plain:.0f} minutes" in plan_of(changes=changes)


def test_a_run_goes_on_as_it_was_planned(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast the machine is by then: other hours would be another run's."""
    recipes = []

    class Spy(Run):
        def go(self) -> dict:
            recipes.append(self.recipe)
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "Run", Spy)
    speeds = iter((50.0, 70.0))
    monkeypatch.setattr(planning, "measured_speed", lambda config, device: next(speeds))
    for out in ("one", "one", "other"):
        with pytest.raises(KeyboardInterrupt):
            quietly(folder, "1MB", tmp_path / "runs" / out, minutes=60.0)
    assert recipes[0] == recipes[1] != recipes[2]
    (tmp_path / "runs" / "one" / "speed.json").write_text('{"x_real_time": -1}')
    with pytest.raises(UserError, match=r"speed\.json: x_real_time = -1"):
        quietly(folder, "1MB", tmp_path / "runs" / "one", minutes=60.0)


def test_a_file_over_the_budget_is_told_before_it_is_exported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Heavy(Run):
        def go(self) -> dict:
            (self.folder / "fit.pocket").write_bytes(bytes(36_001))
            return {}

    monkeypatch.setattr(fitting, "Run", Heavy)
    monkeypatch.setattr(planning, "measured_speed", lambda config, device: 60.0)
    out = tmp_path / "runs" / "fit"
    asked = {"start": fitting.NOTHING, "changes": small("fit_direct"), "minutes": 1.0}
    said = r"fit\.pocket: 36,001 bytes, over the budget by its card; give a little more"
    with pytest.raises(UserError, match=said):
        quietly(folder, "36kB", out, **asked)
    assert {path.name for path in out.iterdir()} == {"fit.pocket", "speed.json"}


def test_the_command_is_kept_with_all_that_was_asked(
    folder: Path, tmp_path: Path, talkative: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Done(Run):
        def go(self) -> dict:
            save_packed(self.folder / "fit.pocket", load_model(talkative))
            return {}

    monkeypatch.setattr(fitting, "Run", Done)
    monkeypatch.setattr(fitting, "ALSO", ())
    monkeypatch.setattr(planning, "measured_speed", lambda config, device: 60.0)
    out, changes = tmp_path / "runs" / "fit", small("fit_direct")
    options = {"minutes": 2.5, "start": fitting.NOTHING, "changes": changes, "device": "cpu"}
    with pytest.warns(UserHint, match="no report"):
        fit(str(folder), "36kB", out, tmp_path, Console(quiet=True), **options)
    said = ["--minutes", "2.5", "--start", "none", "--root", str(tmp_path), "--device", "cpu"]
    said += [word for change in changes for word in ("--set", change)]
    start = ["pocketscribe", "fit", str(folder), "--budget", "36kB", "--out", str(out)]
    assert shlex.split(read_json(out / "results.json")["command"]) == [*start, *said]


def test_what_is_looked_at(folder: Path, tmp_path: Path) -> None:
    with progress_bar(Console(quiet=True)) as bar:
        seen = look(str(folder), None, tmp_path, bar)
    assert {split: part.utterances for split, part in seen.parts.items()} == {
        "train": 16,
        "dev": 2,
        "test": 2,
    }
    assert seen.rates == {SAMPLE_RATE: len(seen.levels)}
    assert sum(len(part.bad) for part in seen.parts.values()) == 1
    assert seen.letters <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    told = " ".join(seen.lines())
    assert "speakers not named" in told and "a tenth of the utterances is dev" in seen.split_by
    assert "name ten or more" in seen.split_by


def test_ten_speakers_are_split_by_speaker(folder: Path, tmp_path: Path) -> None:
    for number in range(20):
        place = tmp_path / "people" / str(number // 2)
        place.mkdir(parents=True, exist_ok=True)
        for kind in ("wav", "txt"):
            (place / f"{number}.{kind}").write_bytes((folder / f"{number}.{kind}").read_bytes())
    with warnings.catch_warnings(), progress_bar(Console(quiet=True)) as bar:
        warnings.simplefilter("error")  # told once, as a line
        seen = look(str(tmp_path / "people"), None, tmp_path / "prepared", bar)
    assert seen.split_by == "no splits are named: a tenth of the speakers is dev, a tenth test"
    assert not seen.parts["test"].speakers & seen.train.speakers


def test_why_it_starts_from_nothing_is_told(
    plan_of: PlanOf, tmp_path: Path, talkative: Path, folder: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    for text in other.glob("*.txt"):
        text.write_text("ÖL")
    said = plan_of(other, minutes=None, start=talkative)
    assert "From nothing: talkative.safetensors cannot spell" in said
    said = plan_of(minutes=None, start=fitting.NOTHING)
    assert "From nothing: there is no trained model" in said and "units are learnt" in said


def test_what_is_asked_is_checked_before_the_speech(tmp_path: Path) -> None:
    for line, options in (
        ("--budget 0: write bytes", {"budget": "0"}),
        ("write KEY=VALUE", {"changes": ["a"]}),
        ("no such model", {"start": tmp_path / "nowhere"}),
    ):
        with pytest.raises(UserError, match=line):
            quietly(tmp_path / "none", **{"budget": "1MB", "out": tmp_path / "run"} | options)


def test_refusals(
    folder: Path, talkative: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--budget 20kB: the smallest sub-network takes"):
        quietly(folder, "20kB", tmp_path / "runs" / "fit")
    with pytest.raises(UserError, match="write bytes, such as 2MB"):
        quietly(folder, "small", tmp_path / "runs" / "fit")
    with pytest.raises(UserError, match="neither a folder nor a corpus"):
        quietly(tmp_path / "nowhere", "1MB", tmp_path / "runs" / "fit")
    for change, line in (
        ("model.encoder.width=32", "which it starts from, has a shape of its own; --start none"),
        ("name=mine", "fit leaves fit.pocket"),
        ('evaluate.stages=["student"]', "fit leaves fit.pocket"),
        ('evaluate={ stages = ["student"] }', "fit leaves fit.pocket"),
    ):
        with pytest.raises(UserError, match=line):
            quietly(folder, "1MB", tmp_path / "runs" / "fit", start=talkative, changes=[change])
    renamed = ["stage.low_bits.name=final", 'evaluate={ stages = ["final"] }']
    with pytest.raises(UserError, match="the stages of fit are called start, "):
        quietly(folder, "1MB", tmp_path / "runs" / "fit", start=talkative, changes=renamed)
    packed = ENGLISH.with_name("usm_lite.pocket")
    with pytest.raises(UserError, match="its weights are in few bits"):
        quietly(folder, "1MB", tmp_path / "runs" / "fit", start=packed)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="fit plans for one process"):
        quietly(folder, "1MB", tmp_path / "runs" / "fit")
    monkeypatch.delenv("WORLD_SIZE")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.wav").write_bytes(b"no audio")
    with pytest.raises(UserError, match="nothing to train on; the first: a"):
        quietly(empty, "1MB", tmp_path / "runs" / "fit")
