"""Streaming recognisers, built on layers that `weights` hands out."""

from pocketscribe.models.blocks import State
from pocketscribe.models.chunks import ChunkConfig, Chunking
from pocketscribe.models.conformer import ConformerConfig
from pocketscribe.models.mhssm import MHSSMConfig
from pocketscribe.models.recogniser import (
    BLANK,
    LETTERS,
    MELS,
    ModelConfig,
    Recogniser,
    check_same_shape,
    decoded,
    deployed_parameters,
    deployed_tensors,
    precise_names,
    start_from,
    stored_parameters,
    tensors,
    virtual_parameters,
)

__all__ = [
    "BLANK",
    "LETTERS",
    "MELS",
    "ChunkConfig",
    "Chunking",
    "ConformerConfig",
    "MHSSMConfig",
    "ModelConfig",
    "Recogniser",
    "State",
    "check_same_shape",
    "decoded",
    "deployed_parameters",
    "deployed_tensors",
    "precise_names",
    "start_from",
    "stored_parameters",
    "tensors",
    "virtual_parameters",
]
