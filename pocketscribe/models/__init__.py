"""Streaming recognisers, built on layers that `weights` hands out."""

from pocketscribe.models.chunks import ChunkConfig, Chunking
from pocketscribe.models.conformer import ConformerConfig, State
from pocketscribe.models.recogniser import (
    BLANK,
    MELS,
    ModelConfig,
    Recogniser,
    decoded,
    deployed_parameters,
    start_from,
    stored_parameters,
    tensors,
    virtual_parameters,
)

__all__ = [
    "BLANK",
    "MELS",
    "ChunkConfig",
    "Chunking",
    "ConformerConfig",
    "ModelConfig",
    "Recogniser",
    "State",
    "decoded",
    "deployed_parameters",
    "start_from",
    "stored_parameters",
    "tensors",
    "virtual_parameters",
]
