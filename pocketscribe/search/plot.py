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
    sizes, wers = [size / 1e6 for size, *_ in best], [100 * wer for _, wer, *_ in best]
    below = [100 * max(wer - low, 0) for _, wer, low, _ in best]
    above = [100 * max(high - wer, 0) for _, wer, _, high in best]
    label = "frontier of both halves, as confirmed on the other"
    axes.errorbar(sizes, wers, yerr=[below, above], fmt="o", capsize=3, color="C0", label=label)
    highest = max(wers)
    axes.set(xlabel="MB", ylabel="WER, % (95% interval)", ylim=(0, max(1.5 * highest, 10)))
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
