"""Opens the checkpoint that a person named: an alias, a Hub repository or file, a folder or file here.

It finds the files, reads them lazily and records their hashes. It maps and converts nothing.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_clap.errors import AskedWronglyError

from .aliases import ALIASES, BROKEN, TOKENIZER_REPO, TOKENIZER_REVISION
from .errors import CheckpointError, SourceError
from .hub import Repository, is_repo_id, open_repository, progress_bar
from .lazy_tensor import LazyTensor
from .remote import HttpRangeSource
from .safetensors_file import read_safetensors
from .spool import spooled
from .state_dict import Layout, layout_of, state_dict
from .tokenizer_files import TOKENIZER, given_tokenizer, tokenizer_file, tokenizer_names
from .torch_file import read_torch_file

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
#: Since transformers 5 a processor is saved as one file, with the feature extractor's settings under a key of its own.
PROCESSOR, EXTRACTOR = "processor_config.json", "feature_extractor"
#: What a Hugging Face folder may hold its weights in, best first. An index names shards.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
_FILE_SUFFIXES = (*_TORCH_SUFFIXES, ".safetensors")
_ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True)
class SourceFile:
    """A file that was read, as provenance records it. `sha256` is None where `note` says why."""

    name: str
    size: int
    sha256: str | None
    note: str = ""


@dataclass
class Checkpoint:
    """An open checkpoint. Its tensors can be read, and its tokenizer exists, as long as the context lasts."""

    tensors: Mapping[str, LazyTensor]
    """Keys as stored: a ``module.`` prefix is still there."""
    layout: Layout
    config: dict[str, Any] | None
    """The parsed ``config.json``; None for a LAION file."""
    preprocessor: dict[str, Any] | None
    tokenizer: Path
    """A ``tokenizer.json``."""
    source: str
    """The alias' or the given repository (with file), or the absolute local path."""
    revision: str | None
    files: list[SourceFile] = field(default_factory=list)


@contextmanager
def open_checkpoint(
    source: str,
    *,
    revision: str | None = None,
    tokenizer: Path | None = None,
    cache: Path | None = None,
    force: bool = False,
) -> Iterator[Checkpoint]:
    """Open `source` for reading; a Hub source is downloaded first (a remote `.pt` as its tensors are read).

    Args:
        source: an alias, ``owner/name``, ``owner/name/file.pt``, or the path of a folder or file. What exists here
            comes before what may exist on the Hub.
        revision: commit, tag or branch of a Hub source; None is the alias' pinned commit, or the main branch.
        tokenizer: a ``tokenizer.json`` (or a folder with one) to use instead of the checkpoint's own.
        cache: the Hub cache's folder; None is huggingface_hub's own.
        force: also open a repository known to be broken.

    Raises:
        AskedWronglyError: `source` is ambiguous, or an option does not apply to it.
        SourceError: not found, not allowed, no network, disk full, wrong hash.
        CheckpointError: a file that is damaged, hostile, or of a kind that is not read.
    """
    with ExitStack() as stack:
        reading = _Reading(stack, cache, tokenizer)
        path = _here(source)
        if source in ALIASES:
            if path is not None:
                raise AskedWronglyError(
                    f"{source!r} is an alias of {ALIASES[source].repo} and also exists here: write ./{source} for "
                    f"what is here, or {ALIASES[source].repo} for the Hub's."
                )
            alias = ALIASES[source]
            repository = open_repository(alias.repo, revision or alias.revision, cache, _FILE_SUFFIXES)
            yield reading.hub(repository, alias.filename)
        elif path is not None:
            if revision is not None:
                raise AskedWronglyError(f"--revision is for Hub sources; {source} is a path here.")
            yield reading.folder(path) if path.is_dir() else reading.file(path)
        else:
            repo, filename = _hub_name(source)
            if repo.lower() in BROKEN and not force:
                raise SourceError(BROKEN[repo.lower()])
            try:
                repository = open_repository(repo, revision, cache, _FILE_SUFFIXES)
            except SourceError as error:
                raise SourceError(f"{error} (There is no file or folder {source!r} here either.)") from error
            yield reading.hub(repository, filename)


def _here(source: str) -> Path | None:
    """The file or folder that `source` names; None if there is none."""
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # a name too long for a path, or ~ of an unknown user
        return None


