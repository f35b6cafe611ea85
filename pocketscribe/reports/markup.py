"""HTML and SVG from nested calls: whatever is not `Markup` is escaped, so nothing is forgotten."""

from html import escape

VOID = {"link", "meta"}  # elements without an end


class Markup(str):
    """Text that is HTML already."""


def join(*parts: str) -> Markup:
    """Pieces one after another."""
    return Markup("".join(p if isinstance(p, Markup) else escape(p) for p in parts))


def tag(name: str, /, *inside: str, **attributes: str | int | float | None) -> Markup:
    """An element: `tag("a", "here", href="#x", class_="y")`.

    An attribute that is None is left out; `class_` is class, `stroke_width` is stroke-width.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{join(*inside)}" + ("" if name in VOID else f"</{name}>"))


def _plain(value: str | int | float) -> str:
    """Coordinates to a tenth of a pixel."""
    return f"{round(value, 1):g}" if isinstance(value, float) else str(value)
