"""The library as Python sees it: what the commands do, without a command line.

>>> from mlx_clap_engine import Library
>>> library = Library.open("~/sounds.mlxclap", create=True)
>>> library.ingest(["~/Music"])
>>> [answer.path for answer in library.query("tense cinematic minimal").rows]
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .ingest import Ingest, Summary
from .ingest.run import Listener
from .models import load_for_ingest
from .questions import Question
from .search import Answers, search
from .store.library import Store


class Library:
    """A folder of tables that remembers everything about a collection of sound. `store` reads the tables directly."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @classmethod
    def open(cls, path: str | Path, create: bool = False) -> "Library":
        """Open the library in folder `path`, or make one there if `create` and there is none.

        Raises:
            LibraryError: no library there, damaged, of a newer schema, or on a disk it cannot live on.
        """
        return cls(Store.open(path, create))

    def ingest(
        self,
        paths: Sequence[str | Path],
        model: str | None = None,
        *,
        listener: Listener = lambda _: None,
        **options: Any,
    ) -> Summary:
        """Take in audio files and folders; see `Ingest` for `options` and what is raised.

        Args:
            model: name or path; None is the model the library was made with, or the default model.
        """
        clap = load_for_ingest(self.store, model)
        return Ingest(self.store, clap, **options).run([os.path.expanduser(path) for path in paths], listener)

    def query(
        self,
        *texts: str,
        sounds: Sequence[str | Path] = (),
        like: Sequence[str] = (),
        unlike: Sequence[str] = (),
        **options: Any,
    ) -> Answers:
        """The recordings that sound most like what is asked, by words, by sound files, or by recordings of the library.

        See `Question` for what may be asked, and `search` for `options` (`k`, `filters`, `windows`, ...) and errors.
        """
        return search(self.store, Question(texts, sounds, like, unlike), **options)