def _hub_name(source: str) -> tuple[str, str | None]:
    """Split a Hub source into ``owner/name`` and an optional file."""
    owner, _, rest = source.partition("/")
    name, _, filename = rest.partition("/")
    repo = f"{owner}/{name}"
    looks_like_a_path = source.startswith((".", "/", "~")) or (source.endswith(_FILE_SUFFIXES) and not filename)
    if looks_like_a_path or not is_repo_id(repo) or (filename and not filename.endswith(_TORCH_SUFFIXES)):
        raise AskedWronglyError(
            f"There is no file or folder {source!r} here, and it is no Hub id (owner/name or owner/name/file.pt) and "
            f"no alias ({', '.join(ALIASES)}). Check the path or the spelling."
        )
    return repo, filename or None


def choose_weights(names: Collection[str], where: str) -> str:
    """The weights file (or shard index) to read among `names`; safetensors come first.

    Raises:
        CheckpointError: there is none, with a hint at what there is instead.
    """
    for name in _WEIGHTS:
        if name in names:
            return name
    if "weights.safetensors" in names and "provenance.json" in names:
        raise CheckpointError(f"{where} is a converted model already. Use it as it is: --model {where}")
    others = sorted(name for name in names if name.endswith(_FILE_SUFFIXES))
    if others:
        raise CheckpointError(
            f"{where} holds no {' or '.join(_WEIGHTS[::2])}, but {len(others)} other weight files. Name the one you "
            f"want, for example {where}/{others[0]} (there are: {', '.join(others[:10])})."
        )
    raise CheckpointError(f"{where} holds no weights ({', '.join(_WEIGHTS[::2])}): it is not a checkpoint.")


