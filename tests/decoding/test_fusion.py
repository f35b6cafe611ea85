"""What a language model adds to a beam's scores. `test_searcher` has it in a search."""

import numpy as np

from pocketscribe.decoding.fusion import ShallowFusion
from pocketscribe.lm.kneser_ney import FIRST, START
from pocketscribe.lm.ngram import Ngram, learn


def test_what_fusion_adds() -> None:
    generator = np.random.default_rng(0)
    sentences = [generator.integers(FIRST, 12, 20).tolist() for _ in range(50)]
    model = Ngram(learn(sentences, 12, 3, 10**6), 12)
    fusion = ShallowFusion(model, scale=0.5, bonus=0.25)
    state = fusion.start
    for label in sentences[0][:3]:
        found = fusion.scores(state).numpy()
        assert found[:FIRST].tolist() == [0.0, 0.0], "blank is the transducer's business"
        expected = 0.5 * model.log_probs_after(state)[FIRST:] + 0.25
        np.testing.assert_allclose(found[FIRST:], expected, atol=1e-6)
        assert fusion.owed(state) == 0
        state = fusion.after(state, label)
    assert fusion.start == model.after(0, START) != state
