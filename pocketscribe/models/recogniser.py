"""The whole recogniser: features -> normalise -> subsample -> encode -> head.

Dimensions: B batch, T feature frames (10 ms), S = T // 4 encoder frames (40 ms), F mel bins,
D encoder width, U labels, V vocabulary.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.models.blocks import State
from pocketscribe.models.chunks import ChunkConfig, Chunking
from pocketscribe.models.conformer import ConformerConfig
from pocketscribe.models.encoders import ENCODERS, AnyEncoderConfig
from pocketscribe.models.joiner import Joiner
from pocketscribe.models.predictor import Predictor
from pocketscribe.models.subsampling import FACTOR, PAST, Subsampling
from pocketscribe.weights import Dim, FormatRule, RankRule, Sharing, Weights, convert

MELS = 80
BLANK = 0
LETTERS = 30  # units of English where only sizes matter: A–Z, apostrophe, word mark, blank, unknown
LARGEST_STATE = 2**24  # numbers that one stream remembers: 64 MiB


class ModelConfig(Config):
    """A recogniser's architecture; travels in every checkpoint and artefact.

    Attributes:
        encoder: which family, and its shape.
        head: what makes units of frames.
        chunks: how far a frame may look, which is the latency.
        predictor, joiner: widths; unused by a CTC head.
        subsampling: channels between the two subsampling convolutions.
        sharing: which of the encoder's weights are one stored tensor.
        ranks: rules, first match wins: which weights are stored as two factors, or scaled.
        formats: rules, first match wins: in what bits and sparsity those tensors ship.
    """

    encoder: AnyEncoderConfig = ConformerConfig()
    head: Literal["transducer", "ctc"] = "transducer"
    chunks: ChunkConfig = ChunkConfig()
    predictor: int = Field(default=256, gt=0, le=4096)
    joiner: int = Field(default=256, gt=0, le=4096)
    subsampling: int = Field(default=128, gt=0, le=4096)
    sharing: Sharing = Sharing()
    ranks: tuple[RankRule, ...] = Field(default=(), max_length=30)
    formats: tuple[FormatRule, ...] = Field(default=(), max_length=30)

    @model_validator(mode="after")
    def _check(self) -> "ModelConfig":
        self.sharing.check(self.encoder.layers)
        state = sum(map(prod, self.encoder.state_shapes(self.chunks.left).values()))
        if state > LARGEST_STATE:  # which sharing does not make smaller, nor a small file
            raise ValueError(
                f"a stream would remember {state:,} numbers, in proportion to layers, width and "
                f"chunks.left or encoder.modes; at most {LARGEST_STATE:,} are allowed"
            )
        return self


class Recogniser(nn.Module):
    """A streaming recogniser with a transducer or a CTC head.

    What training alone needs (the other losses' projections) lives in `auxiliary` and is neither
    counted nor shipped.
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, config: ModelConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = vocabulary
        weights = self.weights = Weights(
            config.ranks, config.sharing, config.encoder.layers, config.formats
        )
        width, predictor = config.encoder.residual, Dim("predictor", config.predictor)
        self.register_buffer("mean", torch.zeros(MELS))
        self.register_buffer("inverse_std", torch.ones(MELS))
        self.subsampling = Subsampling(weights, "subsampling", MELS, config.subsampling, width)
        family = ENCODERS[config.encoder.family]
        self.encoder = family(weights, "encoder", config.encoder)
        self.auxiliary = nn.ModuleDict()
        if config.head == "transducer":
            self.predictor = Predictor(weights, "predictor", vocabulary, predictor)
            self.joiner = Joiner(weights, "joiner", width, predictor, config.joiner, vocabulary)
            heads = {"ctc": width, "simple_encoder": width, "simple_predictor": predictor}
            for name, reads in heads.items():
                self.auxiliary[name] = nn.Linear(len(reads), vocabulary)
                weights.dims.add(
                    self.auxiliary[name], weight=(vocabulary, reads), bias=(vocabulary,)
                )
        else:
            self.ctc = weights.linear("ctc", width, vocabulary)
        weights.check()

    def encode(
        self, features: Float[Tensor, "B T F"], frames: Int[Tensor, " B"], chunking: Chunking
    ) -> tuple[Float[Tensor, "B S D"], Int[Tensor, " B"]]:
        """Encodes whole utterances of `frames` (10 ms) each; also returns lengths in 40 ms."""
        state = self.subsampling_state(features.shape[0], features)
        x = self.subsampling(self.normalise(features), state)
        frames = frames // FACTOR
        return self.encoder(x, frames, chunking), frames

    def ctc_logits(self, encoded: Float[Tensor, "B S D"]) -> Float[Tensor, "B S V"]:
        """The CTC head's logits: the model's own head, or the auxiliary one of a transducer."""
        head = self.ctc if self.config.head == "ctc" else self.auxiliary["ctc"]
        return head(encoded)

    def initial_state(self, batch: int, left: int) -> State:
        """State before the first chunk, all zeros, batch first; `left` frames of left context."""
        state = self.encoder.initial_state(batch, left, self.mean)
        return {"past": self.subsampling_state(batch, self.mean), **state}

    def step(
        self, features: Float[Tensor, "B T F"], state: State
    ) -> tuple[Float[Tensor, "B S D"], State]:
        """One chunk of features (T a multiple of 4) -> its encoder frames and the new state."""
        features = self.normalise(features)
        x = self.subsampling(features, state["past"])
        y, new = self.encoder.step(x, state)
        # Keys keep their order: runtimes match states by position.
        past = torch.cat([state["past"], features], dim=1)[:, -PAST:]
        return y, {"past": past, **{name: new[name] for name in state if name in new}}

    def normalise(self, features: Float[Tensor, "B T F"]) -> Float[Tensor, "B T F"]:
        """Global mean and variance normalisation, in the model so that runtimes need none."""
        return (features - self.mean) * self.inverse_std

    def subsampling_state(self, batch: int, like: Tensor) -> Float[Tensor, "B 3 F"]:
        return like.new_zeros(batch, PAST, MELS)


@torch.no_grad()
def start_from(model: Recogniser, source: Recogniser) -> None:
    """Fills a model with a trained one's weights, converted to the model's own sharing and rank.

    Raises:
        UserError: the two differ in more than sharing, ranks, formats, chunks and dropout.
    """
    check_same_shape(model.config, source.config)
    units = {"vocabulary": model.vocabulary}, {"vocabulary": source.vocabulary}
    check_equal(*units, "to start from; both need the same text units")
    if all(getattr(model.config, k) == getattr(source.config, k) for k in ("sharing", "ranks")):
        # What ships has no training heads: those stay as they were drawn.
        model.load_state_dict(source.state_dict(), strict=False)
        return
    convert(source.weights, model.weights)
    stored = {id(weight.stored) for weight in model.weights.stored.values()}
    theirs = dict(source.state_dict())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in stored and name in theirs:
            tensor.copy_(theirs[name])


def check_same_shape(model: ModelConfig, source: ModelConfig) -> None:
    """Raises UserError where one cannot start from the other."""
    may = "only sharing, ranks, formats, chunks and dropout may change (cut makes smaller)"
    check_equal(_shape(model), _shape(source), f"to start from; {may}")


def check_equal(here: Mapping[str, Any], there: Mapping[str, Any], what: str) -> None:
    """Raises UserError at the first key that differs; `what` says which model is `there`, and why
    it must not.
    """
    for key, value in here.items():
        if there.get(key) != value:
            raise UserError(f"model.{key} is {value} here and {there.get(key)} in the model {what}")


def _shape(config: ModelConfig) -> dict[str, Any]:
    """All that two models must have in common for one to start from the other, by its key."""
    kept = config.model_dump(exclude={"sharing", "ranks", "formats", "chunks"})
    encoder = {f"encoder.{key}": v for key, v in kept.pop("encoder").items() if key != "dropout"}
    return {**encoder, **kept}


@torch.no_grad()
def decoded(model: Recogniser) -> Recogniser:
    """The same model with its formatted weights as floats; itself where it has no formats."""
    if not model.config.formats:
        return model
    plain = Recogniser(model.config.model_copy(update={"formats": ()}), model.vocabulary)
    plain.auxiliary = model.auxiliary
    plain.load_state_dict(model.state_dict())
    for key, weight in plain.weights.stored.items():
        weight.stored.copy_(model.weights.stored[key]())
    return plain.eval()


def tensors(model: Recogniser) -> dict[str, Tensor]:
    """Name -> parameter or buffer, each stored tensor once under its first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def deployed_tensors(model: Recogniser) -> dict[str, Tensor]:
    """Of `tensors`, all that ships: not the heads that training alone needs."""
    return {n: t for n, t in tensors(model).items() if not is_auxiliary(n)}


def is_auxiliary(name: str) -> bool:
    """Whether a tensor of that name belongs to the heads that training alone needs."""
    return name.startswith("auxiliary.")


def precise_names(model: Recogniser) -> set[str]:
    """Of `tensors`, those that float16 would spoil: what their modules name as `precise`."""
    return {
        f"{inside}.{name}"
        for inside, module in model.named_modules()
        for name in getattr(module, "precise", ())
    }


def deployed_parameters(model: Recogniser) -> dict[str, nn.Parameter]:
    """Name -> stored tensor of all that ships: shared ones once, training's heads not at all."""
    return {n: p for n, p in model.named_parameters() if not is_auxiliary(n)}


def stored_parameters(model: Recogniser) -> int:
    """Numbers that a device holds."""
    return sum(p.numel() for p in deployed_parameters(model).values())


def virtual_parameters(model: Recogniser) -> int:
    """Numbers of the same model were every layer's matrix its own and whole."""
    uses = model.weights.uses.values()
    held = {id(w): w.stored.numel() for u in uses for w in (u.weight, u.factor) if w is not None}
    whole = sum(use.shape[0] * use.shape[1] for use in uses)
    return stored_parameters(model) - sum(held.values()) + whole
