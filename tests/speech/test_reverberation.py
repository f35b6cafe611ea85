"""An utterance in a room: later echoes, the same words, length, level and start."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pocketscribe.errors import UserError
from pocketscribe.speech.corpora import CorpusConfig, items, locate
from pocketscribe.speech.features import fbank, read_audio
from pocketscribe.speech.items import Item
from pocketscribe.speech.prepare import prepare
from pocketscribe.speech.reverberation import in_a_room
from small_corpora import MakeCorpus, sound

ECHO = 800  # samples


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """One room: 100 samples of silence, the direct sound, an echo."""
    response = np.zeros(2000, np.float32)
    response[100], response[100 + ECHO] = 0.5, 0.25
    (tmp_path / "rooms").mkdir()
    soundfile.write(tmp_path / "rooms/hall.wav", response, 16000, subtype="FLOAT")
    return tmp_path / "rooms"


def test_the_direct_sound_keeps_its_place_and_echoes_follow(rooms: Path, tmp_path: Path) -> None:
    dry = sound(0.5)
    item = Item("a", "X", "", made=lambda: dry)
    wet = in_a_room(item, [rooms / "hall.wav"]).read()
    expected = dry.copy()
    expected[ECHO:] += 0.5 * dry[:-ECHO]
    expected *= np.sqrt(np.mean(dry**2) / np.mean(expected**2))
    np.testing.assert_allclose(wet, expected, atol=1e-5)
    assert wet.dtype == np.float32


def test_the_id_chooses_the_room(rooms: Path) -> None:
    several = [rooms / f"{n}.wav" for n in range(4)]
    chosen = [in_a_room(Item(str(n), "X", ""), several).files[-1] for n in range(200)]
    assert chosen == [in_a_room(Item(str(n), "X", ""), several).files[-1] for n in range(200)]
    assert min(chosen.count(room) for room in several) > 20


def test_a_reverberated_copy_is_a_part_of_its_own(
    rooms: Path, make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    folder = make_corpus([{"id": "a", "path": "a.wav", "transcript": "HI", "seconds": 0.5}])
    dry = CorpusConfig(corpus=str(folder))
    wet = CorpusConfig(corpus=str(folder), rooms=Path("rooms"))  # below the corpora's folder
    plain, echoing = (prepare(part, tmp_path, tmp_path / "out") for part in (dry, wet))
    assert plain.folder != echoing.folder and wet.title == "mine train rooms=rooms"
    [a], [b] = plain.cuts, echoing.cuts
    assert (a.id, a.supervisions[0].text, a.num_frames) == (b.id, b.supervisions[0].text, 50)
    assert np.abs(a.load_features() - b.load_features()).mean() > 0.1
    # What is scored is what would be prepared.
    [item] = items(wet, locate(wet, tmp_path))
    np.testing.assert_allclose(b.load_features(), fbank(item.read()), atol=0.11)  # 0.1: on disk
    # Other responses make another copy.
    soundfile.write(rooms / "hall.wav", sound(0.1), 16000)
    assert prepare(wet, tmp_path, tmp_path / "out").folder != echoing.folder
    assert len(read_audio(rooms / "hall.wav")) == 1600


def test_a_folder_without_responses_is_refused(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    folder = make_corpus([{"path": "a.wav", "transcript": "HI"}])
    with pytest.raises(UserError, match="rooms = 'halls': no audio there, nor below"):
        locate(CorpusConfig(corpus=str(folder), rooms=Path("halls")), tmp_path)
