"""What training and searching choose by is what scoring each utterance alone would say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pocketscribe.decoding.offline import decode
from pocketscribe.evaluation import dev
from pocketscribe.evaluation.dev import Heard, dev_errors
from pocketscribe.evaluation.wer import score, word_error_rate
from pocketscribe.models.saved import load_model
from pocketscribe.speech.features import fbank
from pocketscribe.speech.units import Units
from talkative import digits


def test_utterances_in_batches_are_as_each_alone(
    talkative: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any lengths, in any order; each with its own text, speaker and part."""
    saved = load_model(talkative)
    model, units = saved.model.eval(), Units.from_json(saved.units, "talkative")
    chunking = model.config.chunks.streaming
    utterances = [torch.from_numpy(fbank(x)) for x in digits()]
    said = [units.decode(decode(model, [x], chunking)[0].labels) for x in utterances]
    texts = [text if n % 2 else f"{text} ONE" for n, text in enumerate(said)]  # half are right
    heard = [
        Heard(f"u{n}", x, text, f"s{n % 3}", n % 2)
        for n, (x, text) in enumerate(zip(utterances, texts, strict=True))
    ]
    heard = [heard[n] for n in np.random.default_rng(0).permutation(len(heard))]
    alone = [score(h.id, h.speaker, h.text, said[int(h.id[1:])]) for h in heard]
    expected = word_error_rate(alone, parts=[h.part for h in heard])
    monkeypatch.setattr(dev, "BATCH_FRAMES", 2 * max(map(len, utterances)))  # three batches
    found = dev_errors(model, heard, units)
    counts = ("wer", "substitutions", "deletions", "insertions", "words", "utterances")
    assert [getattr(found, k) for k in counts] == [getattr(expected, k) for k in counts]
    assert found.deletions == 3 and found.wer > 0
