"""CTC loss (Graves et al. 2006), per utterance.

Dimensions: B batch, S encoder frames, U labels, V vocabulary.
"""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pocketscribe.models import BLANK


def ctc_loss(
    logits: Float[Tensor, "B S V"],
    targets: Int[Tensor, "B U"],
    frames: Int[Tensor, " B"],
    labels: Int[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """Negative log likelihood in nats, in float32.

    An utterance whose labels cannot fit its frames (repeats need a blank between them) gives 0 and
    no gradient: it is rare, and one infinity would spoil the batch.
    """
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(
        log_probs, targets, frames, labels, blank=BLANK, reduction="none", zero_infinity=True
    )
