"""Text units: what the recogniser writes. Characters, BPE or unigram, all by sentencepiece."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import sentencepiece
from pydantic import Field

from pocketscribe.config import Config
from pocketscribe.errors import UserError
from pocketscribe.files import read_json, write_json
from pocketscribe.models import BLANK

sentencepiece.set_min_log_level(3)  # what ails a damaged model is ours to say

UNKNOWN = 1  # after the blank, as sherpa-onnx wants them
MOST_UNITS = 2**16
SPACE = "\u2581"  # sentencepiece's and sherpa-onnx's mark of a word's start


class UnitsConfig(Config):
    """Which units to learn from the training text.

    Attributes:
        kind: sentencepiece's models of parts of words, or single characters.
        size: how many, blank and unknown among them; characters are as many as there are.
    """

    kind: Literal["char", "bpe", "unigram"] = "bpe"
    size: int = Field(default=256, gt=2, le=MOST_UNITS)


class Written(Config):
    """What a run's units.json holds: the symbols for people, the model for us."""

    symbols: tuple[str, ...]
    model: str


class Units:
    """A text <-> ids mapping; id 0 is blank and id 1 unknown, as sherpa-onnx wants them."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def learn(cls, texts: Iterable[str], config: UnitsConfig) -> "Units":
        """Learns units from transcripts.

        Raises:
            UserError: the text does not hold as many different units as asked for.
        """
        model = io.BytesIO()
        texts = list(texts)
        characters = {c for text in texts for c in text if c != " "}
        if not characters:
            raise UserError("speech.units: no training text to learn units from")
        # char: every character, the word mark, blank and unknown.
        size = len(characters) + 3 if config.kind == "char" else config.size
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                model_type=config.kind,
                vocab_size=size,
                character_coverage=1.0,
                normalization_rule_name="identity",
                pad_id=BLANK,
                pad_piece="<blk>",
                unk_id=UNKNOWN,
                bos_id=-1,
                eos_id=-1,
                hard_vocab_limit=True,
                max_sentence_length=2**20,  # bytes; longer ones are passed over in silence
                num_threads=1,  # the same units on every machine
                minloglevel=3,
            )
        except RuntimeError as error:
            reason = str(error).split("]", 1)[-1].strip().splitlines()[0]
            raise UserError(
                f"speech.units.size = {config.size}: cannot learn so many {config.kind} units "
                f"from this text ({reason}); choose another size, or kind = 'char'"
            ) from None
        return cls(model.getvalue())

    @classmethod
    def from_json(cls, data: str, source: str = "this model", count: int | None = None) -> "Units":
        """Reads what `to_json` wrote.

        Raises:
            UserError: it is damaged, or not of `count` units; names `source`.
        """
        try:
            units = cls(base64.b64decode(data, validate=True))
            symbols = units.symbols()  # which need not be UTF-8
        except (ValueError, RuntimeError, TypeError):
            symbols = []
        # Of nothing, sentencepiece makes no units without a word.
        if not UNKNOWN < len(symbols) <= MOST_UNITS or units._processor.unk_id() != UNKNOWN:
            raise UserError(f"{source}: its text units are damaged")
        if count not in (None, len(symbols)):
            raise UserError(f"{source}: it has {len(symbols)} text units, its model {count}")
        return units

    @classmethod
    def read(cls, path: Path) -> "Units":
        """Reads a run's units.json; raises UserError where it is damaged."""
        return cls.from_json(Written.read(read_json(path), str(path)).model, str(path))

    def write(self, path: Path) -> None:
        """Writes a run's units.json."""
        write_json(path, {"symbols": self.symbols(), "model": self.to_json()})

    def to_json(self) -> str:
        return base64.b64encode(self.model).decode()

    def __len__(self) -> int:
        return self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def can_spell(self, text: str) -> bool:
        return UNKNOWN not in self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces(ids)).replace(SPACE, " ").strip()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._processor.id_to_piece(int(i)) for i in ids]

    def symbols(self) -> list[str]:
        """All pieces in the order of their ids: the lines of tokens.txt."""
        return self.pieces(range(len(self)))

    def scores(self) -> list[float]:
        """Sentencepiece's score of each unit, by which it prefers one spelling to another."""
        return [self._processor.get_score(i) for i in range(len(self))]

    @property
    def are_characters(self) -> bool:
        """Whether no unit but blank and unknown is longer than a character."""
        return all(len(symbol) == 1 for symbol in self.symbols()[UNKNOWN + 1 :])
