"""Finds a checkpoint's ``tokenizer.json``, or builds it from ``vocab.json`` and ``merges.txt``.

It does not tokenize; `mlx_clap.tokenizer` does.
"""

from collections.abc import Callable, Collection
from pathlib import Path

from mlx_clap.errors import AskedWronglyError

from .errors import CheckpointError

TOKENIZER = "tokenizer.json"
VOCAB, MERGES = "vocab.json", "merges.txt"
_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


def tokenizer_names(names: Collection[str]) -> list[str]:
    """Which of the files `names` to read: ``tokenizer.json``, or the two it can be built from, or none."""
    if TOKENIZER in names:
        return [TOKENIZER]
    return [VOCAB, MERGES] if VOCAB in names and MERGES in names else []


def given_tokenizer(path: Path) -> list[Path]:
    """The files behind ``--tokenizer PATH``: a ``tokenizer.json``, or a folder that holds one or its parts.

    Raises:
        AskedWronglyError: nothing of the kind is there.
    """
    if path.is_file():
        return [path]
    names = tokenizer_names([entry.name for entry in path.iterdir()]) if path.is_dir() else []
    if not names:
        raise AskedWronglyError(
            f"--tokenizer {path}: expected a {TOKENIZER}, or a folder with one (or {VOCAB} and {MERGES})"
        )
    return [path / name for name in names]


def tokenizer_file(files: list[Path], scratch: Callable[[], Path]) -> Path:
    """One readable ``tokenizer.json``: `files` is either that, or ``vocab.json`` and ``merges.txt``.

    Args:
        files: as `tokenizer_names` and `given_tokenizer` choose them.
        scratch: gives a folder to build in, if that is needed.

    Raises:
        CheckpointError: the files are damaged, or lack the special tokens of RoBERTa.
    """
    from tokenizers import Tokenizer

    if len(files) == 2:
        return _build(files[0], files[1], scratch() / TOKENIZER)
    try:
        tokenizer = Tokenizer.from_file(str(files[0]))
    except Exception as error:  # tokenizers raises bare Exception for every fault of the file
        raise CheckpointError(f"{files[0]} is not a tokenizer: {error}. Download it again.") from error
    _require_specials(files[0], tokenizer.get_vocab(with_added_tokens=True))
    return files[0]


def _build(vocab: Path, merges: Path, target: Path) -> Path:
    """RoBERTa's byte-level BPE, as transformers saves it for these checkpoints (same ids; padding to the longest)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    try:
        model = models.BPE.from_file(str(vocab), str(merges), continuing_subword_prefix="", end_of_word_suffix="")
    except Exception as error:  # tokenizers raises bare Exception for every fault of the files
        raise CheckpointError(f"{vocab} and {merges} are not a tokenizer: {error}. Download them again.") from error
    tokenizer = Tokenizer(model)
    ids = tokenizer.get_vocab()
    _require_specials(vocab, ids)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in _SPECIALS])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", ids["</s>"]), ("<s>", ids["<s>"]), add_prefix_space=False
    )
    tokenizer.enable_padding(pad_id=ids["<pad>"], pad_token="<pad>")
    tokenizer.save(str(target))
    return target


def _require_specials(path: Path, ids: dict[str, int]) -> None:
    missing = [token for token in (*_SPECIALS, "<mask>") if token not in ids]
    if missing:
        raise CheckpointError(
            f"{path} lacks the special tokens {' '.join(missing)}, so it is not the tokenizer of a CLAP text tower. "
            "Give the right one with --tokenizer."
        )
