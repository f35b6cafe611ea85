"""Searches against slow loops and full enumeration, written out here.

B streams, S encoder frames, J encoder output, V vocabulary, N hypotheses.
"""

import math
from collections.abc import Iterable
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from pocketscribe.decoding.beam import BeamSearch
from pocketscribe.decoding.offline import TorchScorer, decode, head_input, scorer_of
from pocketscribe.decoding.search import (
    BLANK,
    UNKNOWN,
    CtcSearch,
    GreedySearch,
    Hypothesis,
    Predictions,
    Search,
)
from pocketscribe.decoding.searcher import Searcher
from pocketscribe.errors import UserError
from pocketscribe.models import MELS, Chunking, ConformerConfig, ModelConfig, Recogniser

VOCABULARY, JOINT = 5, 6


class RandomScorer:
    """A predictor that is a table over its two labels, and a joiner that is a matrix."""

    rows = 4

    def __init__(self, seed: int = 0, sharpness: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(VOCABULARY + 1, VOCABULARY, JOINT, generator=generator)
        self.matrix = sharpness * torch.randn(VOCABULARY, JOINT, generator=generator)

    def predict(self, context: Tensor) -> Tensor:
        return self.table[context[:, 0], context[:, 1]]  # -1 is the last row

    def join(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        return torch.tanh(encoded + predicted) @ self.matrix.T

    def log_probs(self, encoded: Tensor, labels: Iterable[int]) -> list[float]:
        """One frame after these labels."""
        context = torch.tensor([[-1, 0, *labels][-2:]])
        logits = self.join(encoded.unsqueeze(0), self.predict(context))[0]
        return logits.log_softmax(-1).tolist()


def encoder(streams: int, frames: int, seed: int = 0) -> Tensor:
    return torch.randn(streams, frames, JOINT, generator=torch.Generator().manual_seed(100 + seed))


def found(search: Search, encoded: Tensor, lengths: list[int] | None = None) -> list[Hypothesis]:
    frames = lengths or [encoded.shape[1]] * encoded.shape[0]
    search.advance(encoded, torch.tensor(frames))
    return search.best()


def slow_greedy(scorer: RandomScorer, encoded: Tensor) -> Hypothesis:
    said = Hypothesis()
    for t, frame in enumerate(encoded):
        scores = scorer.log_probs(frame, said.labels)
        label = max(range(VOCABULARY), key=lambda v: scores[v])
        if label not in (BLANK, UNKNOWN):
            said.labels.append(label)
            said.frames.append(t)
    return said


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_scores_are_the_log_probabilities_of_the_labels(kind: str) -> None:
    scorer, encoded = RandomScorer(3), encoder(2, 12)
    for said, frames in zip(found(make(kind, 2), encoded), encoded, strict=True):
        expected = [
            scorer.log_probs(frames[t], said.labels[:n])[said.labels[n]]
            for n, t in enumerate(said.frames)
        ]
        assert said.labels and said.scores == pytest.approx(expected, abs=1e-5)


def test_scores_of_ctc() -> None:
    logits = encoder(1, 12)[..., :VOCABULARY]
    said = found(CtcSearch(1), logits)[0]
    log_probs = logits[0].log_softmax(-1)
    expected = [log_probs[t, v].item() for v, t in zip(said.labels, said.frames, strict=True)]
    assert said.labels and said.scores == pytest.approx(expected, abs=1e-5)


def enumerated(scorer: RandomScorer, encoded: Tensor) -> dict[tuple[int, ...], float]:
    """Probability of every label sequence, over all ways to emit at most one label a frame."""
    total: dict[tuple[int, ...], float] = {}
    for path in product(range(VOCABULARY), repeat=len(encoded)):
        labels: tuple[int, ...] = ()
        score = torch.zeros((), dtype=torch.float64)
        for frame, label in zip(encoded, path, strict=True):
            score += scorer.log_probs(frame, labels)[label]
            if label not in (BLANK, UNKNOWN):
                labels = (*labels, label)
        total[labels] = total.get(labels, 0.0) + score.exp().item()
    return total


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_the_slow_loop(seed: int) -> None:
    scorer, encoded = RandomScorer(seed), encoder(3, 12, seed)
    lengths = [12, 5, 0]
    expected = [slow_greedy(scorer, x[:n]) for x, n in zip(encoded, lengths, strict=True)]
    assert found(GreedySearch(scorer, 3), encoded, lengths) == expected
    assert expected[0].labels and not expected[2].labels


def test_some_label_is_unknown_and_read_as_blank() -> None:
    class Loud(RandomScorer):
        def join(self, encoded: Tensor, predicted: Tensor) -> Tensor:
            logits = super().join(encoded, predicted)
            logits[:, UNKNOWN] += 100
            return logits

    encoded = encoder(1, 6)
    for search in (GreedySearch(Loud(), 1), BeamSearch(Loud(), 1, 1), BeamSearch(Loud(), 1, 4)):
        assert found(search, encoded)[0].labels == []
    logits = torch.full((1, 4, VOCABULARY), -5.0)
    logits[0, torch.arange(4), torch.tensor([2, UNKNOWN, 2, 3])] = 5.0
    # As between blanks: the second 2 is a new one.
    assert found(CtcSearch(1), logits)[0].labels == [2, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_beam_of_one_is_greedy(seed: int) -> None:
    scorer, encoded = RandomScorer(seed), encoder(3, 12, seed)
    lengths = [12, 7, 0]
    greedy = found(GreedySearch(scorer, 3), encoded, lengths)
    assert found(BeamSearch(scorer, 3, 1), encoded, lengths) == greedy


def paths(search: BeamSearch) -> dict[tuple[int, ...], Any]:
    """The only stream's hypotheses by their labels."""
    return {tuple(text.last(text.length)): path for text, path in search.beams[0].items()}


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_is_full_enumeration(seed: int) -> None:
    scorer, encoded = RandomScorer(seed, sharpness=0.7), encoder(1, 4, seed)
    search = BeamSearch(scorer, 1, 10_000)
    best = found(search, encoded)[0]
    total = enumerated(scorer, encoded[0])
    assert sum(total.values()) == pytest.approx(1.0)
    scores = {labels: path.score for labels, path in paths(search).items()}
    assert scores.keys() == total.keys()
    for labels, probability in total.items():  # alignments of equal labels are added up
        expected = torch.tensor(probability).log().item()
        assert scores[labels] == pytest.approx(expected, abs=1e-4)
    # Length counts the two labels of context, as in sherpa-onnx.
    assert tuple(best.labels) == max(total, key=lambda x: scores[x] / (len(x) + 2))


def test_what_no_hypothesis_stands_on_is_forgotten() -> None:
    """A step costs the same however long the text is, in time and in memory."""
    search = BeamSearch(RandomScorer(0, sharpness=0.1), 1, 4)
    search.advance(encoder(1, 500, 0), torch.tensor([500]))
    [hypothesis] = search.best()
    assert len(hypothesis.labels) == len(hypothesis.frames) > 100
    alive = {id(text) for text in search.beams[0]}
    for text in search.beams[0]:
        while (text := text.before) is not None:
            alive.add(id(text))
    assert len(search.texts[0]._known) == len(alive) - 1, "all but the empty text"


class Taste:
    """A guide that remembers how many labels there were and the last one, and has opinions."""

    start = 0

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = 1.5 * torch.randn(64, VOCABULARY, generator=generator)
        self.table[:, : UNKNOWN + 1] = 0

    def scores(self, state: int) -> Tensor:
        return self.table[state % 64]

    def after(self, state: int, label: int) -> int:
        return 7 * state + label + 1

    def owed(self, state: int) -> float:
        return 0.3 * (state % 3)

    def total(self, labels: tuple[int, ...]) -> tuple[float, float]:
        state, total = self.start, 0.0
        for label in labels:
            total += float(self.scores(state)[label])
            state = self.after(state, label)
        return total, self.owed(state)


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_guided_beam_is_full_enumeration(seed: int) -> None:
    scorer, encoded = RandomScorer(seed, sharpness=0.7), encoder(1, 4, seed)
    guides = Taste(seed), Taste(seed + 10)
    search = BeamSearch(scorer, 1, 10_000, guides)
    best = found(search, encoded)[0]
    expected = {
        labels: math.log(p) + sum(guide.total(labels)[0] for guide in guides)
        for labels, p in enumerated(scorer, encoded[0]).items()
    }
    scores = {labels: path.score for labels, path in paths(search).items()}
    assert scores == pytest.approx(expected, abs=1e-4)
    owed = {x: sum(guide.total(x)[1] for guide in guides) for x in expected}
    ranked = max(expected, key=lambda x: (expected[x] - owed[x]) / (len(x) + 2))
    assert tuple(best.labels) == ranked
    plain = found(BeamSearch(scorer, 1, 10_000), encoded)[0]
    assert seed != 0 or plain.labels != best.labels, "the test must compare something"


def test_a_guided_beam_chunk_by_chunk_is_all_at_once() -> None:
    encoded, guides = encoder(3, 12), [Taste()]
    expected = found(BeamSearch(RandomScorer(3), 3, 4, guides), encoded)
    assert expected != found(BeamSearch(RandomScorer(3), 3, 4), encoded)
    search = BeamSearch(RandomScorer(3), 3, 4, guides)
    for chunk in encoded.split([3, 4, 5], dim=1):
        search.advance(chunk, torch.full((3,), chunk.shape[1]))
    assert search.best() == expected


def test_greedy_search_joins_rows_as_the_scorer_likes_them() -> None:
    """However many frames it looks ahead, the labels are the same."""
    encoded, lengths = encoder(3, 40), [40, 11, 0]
    texts = []
    for rows in (1, 2, 5, 64):
        scorer = RandomScorer(1)
        scorer.rows = rows
        texts.append(found(GreedySearch(scorer, 3), encoded, lengths))
    assert texts[0][0].labels and all(text == texts[0] for text in texts)


def test_predictions_are_made_once() -> None:
    scorer, asked = RandomScorer(), []
    predict = scorer.predict
    scorer.predict = lambda context: asked.append(len(context)) or predict(context)  # type: ignore[method-assign, func-returns-value]
    predictions = Predictions(scorer)
    predictions.MOST = 3
    for contexts in ([(-1, 0), (-1, 0)], [(0, 2), (-1, 0)], [(2, 3)], [(3, 4), (-1, 0)]):
        assert torch.equal(predictions.after(contexts), predict(torch.tensor(contexts)))
    assert asked == [1, 1, 1, 2], "and forgotten where they become too many"


def test_merging_changes_what_wins() -> None:
    """Each alignment of [2] loses to the one of [3], but together they win."""

    class Fixed:
        rows = 1
        frames = torch.tensor([[0.34, 0.0, 0.26, 0.40], [0.34, 0.0, 0.26, 0.40]]).log()

        def predict(self, context: Tensor) -> Tensor:
            return context[:, 1:].float()  # the last label

        def join(self, encoded: Tensor, predicted: Tensor) -> Tensor:
            rows = self.frames[0].expand(len(encoded), -1).clone()
            rows[predicted[:, 0] == 2] = torch.tensor([0.98, 0.0, 0.01, 0.01]).log()
            rows[predicted[:, 0] == 3] = torch.tensor([0.02, 0.0, 0.49, 0.49]).log()
            return rows

    search = BeamSearch(Fixed(), 1, 100)
    best = found(search, torch.zeros(1, 2, 1))[0]
    scores = {k: torch.tensor(v.score).exp().item() for k, v in paths(search).items()}
    assert scores[2,] == pytest.approx(0.26 * 0.98 + 0.34 * 0.26)
    assert scores[3,] == pytest.approx(0.40 * 0.02 + 0.34 * 0.40)
    assert best.labels == [2] and best.frames == [0]  # the better alignment's time …
    last = paths(search)[3,].emitted
    assert (last.before, last.frame) == (None, 1)  # … be it the earlier or the later


def test_a_narrow_beam_finds_what_greedy_misses() -> None:
    better = 0
    for seed in range(20):
        scorer, encoded = RandomScorer(seed, sharpness=0.7), encoder(1, 5, seed)
        total = enumerated(scorer, encoded[0][:3])
        greedy = found(GreedySearch(scorer, 1), encoded[:, :3])[0]
        beam = found(BeamSearch(scorer, 1, 4), encoded[:, :3])[0]

        def value(said: Hypothesis, total: dict[tuple[int, ...], float] = total) -> float:
            score = torch.tensor(total[tuple(said.labels)]).log().item()
            return score / (len(said.labels) + 2)

        better += value(beam) > value(greedy) + 1e-6
    assert better >= 5


def make(kind: str, streams: int) -> Search:
    if kind == "ctc":
        return CtcSearch(streams)
    scorer = RandomScorer(3)
    return BeamSearch(scorer, streams, 4) if kind == "beam" else GreedySearch(scorer, streams)


@pytest.mark.parametrize("kind", ["greedy", "beam", "ctc"])
@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7], [3, 4, 5], [11, 1]])
def test_chunk_by_chunk_is_all_at_once(kind: str, sizes: list[int]) -> None:
    encoded = encoder(3, 12)
    expected = found(make(kind, 3), encoded)
    assert any(said.labels for said in expected)
    search = make(kind, 3)
    for chunk in encoded.split(sizes, dim=1):
        search.advance(chunk, torch.full((3,), chunk.shape[1]))
    assert search.best() == expected


@pytest.mark.parametrize("kind", ["greedy", "beam", "ctc"])
def test_streams_do_not_touch_one_another(kind: str) -> None:
    encoded, lengths = encoder(4, 10), [10, 3, 0, 7]
    together = found(make(kind, 4), encoded, lengths)
    for i, count in enumerate(lengths):
        assert found(make(kind, 1), encoded[i : i + 1, :count])[0] == together[i]


@pytest.mark.parametrize("kind", ["greedy", "beam", "ctc"])
def test_an_empty_chunk_is_nothing(kind: str) -> None:
    search = make(kind, 1)
    search.advance(encoder(1, 0), torch.tensor([0]))
    assert search.best() == [Hypothesis()]


@pytest.mark.parametrize("kind", ["greedy", "beam"])
def test_at_most_one_label_a_frame(kind: str) -> None:
    for said in found(make(kind, 5), encoder(5, 30)):
        assert len(said.labels) == len(said.frames) <= 30
        assert all(a < b for a, b in pairwise(said.frames))


def test_ctc_folds_repeats_and_drops_blanks() -> None:
    path = [0, 2, 2, 0, 2, 3, 3, 4, 0, 0, 4]
    logits = torch.nn.functional.one_hot(torch.tensor([path]), VOCABULARY).float()
    said = found(CtcSearch(1), logits)[0]
    assert said == Hypothesis([2, 2, 3, 4, 4], [1, 4, 5, 7, 10])


