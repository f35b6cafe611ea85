"""Long recordings out of short ones: python benchmarks/joined.py CORPUS SPLIT OUT

Joins each speaker's utterances, half a second of silence between them, until a recording is longer
than 20 s, and writes them as a corpus of the same split:

    pocketscribe evaluate MODEL --corpus OUT --split SPLIT --streaming

then says what a stream that runs on and on is worth, in any runtime, beside its score on the
utterances one by one. What is left of a speaker under 20 s is left out.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
import typer

from pocketscribe.files import replacing
from pocketscribe.speech.corpora import CorpusConfig, items, locate
from pocketscribe.speech.features import SAMPLE_RATE
from pocketscribe.speech.items import Item

SECONDS = 20
PAUSE = np.zeros(SAMPLE_RATE // 2, np.float32)


def main(corpus: str, split: str, out: Path) -> None:
    config = CorpusConfig(corpus=corpus, split=split)
    speakers: dict[str, list[Item]] = defaultdict(list)
    for item in items(config, locate(config, None)):
        speakers[item.speaker].append(item)
    rows: list[dict[str, str]] = []
    with replacing(out, folder=True) as folder:
        for speaker, said in speakers.items():
            audio: list[np.ndarray] = []
            words: list[str] = []
            for item in said:
                audio += [item.read(), PAUSE]
                words.append(item.text)
                if sum(map(len, audio)) > SECONDS * SAMPLE_RATE:
                    name = f"{len(rows):04}.flac"
                    soundfile.write(folder / name, np.concatenate(audio), SAMPLE_RATE)
                    text = " ".join(words)
                    rows.append(
                        {"path": name, "transcript": text, "speaker": speaker, "split": split}
                    )
                    audio, words = [], []
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "manifest.jsonl").write_text(lines, encoding="utf-8")
    print(f"{out}: {len(rows)} recordings of more than {SECONDS} s")


if __name__ == "__main__":
    typer.run(main)
