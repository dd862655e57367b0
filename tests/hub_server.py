"""A server on 127.0.0.1 that speaks as much of the Hugging Face Hub's protocol as huggingface_hub needs to download.

Every folder ``owner--name/`` below the served folder is the repository ``owner/name``. Files are answered as the
Hub answers them: small ones by a redirect within it, large ones by a redirect to another origin (``localhost``
instead of ``127.0.0.1``) that honours ranges.

As a script, for trying things by hand::

    python tests/hub_server.py FOLDER --port 8000
    HF_ENDPOINT=http://127.0.0.1:8000 mlxclap convert laion/clap-htsat-unfused
"""

import argparse
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import pytest

LARGE = (".bin", ".pt", ".safetensors")
#: The commit that `main` names. Any other 40 hex digits name the same content, so that pinned revisions work.
COMMIT = "c0ffee" + "0" * 34
#: The size of the stand-in's vocabulary: 256 bytes, 5 special tokens, some merges.
STAND_IN_TOKENS = 300
_API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?/?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_CACHE = re.compile(r"/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)")
_CDN = re.compile(r"/cdn/([^/]+/[^/]+)/(.+)")


@dataclass
class Behaviour:
    """How the server misbehaves. Names are file names; repositories are ``owner/name``."""

    drop_after: dict[str, int] = field(default_factory=dict)
    """Close the connection after so many bytes of this file, once."""
    stall_after: dict[str, int] = field(default_factory=dict)
    """Send so many bytes of this file, then nothing more for a minute, once."""
    wrong_bytes: set[str] = field(default_factory=set)
    """Serve other bytes than were announced."""
    announced_size: dict[str, int] = field(default_factory=dict)
    """Say that a file is so long."""
    no_ranges: bool = False
    private: set[str] = field(default_factory=set)
    """Repositories that answer 401 to everyone without `token`."""
    gated: set[str] = field(default_factory=set)
    token: str = "hf_let_me_in"


