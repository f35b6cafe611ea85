"""What a finished fit says of itself."""

from typing import Any

from pocketscribe.fit.ways import DIRECT


def card_of(folder: str) -> dict[str, Any]:
    """Of a run of `fit_direct` on a folder, in as many bytes as a run takes for it."""
    stage = {
        "trained_on": [{"corpus": folder, "hours": 1.457}],
        "audio_hours_heard": 12.19,
        "steps": 18_700,
        "skipped_steps": 10,
        "weights": "half way from its start",
        "wall_minutes": 123.4,
        "seed": 0,
    }
    score = {
        "wer": 0.18138613861386138,
        "ci_low": 0.1646919431279621,
        "ci_high": 0.19802371541501976,
        "words": 2_525,
    }
    return {
        "recipe": "fit",
        "parameters": 1_234_567,
        "machine": "x86_64, 16 threads",
        "made": "2026-01-01",
        "stages": [{"name": name, **stage} for name in DIRECT.stages],
        "scores": {f"{folder} {split}": score for split in ("dev", "test")},
    }
