"""The digits bench from its download: python benchmarks/corpora/fsdd.py DOWNLOAD OUT

DOWNLOAD is a clone of github.com/Jakobovski/free-spoken-digit-dataset, of which five speakers at 50
takes a digit are used (commit 26eb9aa had no more); OUT is the folder of the corpora. Writes
OUT/fsdd with manifest.tsv, which names the download's files where they are, and connected.tsv,
which lies beside this script and joins the clips to strings. The recordings are CC BY-SA 4.0.
"""

import shutil
import sys
from pathlib import Path

from pocketscribe.files import replacing, write_text

SPLITS = {
    "george": "train",
    "jackson": "train",
    "lucas": "train",
    "yweweler": "dev",
    "nicolas": "test",
}
WORDS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
CONNECTED = Path(__file__).parent / "connected.tsv"


def main(download: Path, out: Path) -> None:
    lines = ["id\tpath\tspeaker\ttranscript\tsplit"]
    for clip in sorted((download / "recordings").glob("*.wav")):
        digit, speaker, take = clip.stem.split("_")
        if speaker in SPLITS and int(take) < 50:
            row = (clip.stem, str(clip.absolute()), speaker, WORDS[int(digit)], SPLITS[speaker])
            lines.append("\t".join(row))
    folder = out / "fsdd"
    write_text(folder / "manifest.tsv", "\n".join(lines) + "\n")
    with replacing(folder / "connected.tsv") as beside:
        shutil.copyfile(CONNECTED, beside)
    print(f"{folder}: {len(lines) - 1} clips")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
