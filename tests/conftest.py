"""Fixtures for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from small_model import small_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The models folder of this session, with one model, "small"; no setting of the machine's user shows through."""
    folder = tmp_path_factory.mktemp("session") / "models"
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("HF_", "MLXCLAP_")) and not name.startswith("MLXCLAP_TEST_"):
                patch.delenv(name)
        patch.setenv("MLXCLAP_MODELS", str(folder))
        small_model(folder)
        yield folder
