"""Fixtures for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_clap.backend import mx
from small_model import small_model


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu() -> None:
    """The tests' bars are a CPU's, on every machine; `mlxclap doctor` judges a GPU, by bars of its own."""
    mx.set_default_device(mx.cpu)


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
