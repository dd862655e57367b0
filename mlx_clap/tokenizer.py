"""Text -> token ids, through the `tokenizers` library and the model's own ``tokenizer.json``."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HubTokenizer

from .config import TextConfig
from .errors import InputError, ModelFormatError

#: Token counts are padded up to a multiple of this, so that the device sees few shapes.
_STEP = 16


class Tokenizer:
    """RoBERTa's byte-level BPE. A text longer than the model's limit is cut there, keeping the end token (as
    transformers' ``truncation=True`` does)."""

    def __init__(self, path: Path, config: TextConfig) -> None:
        """Read a ``tokenizer.json``.

        Raises:
            ModelFormatError: the file is missing or no tokenizer, or it knows more tokens than the model.
        """
        try:
            self._tokenizer = HubTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for every fault of the file
            raise ModelFormatError(f"{path} is not a readable tokenizer ({error}): convert the model again") from error
        if self._tokenizer.get_vocab_size() > config.vocab_size:
            raise ModelFormatError(
                f"{path} has {self._tokenizer.get_vocab_size()} tokens, the model only {config.vocab_size}: "
                "it belongs to another model; convert the model again"
            )
        self._config = config
        self._tokenizer.enable_truncation(config.max_tokens)
        self._tokenizer.no_padding()

    def __call__(self, texts: list[str]) -> NDArray[np.int32]:
        """Token ids int32 [B, T], each row padded with the pad id.

        Raises:
            InputError: no texts, or one that is not a string or cannot be encoded.
        """
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InputError("expected a list of at least one text")
        try:
            rows = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        except (UnicodeEncodeError, TypeError) as error:
            raise InputError("a text holds bytes that are no Unicode text: write it in UTF-8") from error
        longest = max(map(len, rows))
        width = min(-(-longest // _STEP) * _STEP, self._config.max_tokens)
        ids = np.full((len(rows), max(width, longest)), self._config.pad_id, np.int32)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids
