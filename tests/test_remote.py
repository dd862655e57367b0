"""`remote`: only the needed bytes of a file behind HTTP are fetched, through drops, redirects and busy servers."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_clap_convert import remote
from mlx_clap_convert.errors import CheckpointError, SourceError
from mlx_clap_convert.remote import HttpRangeSource
from mlx_clap_convert.torch_file import read_torch_file
from torch_writer import without_checksums, write_torch_legacy, write_torch_zip

open_source = partial(HttpRangeSource.open, first_pause_s=0.01)


@dataclass
class Site:
    """One file on 127.0.0.1; its fields are switches for what goes wrong, and what was asked of it."""

    data: bytes
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)  # answered first, in this order
    drops: list[int] = field(default_factory=list)  # the next bodies are cut after so many bytes
    too_much: bytes = b""  # sent after the range asked for
    redirect: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    authorized: list[bool] = field(default_factory=list)
    sent: int = 0
    connections: int = 0


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client may hang up: some tests want just that."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def setup(self) -> None:
        super().setup()
        self.site.connections += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        site, asked = self.site, self.headers.get("Range", "")
        site.asked.append(asked)
        site.authorized.append("Authorization" in self.headers)
        if site.redirect:
            return self.answer(302, b"", Location=site.redirect)
        if site.statuses:
            return self.answer(site.statuses.pop(0), b"no", **{"Retry-After": "0"})
        if not site.ranges:
            return self.answer(200, site.data)
        first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
        body = site.data[first : last + 1] + site.too_much
        end = min(last, len(site.data) - 1)
        self.answer(206, body, **{"Content-Range": f"bytes {first}-{end}/{len(site.data)}"})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if status == 206 and self.site.drops:
            body = body[: self.site.drops.pop(0)]
            self.close_connection = True
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the client has had enough
        self.site.sent += len(body)


@pytest.fixture
def serve() -> Iterator[Any]:
    """Serve a `Site`; several at once, each its own origin."""
    servers = []

    def start(data: bytes, **switches: Any) -> Site:
        site = Site(data, **switches)
        server = Server(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        site.url = f"http://127.0.0.1:{server.server_port}/repo/resolve/main/a.pt?signature=secret"
        return site

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def noise() -> bytes:
    return np.random.default_rng(0).bytes(1_000_000)


def test_any_range_is_read_and_what_follows_a_read_is_not_asked_for_again(serve: Any, noise: bytes) -> None:
    site = serve(noise)
    source = open_source(site.url)
    assert source is not None
    assert source.size == len(noise)
    for offset, length in [(0, 10), (500_000, 300_000), (800_000, 5_000), (805_000, 195_000), (7, 0)]:
        assert source.read(offset, length) == noise[offset : offset + length]
    assert len(site.asked) == 3  # the third read lies within what the second brought
    assert source.bytes_read == site.sent < 800_000
    assert site.connections == 1


def test_a_server_without_ranges_gives_none_and_is_not_read(serve: Any) -> None:
    site = serve(b"x" * 50_000_000, ranges=False)
    assert open_source(site.url) is None
    assert site.asked == [f"bytes=0-{remote.READ_AHEAD - 1}"]


def test_a_range_outside_the_file_is_refused_without_asking(serve: Any) -> None:
    site = serve(b"x" * 100)
    source = open_source(site.url)
    assert source is not None
    with pytest.raises(CheckpointError, match="ends at byte 100"):
        source.read(90, 11)
    assert len(site.asked) == 1


def test_a_dropped_connection_is_resumed_in_the_middle(serve: Any, noise: bytes) -> None:
    site = serve(noise)
    source = open_source(site.url)
    assert source is not None
    site.drops = [400_000, 0, 100_000]
    assert source.read(100_000, 900_000) == noise[100_000:]
    assert site.asked[1:] == [f"bytes={start}-999999" for start in (100_000, 500_000, 500_000, 600_000)]


def test_a_busy_server_is_asked_again(serve: Any, noise: bytes) -> None:
    site = serve(noise, statuses=[503, 429, 500])
    source = open_source(site.url)
    assert source is not None
    assert source.read(0, 10) == noise[:10]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"may not be read \(HTTP 401\).*hf auth login"),
        (403, "may not be read.*terms"),
        (404, "does not exist"),
        (400, "answered 400"),
    ],
)
def test_a_refusal_is_told_at_once_without_the_signed_query(serve: Any, status: int, message: str) -> None:
    site = serve(b"x", statuses=[status])
    with pytest.raises(SourceError, match=message) as caught:
        open_source(site.url)
    assert len(site.asked) == 1
    assert "secret" not in str(caught.value)
    assert "/repo/resolve/main/a.pt" in str(caught.value)


def test_a_server_that_keeps_failing_is_given_up(serve: Any, noise: bytes) -> None:
    site = serve(noise)
    source = open_source(site.url)
    assert source is not None
    site.drops = [100] * 100
    with pytest.raises(SourceError, match=r"6 times in a row\. Check the network"):
        source.read(500_000, 400_000)
    assert len(site.asked) == 1 + remote.TRIES


def test_no_server_at_all_is_a_source_error(serve: Any) -> None:
    with pytest.raises(SourceError, match="could not be read: ConnectError"):
        open_source("http://127.0.0.1:9/a.pt")


def test_a_file_that_changes_meanwhile_is_noticed(serve: Any, noise: bytes) -> None:
    site = serve(noise)
    source = open_source(site.url)
    assert source is not None
    site.data += b"more"
    with pytest.raises(SourceError, match="changed while it was read"):
        source.read(500_000, 10)


def test_a_server_that_sends_more_than_asked_is_cut_off(serve: Any, noise: bytes) -> None:
    site = serve(noise)
    source = open_source(site.url)
    assert source is not None
    site.too_much = b"x" * 50_000_000
    assert source.read(500_000, 10) == noise[500_000:500_010]
    assert source.bytes_read < 5_000_000
    site.too_much = b""
    after = 500_010 + remote.READ_AHEAD
    assert source.read(after - 5, 10) == noise[after - 5 : after + 5]


def test_a_token_is_sent_to_the_hub_but_not_to_the_host_it_redirects_to(serve: Any, noise: bytes) -> None:
    storage = serve(noise)
    hub = serve(b"", redirect=storage.url)
    source = open_source(hub.url, {"Authorization": "Bearer hf_x"})
    assert source is not None
    assert source.read(999_990, 10) == noise[-10:]
    assert all(hub.authorized)
    assert not any(storage.authorized)


def training_checkpoint(path: Path, write: Any = write_torch_zip, **options: Any) -> dict[str, Any]:
    """A file that is two thirds optimizer state, as LAION's are: large weights, each with a small bias."""
    rng = np.random.default_rng(0)
    weights = {}
    for i in range(40):
        weights[f"{i}.weight"] = rng.standard_normal((500, 500)).astype(np.float32)
        weights[f"{i}.bias"] = rng.standard_normal(500).astype(np.float32)
    moments = {i: {"exp_avg": w + 1, "exp_avg_sq": w + 2} for i, w in enumerate(weights.values())}
    write(path, {"state_dict": weights, "optimizer": {"state": moments}}, **options)
    return weights


