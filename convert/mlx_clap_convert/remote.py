"""A file behind HTTP ranges, as a `ByteSource`: of a large checkpoint only the needed parts are downloaded.

Requests go through huggingface_hub's own session, so proxies, offline mode and certificates work as they do there,
and an authorization header does not follow a redirect to another host. Not safe for several threads; keeps nothing
on disk; verifies no hash (a zip's records carry checksums of their own, see `zip_records`).
"""

import re
import time
from collections.abc import Mapping
from typing import Any

from .byte_source import check_range
from .errors import SourceError

#: Fetched beyond what was asked: covers the small records that follow a large one, wastes little where none do.
READ_AHEAD = 64 << 10
TIMEOUT_S = 30.0
#: Tries in a row without getting at least `READ_AHEAD` bytes, before giving up; the pauses between them double.
TRIES = 6
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class HttpRangeSource:
    """Reads of one URL; made by `open`. `bytes_read` counts the body bytes received so far, for progress."""

    def __init__(self, url: str, headers: Mapping[str, str], first_pause_s: float) -> None:
        self.name = url.partition("?")[0]  # a signed query is nobody's business
        self.size = 0
        self.bytes_read = 0
        self._url, self._headers, self._first_pause_s = url, dict(headers), first_pause_s
        self._kept, self._kept_at = b"", 0

    @classmethod
    def open(
        cls, url: str, headers: Mapping[str, str] | None = None, *, first_pause_s: float = FIRST_PAUSE_S
    ) -> "HttpRangeSource | None":
        """Ask for the first bytes; None if the server sends the whole file instead, i.e. honours no ranges.

        Raises:
            SourceError: not there, not allowed, or not reachable after several tries.
        """
        source = cls(url, headers or {}, first_pause_s)
        source._kept = source._fetch(0, READ_AHEAD)
        return source if source.size else None

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; see `ByteSource.read`. A dropped connection is resumed."""
        check_range(self, offset, length)
        skip = offset - self._kept_at
        head = self._kept[skip : skip + length] if skip >= 0 else b""
        if len(head) == length:
            return head
        start = offset + len(head)
        missing = offset + length - start
        data = self._fetch(start, min(missing + READ_AHEAD, self.size - start))
        self._kept, self._kept_at = data[missing:], start + missing
        return head + data[:missing]

    def _fetch(self, start: int, length: int) -> bytes:
        """Bytes from `start`; the first call learns the size and may get fewer. Empty: no ranges here."""
        data, failures, mark = bytearray(), 0, 0
        while True:
            problem, pause = self._receive(data, start, length)
            if problem is None or (data and len(data) == min(length, self.size - start)):
                return bytes(data)
            failures = 1 if len(data) - mark >= READ_AHEAD else failures + 1
            mark = len(data)
            if failures >= TRIES:
                raise SourceError(
                    f"{self.name} could not be read: {problem}, {TRIES} times in a row. Check the network and run "
                    "the same command again."
                )
            time.sleep(max(pause, self._first_pause_s * 2 ** (failures - 1)))

    def _receive(self, data: bytearray, start: int, length: int) -> tuple[str | None, float]:
        """One request for what `data` still lacks. Returns a passing problem (None: done) and the pause it asks."""
        from huggingface_hub import get_session
        from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

        before = self.bytes_read
        first, last = start + len(data), start + length - 1
        headers = {**self._headers, "Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        try:
            with get_session().stream("GET", self._url, headers=headers, timeout=TIMEOUT_S) as response:
                if response.status_code in _RETRIED:
                    return f"the server answered {response.status_code}", _retry_after(response.headers)
                if not self._is_the_range(response, first):
                    return None, 0.0
                wanted = min(length, self.size - start)
                for chunk in response.iter_raw():  # to its end, or the connection could not be used again
                    self.bytes_read += len(chunk)
                    data += chunk[: wanted - len(data)]
                    if self.bytes_read - before > wanted:
                        break  # more than asked for: not to be trusted with memory
            return ("the connection ended early" if len(data) < wanted else None), 0.0
        except OfflineModeIsEnabled as error:
            raise SourceError(f"{self.name} is not on this disk, and HF_HUB_OFFLINE forbids the network.") from error
        except HTTPError as error:
            return f"{type(error).__name__}: {error}".rstrip(": "), 0.0

    def _is_the_range(self, response: Any, first: int) -> bool:
        """Whether the answer holds the range asked for; False only if the first answer shows there are no ranges."""
        status = response.status_code
        if status in (401, 403):
            raise SourceError(
                f"{self.name} may not be read (HTTP {status}). Log in with `hf auth login` or set HF_TOKEN, and accept "
                "the repository's terms on its page if it has some."
            )
        if status in (404, 410):
            raise SourceError(f"{self.name} does not exist (HTTP {status}). Check the repository, revision and file.")
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        good = status == 206 and match and int(match[1]) == first and not response.headers.get("Content-Encoding")
        size = int(match[3]) if match and good else 0
        if self.size and size != self.size:
            raise SourceError(
                f"{self.name} changed while it was read (HTTP {status} instead of its bytes from {first:,}). Run the "
                "same command again."
            )
        if not good and status >= 300 and status != 416:
            raise SourceError(f"{self.name} could not be read: the server answered {status}. Try again later.")
        self.size = size
        return bool(size)


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return min(float(value), LONGEST_PAUSE_S) if value.isdecimal() else 0.0
