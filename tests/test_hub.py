"""Downloads from a server on 127.0.0.1 that speaks the Hub's protocol: what arrives, what is asked for and said."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import HubServer, serve, small_files, use_hub
from mlx_clap_convert.errors import SourceError
from mlx_clap_convert.hub import open_repository

REPO = "someone/clap"
WEIGHTS = "pytorch_model.bin"
SIZE = 24_000_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one repository whose weights are 24 MB of noise."""
    folder = tmp_path_factory.mktemp("hub")
    (small_files(REPO, folder) / WEIGHTS).write_bytes(os.urandom(SIZE))
    return folder


@pytest.fixture
def hub(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The server, and huggingface_hub pointed at it with an empty cache."""
    with serve(served) as server:
        use_hub(monkeypatch, server, tmp_path)
        yield server


def stored_files(home: Path) -> list[Path]:
    """Every file with content in the Hub's cache, except its own notes."""
    return [
        path for path in (home / "hub").rglob("*") if path.is_file() and path.stat().st_size and path.suffix != ".TAG"
    ]


def test_a_file_is_downloaded_once_and_its_hash_is_checked(hub: HubServer, served: Path) -> None:
    path, digest = open_repository(REPO).fetch(WEIGHTS)

    content = (served / "someone--clap" / WEIGHTS).read_bytes()
    assert path.read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()
    before = len(hub.log)
    assert open_repository(REPO).fetch(WEIGHTS) == (path, digest)
    assert [request.path for request in hub.log[before:]] == [f"/api/models/{REPO}"]
    assert hub.sent(WEIGHTS) == SIZE


def test_the_cache_is_the_one_other_tools_use(hub: HubServer) -> None:
    from huggingface_hub import hf_hub_download

    ours, _ = open_repository(REPO).fetch("config.json")
    sent = hub.sent("config.json")

    theirs = hf_hub_download(REPO, "config.json", endpoint=hub.url)

    assert Path(theirs).resolve() == ours.resolve()
    assert hub.sent("config.json") == sent


def test_a_pinned_revision_is_asked_for_and_recorded(hub: HubServer) -> None:
    commit = "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a"

    repository = open_repository(REPO, commit)
    repository.fetch("config.json")

    assert repository.commit == commit
    assert all(commit in request.path for request in hub.log)


def test_the_token_reaches_the_hub_and_never_the_content_server(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.behaviour.private.add(REPO)
    monkeypatch.setenv("HF_TOKEN", hub.behaviour.token)

    open_repository(REPO).fetch(WEIGHTS)

    to_content_server = [request for request in hub.log if request.path.startswith("/cdn/")]
    assert to_content_server and all(request.authorization is None for request in to_content_server)
    assert {r.authorization for r in hub.log if r not in to_content_server} == {f"Bearer {hub.behaviour.token}"}


def test_a_dropped_connection_is_taken_up_where_it_broke(hub: HubServer, served: Path) -> None:
    hub.behaviour.drop_after[WEIGHTS] = 21_000_000

    path, _ = open_repository(REPO).fetch(WEIGHTS)

    assert path.read_bytes() == (served / "someone--clap" / WEIGHTS).read_bytes()
    first, second = (r for r in hub.log if r.method == "GET" and r.path.startswith("/cdn/"))
    assert first.range is None and second.range is not None
    assert hub.sent(WEIGHTS) < SIZE + 1_000_000


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_resumes_in_the_next_run(
    hub: HubServer, served: Path, tmp_path: Path, end: signal.Signals
) -> None:
    hub.behaviour.stall_after[WEIGHTS] = 23_000_000
    code = f"from mlx_clap_convert.hub import open_repository; open_repository({REPO!r}).fetch({WEIGHTS!r})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as first:
        wait_for(lambda: any(path.stat().st_size > 20_000_000 for path in tmp_path.rglob("*-partial")))
        first.send_signal(end)
        errors = first.communicate(timeout=20)[1]
    assert first.returncode != 0
    assert end == signal.SIGKILL or "KeyboardInterrupt" in errors
    before = hub.sent(WEIGHTS)

    path, _ = open_repository(REPO).fetch(WEIGHTS)

    assert path.read_bytes() == (served / "someone--clap" / WEIGHTS).read_bytes()
    assert 0 < hub.sent(WEIGHTS) - before < 4_000_000


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_wrong_bytes_are_refused_deleted_and_fetched_afresh(hub: HubServer, tmp_path: Path, name: str) -> None:
    hub.behaviour.wrong_bytes.add(name)
    repository = open_repository(REPO)

    with pytest.raises(
        SourceError, match=rf"{name} of {REPO} is not the file the Hub announced.*run the command again"
    ):
        repository.fetch(name)

    assert not [path for path in stored_files(tmp_path) if path.parent.name in ("blobs", repository.commit)]
    hub.behaviour.wrong_bytes.clear()
    assert repository.fetch(name)[0].is_file()


def test_a_cached_file_that_was_damaged_since_is_refused_too(hub: HubServer) -> None:
    repository = open_repository(REPO)
    path, _ = repository.fetch(WEIGHTS)
    with path.open("r+b") as file:
        file.write(b"damage")

    with pytest.raises(SourceError, match="is not the file the Hub announced"):
        repository.fetch(WEIGHTS)

    assert repository.fetch(WEIGHTS)[0].stat().st_size == SIZE


def test_a_file_that_does_not_fit_the_disk_is_not_begun(hub: HubServer) -> None:
    hub.behaviour.announced_size[WEIGHTS] = 10**18

    with pytest.raises(SourceError, match=rf"no room for {WEIGHTS}.*HF_HOME"):
        open_repository(REPO).fetch(WEIGHTS)

    assert hub.sent(WEIGHTS) == 0


def test_an_unknown_repository_is_named(hub: HubServer) -> None:
    with pytest.raises(SourceError, match=r"no repository someone/else.*spelling.*hf auth login"):
        open_repository("someone/else")


def test_a_private_repository_says_how_to_log_in(hub: HubServer) -> None:
    hub.behaviour.private.add(REPO)
    with pytest.raises(SourceError, match=r"private.*`hf auth login`.*HF_TOKEN"):
        open_repository(REPO)


def test_a_gated_repository_says_to_accept_its_terms(hub: HubServer) -> None:
    hub.behaviour.gated.add(REPO)
    with pytest.raises(SourceError, match=rf"is gated: accept its terms at {hub.url}/{REPO}.*HF_TOKEN"):
        open_repository(REPO).fetch(WEIGHTS)


def test_a_wrong_token_is_said_to_be_refused(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SourceError, match=r"refuses someone/clap \(HTTP 401\).*hf auth login"):
        open_repository(REPO)


def test_an_unknown_revision_is_named(hub: HubServer) -> None:
    with pytest.raises(SourceError, match="someone/clap has no revision v9"):
        open_repository(REPO, "v9")


def test_an_unknown_file_is_named(hub: HubServer) -> None:
    with pytest.raises(SourceError, match=r"someone/clap at c0ffee000000 holds no file weights\.pt"):
        open_repository(REPO).fetch("weights.pt")


def test_no_network_says_what_to_check(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"someone/clap could not be fetched from http://127\.0\.0\.1:9.*network"):
        open_repository(REPO)


def test_a_network_lost_between_files_says_what_to_check(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = open_repository(REPO)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        SourceError, match=r"config\.json of someone/clap could not be fetched.*goes on where it stopped"
    ):
        repository.fetch("config.json")


def test_without_a_network_a_pinned_revision_comes_from_the_cache(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a"
    fetched = open_repository(REPO, commit).fetch("config.json")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    offline = open_repository(REPO, commit)

    assert (offline.commit, offline.names) == (commit, frozenset({"config.json"}))
    assert offline.fetch("config.json") == fetched


def wait_for(condition: object, seconds: float = 20.0) -> None:
    """Return once `condition()` holds."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
