"""Finds the state dict in what a checkpoint file holds, and says in which layout its keys are.

It looks at names only. Which key goes where is `names`' business.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from .errors import CheckpointError
from .lazy_tensor import LazyTensor

Layout = Literal["hf", "laion"]

_PREFIXES: dict[Layout, tuple[str, ...]] = {
    "laion": ("audio_branch.", "text_branch."),
    "hf": ("audio_model.", "text_model."),
}
_READ = "CLAP checkpoints in Hugging Face's or LAION's layout are read"


def state_dict(tree: Any, name: str) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint by key.

    Args:
        tree: what the file holds: a state dict, or LAION's training record with one under ``state_dict``.
        name: the file's name, for messages.

    Raises:
        CheckpointError: no state dict, a kind of checkpoint that is not read, or something else among its tensors.
    """
    if not isinstance(tree, Mapping):
        raise CheckpointError(f"{name} holds a {type(tree).__name__}, not a state dict. {_READ}.")
    if isinstance(tree.get("model"), Mapping):
        _refuse_relatives(tree["model"], name)
    inner = tree.get("state_dict", tree)
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"{name}: its `state_dict` is a {type(inner).__name__}. {_READ}.")
    _refuse_relatives(inner, name)
    tensors: dict[str, LazyTensor] = {}
    for key, value in inner.items():
        if not isinstance(key, str) or not isinstance(value, LazyTensor):
            raise CheckpointError(
                f"{name} holds no state dict: {str(key)[:80]!r} is a {type(value).__name__}. {_READ}."
            )
        tensors[key] = value
    return tensors


def layout_of(keys: Iterable[str], name: str) -> Layout:
    """Whose names the keys are, with or without the ``module.`` that parallel training puts before them.

    Raises:
        CheckpointError: neither Hugging Face's nor LAION's, or both at once.
    """
    plain = [key.removeprefix("module.") for key in keys]
    found = [layout for layout, prefixes in _PREFIXES.items() if any(key.startswith(prefixes) for key in plain)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(
            f"{name} mixes the keys of Hugging Face's layout with those of LAION's. {_READ}, one at a time."
        )
    shown = ", ".join(sorted(plain)[:3]) or "none"
    raise CheckpointError(f"{name} is not a CLAP checkpoint (keys: {shown}…). {_READ}.")


def _refuse_relatives(keys: Mapping[Any, Any], name: str) -> None:
    """Name the relatives of CLAP that people are likely to try."""
    texts = [key for key in keys if isinstance(key, str)]
    if any(key.startswith(("caption_encoder.", "audio_encoder.base.")) for key in texts):
        raise CheckpointError(
            f"{name} is a Microsoft CLAP checkpoint (msclap): another architecture, which is not supported. {_READ}."
        )
    if any(key.startswith(("cond_stage_model.", "first_stage_model.")) for key in texts):
        raise CheckpointError(
            f"{name} is an AudioLDM or MusicLDM checkpoint that holds a CLAP among other things; it is not read. "
            f"Convert the original instead, for example `mlxclap convert general`. {_READ}."
        )