@dataclass
class Request:
    """One line of the log."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int = 0
    sent: int = 0


class HubServer(ThreadingHTTPServer):
    """The server; `log` holds every request, `behaviour` may be changed while it runs."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.folder = folder
        self.behaviour = Behaviour()
        self.log: list[Request] = []
        self._digests: dict[tuple[Path, int, int], tuple[str, str]] = {}

    @property
    def url(self) -> str:
        """What to put into HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def sent(self, name: str) -> int:
        """Bytes of the file `name` that went out so far."""
        return sum(request.sent for request in self.log if request.path.endswith(f"/{name}"))

    def repository(self, repo: str) -> Path | None:
        """The folder of a repository that is served."""
        folder = self.folder / repo.replace("/", "--")
        return folder if folder.is_dir() else None

    def digests(self, path: Path) -> tuple[str, str]:
        """SHA-256 and git blob id, calculated once for a file as it is."""
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % status.st_size)
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    sha256.update(block)
                    git.update(block)
            self._digests[key] = sha256.hexdigest(), git.hexdigest()
        return self._digests[key]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the tests, not news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:
        """The log is `HubServer.log`."""

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.entry = Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        self.server.log.append(self.entry)
        if match := _CDN.fullmatch(path):
            folder = self.server.repository(match[1])
            if folder is not None and (folder / match[2]).is_file():
                self._send_file(folder / match[2], {"Accept-Ranges": "bytes"})
            else:
                self._send(404)
        elif match := _CACHE.fullmatch(path):
            if (folder := self._allowed(match[1])) is not None:
                etag = f'"{self.server.digests(folder / match[3])[1]}"'
                self._send_file(folder / match[3], {"X-Repo-Commit": match[2], "ETag": etag})
        elif match := _API.fullmatch(path):
            self._api(match[1], match[2], match[3] or "main")
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match[1], match[2], match[3])
        else:
            self._send(404)

    def _allowed(self, repo: str) -> Path | None:
        """The repository's folder; None when a refusal was sent."""
        behaviour, folder = self.server.behaviour, self.server.repository(repo)
        knows = self.entry.authorization == f"Bearer {behaviour.token}"
        if self.entry.authorization and not knows:
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif folder is None or (repo in behaviour.private and not knows):
            # As the Hub does: who may not see a repository is not told whether it exists.
            self._send(
                404 if knows else 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            )
        else:
            return folder
        return None

    def _commit(self, revision: str) -> str | None:
        if revision == "main":
            return COMMIT
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            return revision
        self._send(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        return None

    def _api(self, repo: str, what: str | None, revision: str) -> None:
        if (folder := self._allowed(repo)) is None or (commit := self._commit(revision)) is None:
            return
        entries = []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name, (sha256, git) = path.relative_to(folder).as_posix(), self.server.digests(path)
                size, large = path.stat().st_size, path.name.endswith(LARGE)
                lfs = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": 134} if large else None
                entry: dict[str, Any] = {"type": "file", "oid": git, "size": size, "path": name, "rfilename": name}
                entries.append(entry | ({"lfs": lfs} if lfs else {}))
        answer: Any = entries
        if what != "tree":
            answer = {"id": repo, "modelId": repo, "sha": commit, "private": False, "tags": [], "siblings": entries}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        if (folder := self._allowed(repo)) is None or (commit := self._commit(revision)) is None:
            return
        headers = {"X-Repo-Commit": commit}
        path = folder / name
        if repo in self.server.behaviour.gated and self.entry.authorization is None:
            self._send(401, headers | {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"})
        elif not path.is_file():
            self._send(404, headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif path.name.endswith(LARGE):
            headers["X-Linked-Etag"] = f'"{self.server.digests(path)[0]}"'
            headers["X-Linked-Size"] = str(self.server.behaviour.announced_size.get(name, path.stat().st_size))
            headers["Location"] = f"http://localhost:{self.server.server_port}/cdn/{repo}/{name}"
            self._send(302, headers)
        else:
            headers |= {"ETag": f'"{self.server.digests(path)[1]}"', "X-Linked-Size": str(path.stat().st_size)}
            self._send(307, headers | {"Location": f"/api/resolve-cache/models/{repo}/{commit}/{name}"})

    def _send_file(self, path: Path, headers: dict[str, str]) -> None:
        size = path.stat().st_size
        start, stop, status = 0, size, 200
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.entry.range or "")
        if asked and not self.server.behaviour.no_ranges:
            status = 206
            if asked[1]:
                start, stop = int(asked[1]), min(int(asked[2] or size - 1) + 1, size)
            else:
                start = max(0, size - int(asked[2]))
            if start >= stop:
                self._send(416, {"Content-Range": f"bytes */{size}"})
                return
            headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        if self.server.behaviour.no_ranges:
            headers.pop("Accept-Ranges", None)
        self._head(status, headers | {"Content-Length": str(stop - start), "Content-Type": "application/octet-stream"})
        if self.command == "GET":
            self._send_bytes(path, start, stop)

    def _send_bytes(self, path: Path, start: int, stop: int) -> None:
        behaviour = self.server.behaviour
        drop, stall = behaviour.drop_after.pop(path.name, None), behaviour.stall_after.pop(path.name, None)
        limit = next((cut for cut in (drop, stall) if cut is not None), stop - start)
        with path.open("rb") as file:
            file.seek(start)
            while self.entry.sent < min(limit, stop - start):
                block = file.read(min(1 << 16, stop - start - self.entry.sent, limit - self.entry.sent))
                if path.name in behaviour.wrong_bytes:
                    block = bytes(byte ^ 1 for byte in block)
                self.wfile.write(block)
                self.entry.sent += len(block)
        if stall is not None:
            self.wfile.flush()
            time.sleep(60)
        if limit < stop - start:
            self.close_connection = True

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self._head(status, (headers or {}) | {"Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)
            self.entry.sent += len(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.entry.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serve(folder: Path) -> Iterator[HubServer]:
    """Serve the repositories below `folder` on a free port until the context ends."""
    server = HubServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(patch: "pytest.MonkeyPatch", server: HubServer, home: Path) -> None:
    """Make huggingface_hub in this process use `server` and keep its cache below `home`, not the user's."""
    from huggingface_hub import constants

    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        patch.delenv(name)
    patch.setenv("HF_ENDPOINT", server.url)
    patch.setenv("HF_HOME", str(home))
    patch.setenv("NO_PROXY", "127.0.0.1,localhost")
    # huggingface_hub reads these when it is imported; by now that may have happened.
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))


def small_files(repo: str, target: Path) -> Path:
    """Make the folder of repository `repo` below `target`, with its config and tokenizer files but no weights.

    They are the published ones, byte for byte, from the folder `MLXCLAP_TEST_HUB_FILES` where that is set and has them;
    else stand-ins made on the spot: a small byte-level BPE and a small config (fused if the repository's name says so).
    """
    folder = target / repo.replace("/", "--")
    folder.mkdir(parents=True, exist_ok=True)
    published = os.environ.get("MLXCLAP_TEST_HUB_FILES")
    if published and (source := Path(published) / folder.name).is_dir():
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder
    _stand_in_tokenizer(folder)
    fusion = "fused" in repo and "unfused" not in repo
    audio: dict[str, Any] = {"enable_fusion": fusion, "patch_embeds_hidden_size": 16, "hidden_size": 128}
    audio |= {"depths": [2, 1, 2, 1] if fusion else [2, 2, 2, 2], "num_attention_heads": [2, 2, 4, 4]}
    text = {"vocab_size": STAND_IN_TOKENS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"intermediate_size": 128, "max_position_embeddings": 130}
    config = {"model_type": "clap", "projection_dim": 512, "audio_config": audio, "text_config": text}
    (folder / "config.json").write_text(json.dumps(config))
    preprocessor = {"frequency_min": 50, "truncation": "fusion" if fusion else "rand_trunc", "padding": "repeatpad"}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def _stand_in_tokenizer(folder: Path) -> None:
    """A byte-level BPE trained on a few words: tokenizer.json, vocab.json, merges.txt, as transformers saves them."""
    from tokenizers import AddedToken, ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing

    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = ByteLevelBPETokenizer(add_prefix_space=False)
    texts = ["a dog barking in the rain", "the sound of a piano", "a person speaking, then music"] * 4
    tokenizer.train_from_iterator(
        texts, vocab_size=STAND_IN_TOKENS, min_frequency=2, special_tokens=[*specials, "<mask>"], show_progress=False
    )
    tokenizer.save_model(str(folder))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    inner = tokenizer._tokenizer
    inner.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    inner.enable_padding(pad_id=1, pad_token="<pad>")
    inner.save(str(folder / "tokenizer.json"))


def main() -> None:
    """Serve a folder until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description="Serve repository folders (owner--name/) as the Hugging Face Hub does."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    with HubServer(arguments.folder, arguments.port) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
