"""The families of encoders: one table, in which a recogniser looks its encoder up."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pocketscribe.models.blocks import Encoder
from pocketscribe.models.conformer import Conformer, ConformerConfig
from pocketscribe.models.mhssm import MHSSM, MHSSMConfig

ENCODERS: dict[str, type[Encoder]] = {"conformer": Conformer, "mhssm": MHSSM}


def _family(data: Any) -> Any:
    """A config that names no family is a Conformer's."""
    return {"family": "conformer", **data} if isinstance(data, dict) else data


AnyEncoderConfig = Annotated[
    Annotated[ConformerConfig | MHSSMConfig, Field(discriminator="family")],
    BeforeValidator(_family),
]
