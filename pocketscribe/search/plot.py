"""The picture of a search."""

from collections.abc import Sequence
from pathlib import Path

from pocketscribe.files import replacing


def pareto_plot(
    scored: Sequence[tuple[int, float]],
    best: Sequence[tuple[int, float, float, float]],
    path: Path,
) -> None:
    """All that a search scored (bytes, WER), and its frontier (with the interval's ends)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes, wers = [size / 1e6 for size, _ in scored], [100 * wer for _, wer in scored]
    axes.plot(sizes, wers, ".", color="0.7", label="scored on one half of dev")
    for size, wer, low, high in best:
        spread = [[100 * max(wer - low, 0)], [100 * max(high - wer, 0)]]
        axes.errorbar(size / 1e6, 100 * wer, yerr=spread, fmt="o", capsize=3, color="C0")
    line = [size / 1e6 for size, *_ in best], [100 * wer for _, wer, *_ in best]
    axes.plot(*line, color="C0", label="frontier, confirmed on the other half")
    highest = max(100 * wer for _, wer, *_ in best)
    axes.set(xlabel="MB", ylabel="WER, % (95% interval)", ylim=(0, max(1.5 * highest, 10)))
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
