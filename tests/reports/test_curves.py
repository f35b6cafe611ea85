"""Learning curves out of what training logged."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pocketscribe.reports.curves import MOST, learning_curves, thinned


def test_what_was_logged(run: Path) -> None:
    curves = learning_curves(run)
    assert list(curves) == ["train/ctc", "dev/wer speech dev"], "the learning rate is none"
    assert list(curves["train/ctc"]) == ["first", "float"]
    assert curves["dev/wer speech dev"]["float"] == [(250, 0.5), (500, 0.25)]
    assert 60 < len(curves["train/ctc"]["first"]) <= MOST


def test_in_the_order_in_which_they_learnt(tmp_path: Path) -> None:
    """Also within one second, whatever the logs' names: TensorBoard counts them 9, 10."""
    for number, stage in ((9, "later"), (10, "last")):
        with SummaryWriter(str(tmp_path / stage)) as log:
            log.add_scalar("train/loss", 1.0, 1)
        [file] = (tmp_path / stage).iterdir()
        file.rename(file.with_name(f"events.out.tfevents.1.here.{number}"))
    assert list(learning_curves(tmp_path)["train/loss"]) == ["later", "last"]


def test_thinned_to_means() -> None:
    points = [(step, float(step)) for step in range(1, 1001)]
    found = thinned(points, 10)
    assert found == [(100 * i + 50.5, 100 * i + 50.5) for i in range(10)]
    assert thinned(points[:10], 10) == points[:10]


def test_nothing_was_logged(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    assert learning_curves(tmp_path) == {}


def test_a_damaged_log(tmp_path: Path) -> None:
    """Cut off, it gives what was whole; of noise there is nothing, and no traceback."""
    with SummaryWriter(str(tmp_path / "whole")) as log:
        for step in range(100):
            log.add_scalar("train/loss", 1.0, step)
    [file] = (tmp_path / "whole").iterdir()
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / file.name).write_bytes(bytes(range(256)) * 20)
    found = learning_curves(tmp_path)
    assert list(found["train/loss"]) == ["whole"] and 30 < len(found["train/loss"]["whole"]) < 70
