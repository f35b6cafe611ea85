"""The speechocean762 bench: python benchmarks/corpora/speechocean762.py DOWNLOAD OUT

DOWNLOAD is SLR101 of openslr.org as unpacked (with WAVE, train and test in it), OUT the folder of
the corpora. Writes OUT/speechocean762/manifest.tsv, which names the download's files where they
are. Fifteen speakers of the official train part are the dev part. Published scores were measured on
Opus copies of 32 kbit/s, so the last digit may differ.
"""

import sys
from pathlib import Path

from pocketscribe.files import write_text

DEV = set("0075 0135 0145 0960 1027 1447 2129 2168 2208 3068 3208 3423 6121 9628 9634".split())
DIGITS = set("ZERO OH ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split())
COLUMNS = (
    "id path speaker transcript split official_split age_group age gender text_in_train digits_only"
).split()


def main(download: Path, out: Path) -> None:
    parts = {part: rows(download, part) for part in ("train", "test")}
    learnt = {row["transcript"] for row in parts["train"]}
    lines = ["\t".join(COLUMNS)]
    for row in (*parts["train"], *parts["test"]):
        official, said = row["official_split"], row["transcript"]
        row["split"] = "dev" if official == "train" and row["speaker"] in DEV else official
        row["text_in_train"] = str(int(official == "test" and said in learnt))
        row["digits_only"] = str(int(set(said.split()) <= DIGITS))
        lines.append("\t".join(row[column] for column in COLUMNS))
    folder = out / "speechocean762"
    write_text(folder / "manifest.tsv", "\n".join(lines) + "\n")
    print(f"{folder}: {len(lines) - 1} utterances")


def rows(download: Path, part: str) -> list[dict[str, str]]:
    """An official part, in Kaldi's files of pairs."""
    tables = "wav.scp text utt2spk spk2age spk2gender".split()
    path, text, speaker, age, gender = (pairs(download / part / name) for name in tables)
    found = []
    for name in sorted(path):
        who = speaker[name]
        years = age[who]
        found.append(
            {
                "id": name,
                "path": str((download / path[name]).absolute()),
                "speaker": who,
                "transcript": " ".join(text[name].split()),
                "official_split": part,
                "age_group": "child" if int(years) < 16 else "adult",
                "age": years,
                "gender": gender[who],
            }
        )
    return found


def pairs(file: Path) -> dict[str, str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, value in (line.split(None, 1) for line in lines if line)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
