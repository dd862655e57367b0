"""The Hugging Face Hub: which files a repository holds, and their bytes, whole and verified, in the Hub's own cache.

Built on huggingface_hub, so tokens, proxies, `HF_HOME` and `HF_ENDPOINT` work as people know them. Two things are
done here because huggingface_hub does not do them: a download cut short goes on where it stopped when the command is
run again, and the hash of every file is checked. It does not know what the files mean.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SourceError

_DEFAULT_ENDPOINT = "https://huggingface.co"
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ANSWER_TIMEOUT_S = 30.0
_LOG_IN = "Log in with `hf auth login`, or put a token with access into HF_TOKEN"


def is_repo_id(text: str) -> bool:
    """Whether `text` has the form ``owner/name``."""
    return _REPO_ID.fullmatch(text) is not None


def endpoint() -> str:
    """The Hub's address: `HF_ENDPOINT` as it is now, or the public Hub."""
    return (os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")


def progress_bar(name: str) -> Any:
    """A bar of bytes like huggingface_hub's own, on a terminal only: a context manager with `update`."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    return tqdm(desc=name, unit="B", unit_scale=True, disable=None)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Repository:
    """One repository at one commit. `names` are the files it holds (paths with `/`)."""

    repo: str
    commit: str
    names: frozenset[str]
    cache: Path

    def url(self, name: str) -> str:
        """Where the file `name` is served."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, name, revision=self.commit, endpoint=endpoint())

    def headers(self) -> dict[str, str]:
        """The headers every request for a file carries: user agent and, if there is one, the token."""
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        # Identity: a compressed answer has no length to check and cannot be resumed.
        return {**build_hf_headers(library_name="mlx-clap"), "Accept-Encoding": "identity"}

    def cached(self, name: str) -> Path | None:
        """The file `name` in the Hub's cache, or None when it is not there. No network."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, name, cache_dir=self.cache, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def scratch(self, name: str) -> Path:
        """A path in the cache, out of huggingface_hub's way, for what is kept of `name` meanwhile."""
        return _storage_folder(self.cache, self.repo) / "blobs" / f"{self.commit}.{Path(name).name}.mlxclap-ranges"

    def fetch(self, name: str) -> tuple[Path, str]:
        """The file `name` on disk, downloaded unless it is there already, and its SHA-256.

        Raises:
            SourceError: not there, not allowed, no network, disk full, or its bytes are not what the Hub announced.
        """
        path = self.cached(name)
        if path is None:
            with hub_errors(self.repo, self.commit, name):
                path = self._download(name)
        return path, self._verify(name, path)

    def _download(self, name: str) -> Path:
        """Bring `name` into the cache: resume its partial file, then let huggingface_hub link it into the snapshot."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_download
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

        metadata = get_hf_file_metadata(self.url(name), headers=self.headers(), endpoint=endpoint())
        if metadata.etag and "/" not in metadata.etag:
            blob = _storage_folder(self.cache, self.repo) / "blobs" / metadata.etag
            partial = blob.with_name(f"{blob.name}.mlxclap-partial")
            blob.parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(blob.with_name(f"{blob.name}.mlxclap-lock")):
                if not blob.exists():
                    have = _usable_size(partial, metadata.size)
                    _require_space(blob.parent, (metadata.size or 0) - have, name)
                    with partial.open("ab") as file:
                        http_get(
                            self.url(name),
                            file,
                            resume_size=have,
                            headers=self.headers(),
                            expected_size=metadata.size,
                            displayed_filename=name,
                        )
                        os.fsync(file.fileno())
                    partial.replace(blob)
            blob.with_name(f"{blob.name}.mlxclap-lock").unlink(missing_ok=True)
        # The blob is in its place by now: this only links it (and downloads where the server names no etag).
        return Path(
            hf_hub_download(
                self.repo,
                name,
                revision=self.commit,
                endpoint=endpoint(),
                cache_dir=self.cache,
                headers=self.headers(),
            )
        )

    def _verify(self, name: str, path: Path) -> str:
        """The SHA-256 of `path`, after checking it against the hash the Hub announced (the name of the cached blob)."""
        blob = path.resolve()
        digest, git_digest = _digests(blob)
        announced = blob.name
        actual = digest if _SHA256.fullmatch(announced) else git_digest if _COMMIT.fullmatch(announced) else announced
        if actual != announced:
            blob.unlink()
            path.unlink(missing_ok=True)
            raise SourceError(
                f"{name} of {self.repo} is not the file the Hub announced: hash {actual[:12]}…, expected "
                f"{announced[:12]}…. The wrong copy was deleted; run the command again to download it afresh."
            )
        return digest


def open_repository(
    repo: str, revision: str | None = None, cache: Path | None = None, needed: tuple[str, ...] = ("",)
) -> Repository:
    """Look a repository up: its commit and its files. Without a network, what the cache holds of it.

    Args:
        repo: ``owner/name``.
        revision: commit, tag or branch; None is the main branch.
        cache: the Hub cache's folder; None is huggingface_hub's own (`HF_HOME`, `HF_HUB_CACHE`).
        needed: without a network, the cache will do only if it holds a file that ends in one of these.

    Raises:
        SourceError: no such repository or revision, no access, or no network and nothing cached.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    folder = cache or Path(constants.HF_HUB_CACHE)
    with hub_errors(repo, revision, None):
        try:
            info = HfApi(endpoint=endpoint()).model_info(repo, revision=revision, timeout=_ANSWER_TIMEOUT_S)
        except (httpx.TransportError, OfflineModeIsEnabled):
            offline = _cached_repository(repo, revision or "main", folder)
            if offline is None or not any(name.endswith(needed) for name in offline.names):
                raise
            return offline
    if info.sha is None:
        raise SourceError(f"{endpoint()} did not say which commit of {repo} it serves. Check HF_ENDPOINT.")
    return Repository(repo, info.sha, frozenset(file.rfilename for file in info.siblings or ()), folder)


def _cached_repository(repo: str, revision: str, cache: Path) -> Repository | None:
    """What an earlier download left of `repo` at `revision`; None when nothing did."""
    storage = _storage_folder(cache, repo)
    ref = storage / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    snapshot = storage / "snapshots" / commit
    if not snapshot.is_dir():
        return None
    names = frozenset(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())
    return Repository(repo, commit, names, cache)


def _storage_folder(cache: Path, repo: str) -> Path:
    """Where huggingface_hub's cache keeps a model repository."""
    return cache / f"models--{repo.replace('/', '--')}"


def _usable_size(partial: Path, size: int | None) -> int:
    """How many bytes an interrupted download left; a partial file that cannot be right is deleted."""
    if not partial.exists():
        return 0
    have = partial.stat().st_size
    if size is None or have > size:
        partial.unlink()
        return 0
    return have


def _require_space(folder: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SourceError(
            f"There is no room for {name}: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free in {folder}. "
            "Free some space, or point HF_HOME to another disk."
        )


def _digests(path: Path) -> tuple[str, str]:
    """SHA-256 of a file, and its git blob id (SHA-1), in one pass: the Hub announces the one or the other."""
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            git.update(block)
    return sha256.hexdigest(), git.hexdigest()


@contextmanager
def hub_errors(repo: str, revision: str | None, name: str | None) -> Iterator[None]:
    """Turn whatever a request to the Hub raises into a `SourceError` that says what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    what = f"{name} of {repo}" if name else repo
    try:
        yield
    except GatedRepoError as error:
        raise SourceError(
            f"{what} is gated: accept its terms at {endpoint()}/{repo}, then try again. {_LOG_IN}."
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"The Hub ({endpoint()}) has no repository {repo}, or it is private. Check the spelling. {_LOG_IN} "
            "if the repository is private."
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(
            f"{repo} has no revision {revision}. Leave --revision out for the newest, or see "
            f"{endpoint()}/{repo}/commits."
        ) from error
    except OfflineModeIsEnabled as error:
        raise SourceError(
            f"{what} is not in the cache and HF_HUB_OFFLINE forbids the network. Unset it and try again."
        ) from error
    except RemoteEntryNotFoundError as error:
        raise SourceError(
            f"{repo} at {(revision or 'main')[:12]} holds no file {name}. See {endpoint()}/{repo}/tree/main."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            message = f"The Hub refuses {what} (HTTP {status}). {_LOG_IN}."
        elif status == 429:
            message = f"The Hub answers that there were too many requests (HTTP 429) for {what}. Wait, then try again."
        else:
            message = f"The Hub ({endpoint()}) answered HTTP {status} for {what}. Try again later."
        raise SourceError(message) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise SourceError(
            f"{what} could not be fetched from {endpoint()}: {reason}. Check the network (and HF_ENDPOINT, if set), "
            "then run the command again: a download goes on where it stopped."
        ) from error
    except HFValidationError as error:
        raise SourceError(f"{repo!r} is not a Hub repository id; one looks like owner/name.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = (
                f"The disk is full: {what} could not be stored. Free some space, or point HF_HOME to another disk."
            )
        else:
            message = (
                f"{what} could not be fetched: {error}. Run the command again: a download goes on where it stopped."
            )
        raise SourceError(message) from error