@pytest.mark.parametrize("old", [False, True])
def test_the_weights_of_a_training_checkpoint_cost_little_more_than_their_own_bytes(
    serve: Any, tmp_path: Path, old: bool
) -> None:
    weights = training_checkpoint(tmp_path / "a.pt", old=old)
    site = serve((tmp_path / "a.pt").read_bytes())
    source = open_source(site.url)
    assert source is not None
    tree = read_torch_file(source)
    assert len(site.asked) <= 3
    for name, array in weights.items():
        np.testing.assert_array_equal(tree["state_dict"][name].numpy(), array)
    assert site.sent < 0.4 * len(site.data)
    assert len(site.asked) <= 3 + len(weights)


def test_a_changed_byte_on_the_way_fails_the_checksum(serve: Any, tmp_path: Path) -> None:
    training_checkpoint(tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[500_000] ^= 1
    source = open_source(serve(bytes(data)).url)
    assert source is not None
    tensor = read_torch_file(source)["state_dict"]["0.weight"]
    with pytest.raises(CheckpointError, match="CRC-32"):
        tensor.numpy()


def test_a_file_without_checksums_is_not_read_in_parts(serve: Any, tmp_path: Path) -> None:
    write_torch_zip(tmp_path / "a.pt", {"a": np.ones(3)})
    source = open_source(serve(without_checksums((tmp_path / "a.pt").read_bytes())).url)
    assert source is not None
    with pytest.raises(CheckpointError, match=r"without checksums.*Download the whole file"):
        read_torch_file(source)


def test_the_legacy_layout_is_read_over_http_too(serve: Any, tmp_path: Path) -> None:
    weights = training_checkpoint(tmp_path / "a.pt", write_torch_legacy)
    site = serve((tmp_path / "a.pt").read_bytes())
    source = open_source(site.url)
    assert source is not None
    tree = read_torch_file(source)
    np.testing.assert_array_equal(tree["state_dict"]["7.bias"].numpy(), weights["7.bias"])
    assert site.sent < 0.02 * len(site.data)
