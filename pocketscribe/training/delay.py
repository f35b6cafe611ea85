"""What training aligns with a frame: an output that may have heard a little of what comes after it.

Streaming decodes all outputs as they come, so a delay needs nothing of any runtime; what was said
last is written within the silence that ends every utterance.

B utterances, T feature frames (10 ms), F mel bins, S encoder frames (40 ms), D width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pocketscribe.models import Chunking, Recogniser
from pocketscribe.models.subsampling import FACTOR
from pocketscribe.speech.batches import Batch
from pocketscribe.speech.features import LOG_FLOOR


def encode_late(
    model: Recogniser, batch: Batch, chunking: Chunking
) -> tuple[Float[Tensor, "B S D"], Int[Tensor, " B"]]:
    """Of each frame, the output that comes the encoder's `delay` after it (arXiv 1507.06947).

    Silence follows the speech, as it does when it is decoded.
    """
    delay = model.config.encoder.delay
    if not delay:
        return model.encode(batch.features, batch.frames, chunking)
    features = F.pad(batch.features, (0, 0, 0, FACTOR * delay))
    times = torch.arange(features.shape[1], device=features.device)
    after = (times >= batch.frames.unsqueeze(1)).unsqueeze(-1)
    features = features.masked_fill(after, LOG_FLOOR)
    encoded, frames = model.encode(features, batch.frames + FACTOR * delay, chunking)
    return encoded[:, delay:], frames - delay
