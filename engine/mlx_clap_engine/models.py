"""Which model goes with which library: the one place that matches spaces.

A library remembers the space of its embeddings; a question must be asked with a model of that space.
"""

from pathlib import Path

from mlx_clap.clap import Clap
from mlx_clap_convert.installed import installed, resolve

from .errors import SpaceError
from .store.library import Store
from .store.schema import SpaceInfo


def load_for_ingest(store: Store | None, model: str | None) -> Clap:
    """The model to embed with: the one named, else the one the library was made with, else the default model.

    Raises:
        ModelNotFoundError: no such model, or none installed.
        SpaceError: the library's own model is not installed, so that only a new space could be added unasked.
    """
    default = store.default_space() if store else None
    if model is not None or default is None:
        return Clap.load(resolve(model))
    return Clap.load(_folder_of(default, store))


def load_for_query(store: Store, model: str | None) -> tuple[Clap, SpaceInfo]:
    """The model and the space to ask in: the named model's space, else the library's default space.

    Raises:
        SpaceError: the library has no embeddings of that model, or no installed model is of its space.
    """
    if model is None:
        info = space_for_query(store, None)
        return Clap.load(_folder_of(info, store)), info
    clap = Clap.load(resolve(model))
    return clap, _space_of(store, clap.space, clap.name)


def space_for_query(store: Store, model: str | None) -> SpaceInfo:
    """The space to ask in, without loading a model: of the model named, else the library's default."""
    if model is not None:
        folder = resolve(model)
        found = next((m for m in installed() if m.path == folder), None)
        space = found.space if found else Clap.load(folder).space
        return _space_of(store, space, folder.name)
    info = store.default_space()
    if info is None:
        raise SpaceError(f"the library at {store.path} is empty: `mlxclap ingest PATH` fills it from your audio files")
    return info


def _space_of(store: Store, space: str, name: str) -> SpaceInfo:
    known = {info.space: info for info in store.spaces()}
    if space in known:
        return known[space]
    there = ", ".join(f"{info.space} (model {info.model})" for info in known.values()) or "nothing yet"
    raise SpaceError(
        f"model {name} embeds into space {space}, but the library at {store.path} holds {there}; similarities across "
        f"spaces mean nothing. Leave --model away to use the library's own, or add this space with "
        f"`mlxclap ingest --model {name} PATH`"
    )


def _folder_of(info: SpaceInfo, store: Store | None) -> Path:
    models = [m for m in installed() if m.space == info.space and m.problem is None]
    if models:
        return next((m for m in models if m.name == info.model), models[0]).path
    there = ", ".join(f"{m.name} ({m.space})" for m in installed()) or "none"
    raise SpaceError(
        f"the library at {store.path if store else ''} was made with model {info.model} (space {info.space}), which is "
        f"not installed (installed: {there}). Bring it in with `mlxclap convert`, or give its folder: --model PATH"
    )
