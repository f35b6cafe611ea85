"""Results of runs that nobody ran."""

import json
from pathlib import Path
from typing import Any

ERRORS = {
    "wer": 0.123,
    "ci_low": 0.1,
    "ci_high": 0.15,
    "substitutions": 5,
    "deletions": 4,
    "insertions": 3,
    "words": 1000,
    "utterances": 90,
}


def result(**changes: Any) -> dict[str, Any]:
    plain = {
        **ERRORS,
        "rtf": 0.0123,
        "audio_seconds": 360.4,
        "parameters_stored": 4_870_000,
        "parameters_virtual": 4_870_000,
        "bytes": 19_480_000,
        "peak_rss_bytes": 512_000_000,
        "emission_delay": 0.24,
        "unreadable": 0,
        "streaming": False,
        "groups": {"child": {**ERRORS, "wer": 0.4, "words": 300}},
        "hypotheses": [{"id": "1", "reference": "A", "hypothesis": "B"}],
    }
    return {**plain, **changes}


def run_folder(folder: Path, **scores: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results(**scores)))
    return folder


def results(**scores: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": "digits", "models": {"float": {"scores": scores}}}
