"""Tables and plots of results."""

from typing import Any

from rich.table import Table

from pocketscribe.evaluation.evaluate import summary


def results_table(results: dict[str, Any]) -> Table:
    """One row a scored part, with a row below for each of its groups."""
    first = next(iter(results["scores"].values()))
    size = f"{first['parameters_stored'] / 1e6:.2f}M parameters, {first['bytes'] / 1e6:.1f} MB"
    table = Table("data", "WER [95% CI]", "words", "RTF", title=f"{results['recipe']}: {size}")
    for title, result in results["scores"].items():
        table.add_row(title, str(summary(result)), str(result["words"]), f"{result['rtf']:.3f}")
        for name, group in result["groups"].items():
            table.add_row(f"  {name}", str(summary(group)), str(group["words"]), "")
    return table
