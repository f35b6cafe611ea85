"""The plan of a packed file: what a reader must know to compute a recogniser.

What rules, sharing, ties and ranks amount to, written out: which tensors there are, in what shape
and format, and from which of them each map computes. docs/pocket.md says what each key means and
gives the equations.
"""

import json
from typing import Any

from pocketscribe.models.chunks import TAIL
from pocketscribe.models.recogniser import MELS, Recogniser, tensors
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.weights.format import Format

# Kaldi's filter bank, as speech/features.py computes it.
FEATURES = {
    "rate": 16000,
    "mels": MELS,
    "window": 400,
    "hop": 160,
    "fft": 512,
    "low": 20,
    "high": 7600,
}

INDIRECT = {"ffn", "inner", "dropout", "delay"}  # what maps say, or no reader needs


def plan(model: Recogniser) -> dict[str, Any]:
    """The plan as plain data, in an order that depends on the model alone."""
    config, encoder = model.config, model.config.encoder
    formats: list[dict[str, Any]] = []
    stored: dict[str, list[int]] = {}
    for key, weight in model.weights.stored.items():
        written = _written(weight.format)
        if written not in formats:
            formats.append(written)
        stored[key] = [*weight.shape, formats.index(written)]
    return {
        "features": FEATURES,
        "subsampling": FACTOR,
        "tail": TAIL,
        "chunks": [list(c) for c in config.chunks.chunkings if c.size is not None],
        "encoder": {**encoder.model_dump(exclude=INDIRECT), "head_width": encoder.channels},
        "head": config.head,
        "formats": formats,
        "tensors": stored,
        "maps": _maps(model),
    }


def plan_text(model: Recogniser) -> str:
    """The plan as a file holds it."""
    return json.dumps(plan(model), separators=(",", ":"))


def _written(format: Format) -> dict[str, Any]:
    n, m = format.pattern or (0, 0)
    return {
        "bits": format.bits or 16,
        "symmetric": format.symmetric,
        "block": format.block or 0,
        "keep": [n, m],
        "activations": format.activations or 0,
    }


def _maps(model: Recogniser) -> dict[str, dict[str, Any]]:
    """Each map by its name, with the tensors that it reads and the vectors that are its own."""
    own = tensors(model)
    found = {}
    for name, use in model.weights.uses.items():
        row: dict[str, Any] = {"shape": list(use.shape), "weight": use.weight.key}
        if use.factor is not None:
            row["factor"] = use.factor.key
        if use.key.transposed:
            row["transposed"] = True
        for vector in ("scale", "bias"):
            if f"{name}.{vector}" in own:
                row[vector] = True
        found[name] = row
    return found
