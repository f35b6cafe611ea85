"""What a search is worth: its choice against the sub-network that is shrunk evenly, at equal bytes.

    OMP_NUM_THREADS=1 python benchmarks/search.py models/todm.safetensors --corpus fsdd

Of a searched supernet: sub-networks with the same share of every dimension, in each of the search's
formats, and what `export --budget` gives for the very bytes of each; word errors on a part that no
search has heard.
"""

import tempfile
from pathlib import Path

import typer

from pocketscribe.evaluation.evaluate import evaluate, summary
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.models.saved import Saved, load_model, save_packed
from pocketscribe.models.subnets import Space, SpaceConfig
from pocketscribe.search.deploy import take
from pocketscribe.search.evolution import SHARES
from pocketscribe.search.frontier import Point, frontier_of, within
from pocketscribe.search.search import WIDEST
from pocketscribe.speech.corpora import CorpusConfig
from pocketscribe.weights import FormatRule

Rules = tuple[FormatRule, ...]


def main(model: Path, corpus: str = "fsdd", split: str = "test", root: Path | None = None) -> None:
    supernet = load_model(model)
    points = frontier_of(supernet.card, str(model))
    made = [stage["space"] for stage in supernet.card["stages"] if "space" in stage][-1]
    space = Space(supernet.model, SpaceConfig.read(made, "the card's space"))
    part = CorpusConfig(corpus=corpus, split=split)

    def scored(taken: Saved) -> tuple[int, str]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.pocket"
            save_packed(path, taken)
            result = evaluate(TorchRuntime(path), part, root)
            return path.stat().st_size, str(summary(result))

    def chosen(point: Point) -> Saved:
        sizes = space.sub_config(point.candidate.sizes)
        return take(supernet, sizes, point.rules, point.confirmed)

    formats: dict[str, Rules] = {"float16": ()}
    formats |= {point.candidate.formats: point.rules for point in points}
    print(f"| evenly shrunk | bytes | WER, {part.title} | search's choice | bytes | WER |")
    print("|---|---|---|---|---|---|")
    for name, rules in formats.items():
        for share in sorted(SHARES):
            even = space.sub_config(space.sizes(space.even(share)))
            size, wer = scored(take(supernet, even, rules, WIDEST))  # a card as long as the other's
            point = within(points, max(size, points[0].bytes))[0]
            other, better = scored(chosen(point))
            print(
                f"| {share:.0%}, {name} | {size:,} | {wer} "
                f"| {point.candidate.formats} | {other:,} | {better} |",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