# With a real model.


def recogniser(head: str = "transducer") -> Recogniser:
    torch.manual_seed(0)
    encoder = ConformerConfig(width=16, layers=1, heads=2, kernel=3, ffn=1)
    config = ModelConfig(encoder=encoder, head=head, predictor=8, joiner=8, subsampling=8)
    model = Recogniser(config, VOCABULARY).eval()
    with torch.no_grad():  # untrained, yet talkative
        (model.ctc if head == "ctc" else model.joiner.out).weight.stored.mul_(20)
    return model


def features(*frames: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(n, MELS, generator=generator) for n in frames]


@pytest.mark.parametrize(("head", "beam"), [("transducer", 1), ("transducer", 4), ("ctc", 1)])
@pytest.mark.parametrize("chunking", [Chunking(4, 8), Chunking(None)])
def test_a_batch_is_decoded_as_each_alone(head: str, beam: int, chunking: Chunking) -> None:
    model, utterances = recogniser(head), features(203, 40, 4, 90)
    together = decode(model, utterances, chunking, Searcher(beam))
    assert together[0].labels
    assert together == [decode(model, [x], chunking, Searcher(beam))[0] for x in utterances]


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_too_short_for_one_encoder_frame_is_silence(head: str) -> None:
    model = recogniser(head)
    for lengths in ((), (0,), (3,), (2, 0, 3)):
        silent = [Hypothesis() for _ in lengths]
        assert decode(model, features(*lengths), Chunking(4, 8)) == silent
    mixed = decode(model, features(80, 0, 3), Chunking(4, 8))
    assert mixed[0].labels and mixed[1:] == [Hypothesis(), Hypothesis()]


def test_the_head_chooses_the_search() -> None:
    model, ctc = recogniser(), recogniser("ctc")
    assert isinstance(Searcher().start(scorer_of(model), 1), GreedySearch)
    assert isinstance(Searcher(2).start(scorer_of(model), 1), BeamSearch)
    assert isinstance(Searcher().start(scorer_of(ctc), 1), CtcSearch)
    with pytest.raises(UserError, match="beam search needs a transducer"):
        Searcher(2).start(scorer_of(ctc), 1)


def test_what_a_search_takes_is_what_the_joiner_adds() -> None:
    model = recogniser()
    encoded, scorer = torch.randn(2, 3, 16), TorchScorer(model)
    labels = torch.tensor([[2, 3], [4, 2]])
    joined = scorer.join(head_input(model, encoded)[:, 1], scorer.predict(labels))
    expected = model.joiner(
        model.joiner.encoder(encoded[:, 1]), model.joiner.predictor(model.predictor(labels)[:, 2])
    )
    torch.testing.assert_close(joined, expected)
