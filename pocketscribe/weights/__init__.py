"""A weight is a small pipeline: what a layer multiplies by is computed from what is stored."""

from pocketscribe.weights.compress import compress
from pocketscribe.weights.convert import convert
from pocketscribe.weights.dims import Dim, Dims, Size, Sized
from pocketscribe.weights.format import Format, FormatRule
from pocketscribe.weights.layers import Conv1d, Embedding, Linear
from pocketscribe.weights.panels import panels_bytes
from pocketscribe.weights.rules import resolve
from pocketscribe.weights.sharing import Share, Sharing
from pocketscribe.weights.spec import RankRule, WeightSpec
from pocketscribe.weights.store import Use, Weights
from pocketscribe.weights.weight import Pipeline, Weight, at_least, formatted_once

__all__ = [
    "Conv1d",
    "Dim",
    "Dims",
    "Embedding",
    "Format",
    "FormatRule",
    "Linear",
    "Pipeline",
    "RankRule",
    "Share",
    "Sharing",
    "Size",
    "Sized",
    "Use",
    "Weight",
    "WeightSpec",
    "Weights",
    "at_least",
    "compress",
    "convert",
    "formatted_once",
    "panels_bytes",
    "resolve",
]