class _Reading:
    """One opening of a checkpoint: collects the hashes of what is read, and what must be undone at the end."""

    def __init__(self, stack: ExitStack, cache: Path | None, tokenizer: Path | None) -> None:
        self._stack = stack
        self._cache = cache
        self._tokenizer = given_tokenizer(tokenizer) if tokenizer is not None else []
        self._files: list[SourceFile] = []

    def folder(self, folder: Path) -> Checkpoint:
        """A Hugging Face folder here."""
        names = _names_in(folder)
        return self._huggingface(
            names, lambda name: self._local(folder / name), str(folder), str(folder.resolve()), None
        )

    def file(self, path: Path) -> Checkpoint:
        """A single file here; its config and tokenizer may stand beside it."""
        tensors = self._tensors(self._local(path), path.name)
        layout = layout_of(tensors, str(path))
        beside = _names_in(path.parent)

        def beside_it(name: str) -> Path:
            return self._local(path.parent / name)

        config = preprocessor = None
        if layout == "hf":
            config, preprocessor = self._configs(beside, beside_it, str(path))
        tokenizer = self._own_tokenizer(beside, beside_it) or self._laion_tokenizer(layout, str(path))
        return Checkpoint(tensors, layout, config, preprocessor, tokenizer, str(path.resolve()), None, self._files)

    def hub(self, repository: Repository, filename: str | None) -> Checkpoint:
        """A Hub repository, or one `.pt` file of it."""
        repo = repository.repo
        if filename is None:
            return self._huggingface(
                repository.names, lambda name: self._remote(repository, name), repo, repo, repository.commit
            )
        if filename not in repository.names:
            there = sorted(name for name in repository.names if name.endswith(_TORCH_SUFFIXES))[:10]
            raise SourceError(
                f"{repo} holds no file {filename}, only {', '.join(there) or 'no weights'}. Check the name."
            )
        tensors = self._remote_file(repository, filename)
        layout = layout_of(tensors, filename)
        if layout == "hf":
            raise CheckpointError(
                f"{repo}/{filename} is in Hugging Face's layout: convert the repository, {repo}, instead."
            )
        tokenizer = self._own_tokenizer((), lambda name: self._remote(repository, name))
        tokenizer = tokenizer or self._laion_tokenizer(layout, repo)
        return Checkpoint(tensors, layout, None, None, tokenizer, f"{repo}/{filename}", repository.commit, self._files)

    def _huggingface(
        self, names: Collection[str], get: Callable[[str], Path], where: str, source: str, revision: str | None
    ) -> Checkpoint:
        """A folder in Hugging Face's form, wherever its files are; small ones first, so that a mistake costs little."""
        weights = choose_weights(names, where)
        config, preprocessor = self._configs(names, get, where)
        tokenizer = self._own_tokenizer(names, get)
        tensors = (
            self._sharded(get(weights), get, where)
            if weights.endswith(".json")
            else self._tensors(get(weights), weights)
        )
        layout = layout_of(tensors, f"{where}/{weights}")
        tokenizer = tokenizer or self._laion_tokenizer(layout, where)
        return Checkpoint(tensors, layout, config, preprocessor, tokenizer, source, revision, self._files)

    def _configs(
        self, names: Collection[str], get: Callable[[str], Path], where: str
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        if CONFIG not in names:
            raise CheckpointError(
                f"{where} has no {CONFIG} beside its weights, so its shape is not known. Put it there."
            )
        config = _read_object(get(CONFIG))
        if config.get("model_type", "clap") != "clap":
            raise CheckpointError(f"{where} is a checkpoint of type {config['model_type']!r}; only `clap` is read.")
        if PREPROCESSOR in names:
            return config, _read_object(get(PREPROCESSOR))
        extractor = _read_object(get(PROCESSOR)).get(EXTRACTOR) if PROCESSOR in names else None
        return config, extractor if isinstance(extractor, dict) else None

    def _sharded(self, index: Path, get: Callable[[str], Path], where: str) -> dict[str, LazyTensor]:
        """The shards an index names, as one; their keys must be exactly those the index lists."""
        where_is = _read_object(index).get("weight_map")
        if not isinstance(where_is, dict) or not all(_is_plain_name(name) for name in where_is.values()):
            raise CheckpointError(f"{where}/{index.name} has no usable `weight_map`. Download it again.")
        tensors: dict[str, LazyTensor] = {}
        for shard in sorted(set(where_is.values())):
            for key, tensor in self._tensors(get(shard), shard).items():
                if where_is.get(key) != shard:
                    raise CheckpointError(
                        f"{where}/{shard} holds {key}, which its index does not place there. Download it again."
                    )
                tensors[key] = tensor
        if missing := sorted(set(where_is) - set(tensors)):
            raise CheckpointError(
                f"{where}: {len(missing)} tensors are in no shard, first {missing[0]}. Download it again."
            )
        return tensors

    def _tensors(self, path: Path, name: str) -> Mapping[str, LazyTensor]:
        if name.endswith(".safetensors"):
            return read_safetensors(path)
        return state_dict(read_torch_file(path), str(path))

    def _remote_file(self, repository: Repository, filename: str) -> Mapping[str, LazyTensor]:
        """Read a `.pt` through byte ranges, or download it whole where that is not possible (or it is here already)."""
        if repository.cached(filename) is None:
            ranges = HttpRangeSource.open(repository.url(filename), repository.headers())
            if ranges is not None and ranges.size >= 4 and ranges.read(0, 4) == _ZIP_MAGIC:
                note = "file hash not verified; CRC-32 of each record read was checked"
                self._files.append(SourceFile(f"{repository.repo}/{filename}", ranges.size, None, note))
                bar = self._stack.enter_context(progress_bar(filename))
                source = self._stack.enter_context(spooled(ranges, repository.scratch(filename), bar.update))
                return state_dict(read_torch_file(source), filename)
        return self._tensors(self._remote(repository, filename), filename)

    def _own_tokenizer(self, names: Collection[str], get: Callable[[str], Path]) -> Path | None:
        """The tokenizer that was given, or the checkpoint's own, if it has one."""
        if self._tokenizer:
            return tokenizer_file([self._local(path) for path in self._tokenizer], self._scratch)
        own = tokenizer_names(names)
        return tokenizer_file([get(name) for name in own], self._scratch) if own else None

    def _laion_tokenizer(self, layout: Layout, where: str) -> Path:
        """LAION's training files hold no tokenizer: the one they were trained with, from the Hub."""
        if layout == "hf":
            raise CheckpointError(
                f"{where} has no tokenizer.json, nor vocab.json and merges.txt. Give one with --tokenizer PATH."
            )
        shared = open_repository(TOKENIZER_REPO, TOKENIZER_REVISION, self._cache, (TOKENIZER,))
        return tokenizer_file([self._remote(shared, TOKENIZER)], self._scratch)

    def _local(self, path: Path) -> Path:
        """Record a file here, with its hash."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._files.append(SourceFile(path.name, path.stat().st_size, digest))
        except OSError as error:
            raise SourceError(
                f"{path} cannot be read: {error.strerror}. Check that it is there and readable."
            ) from error
        return path

    def _remote(self, repository: Repository, name: str) -> Path:
        """Fetch a file of the Hub and record it, with its verified hash."""
        path, digest = repository.fetch(name)
        self._files.append(SourceFile(f"{repository.repo}/{name}", path.stat().st_size, digest))
        return path

    def _scratch(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mlxclap-")))


def _names_in(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir() if entry.is_file()}
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}. Check its permissions.") from error


def _is_plain_name(name: object) -> bool:
    """Whether a shard's name stays within its folder."""
    return isinstance(name, str) and name.endswith(_FILE_SUFFIXES) and "/" not in name and "\\" not in name


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}. Download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object. Download it again.")
    return value
