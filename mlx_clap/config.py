"""The shape of a CLAP model. The field lists *are* the architecture; an unknown or missing key is an error.

A model folder's ``config.json`` is this, written by us and read back strictly. Reading other people's configs, with
their defaults and dead keys, is the converter's work.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_type_hints

from .errors import ModelFormatError

FORMAT = 1

MelBank = Literal["slaney", "htk"]


@dataclass(frozen=True)
class MelConfig:
    """Log-mel front end. `bank`: ``slaney`` (Slaney scale and norm) or ``htk`` (HTK scale, no norm)."""

    bank: MelBank = "slaney"
    sample_rate: int = 48_000
    window_samples: int = 480_000
    n_fft: int = 1024
    hop: int = 480
    n_mels: int = 64
    f_min: float = 50.0
    f_max: float = 14_000.0

    @property
    def frames(self) -> int:
        """Frames of one window (the FFT is centred, hence the one more)."""
        return 1 + self.window_samples // self.hop


@dataclass(frozen=True)
class AudioConfig:
    """HTSAT audio tower: a Swin transformer over a log-mel folded into a square image.

    `width` is that of the first stage and doubles at each merge; `attention_window` is the side of a Swin window in
    tokens. `fusion` adds the attentional fusion of a long sound's overview with three of its crops.
    """

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    image_size: int = 256
    patch_size: int = 4
    attention_window: int = 8
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-5
    fusion: bool = False
    fusion_reduction: int = 4

    @property
    def grid(self) -> int:
        """Side of the first stage's token grid."""
        return self.image_size // self.patch_size

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each stage."""
        return tuple(self.width * 2**i for i in range(len(self.depths)))

    @property
    def grids(self) -> tuple[int, ...]:
        """Side of each stage's token grid."""
        return tuple(self.grid // 2**i for i in range(len(self.depths)))


@dataclass(frozen=True)
class TextConfig:
    """RoBERTa text tower. Positions start at `pad_id` + 1, so the longest text is `max_tokens` tokens."""

    vocab_size: int = 50_265
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 514
    token_types: int = 1
    pad_id: int = 1
    layer_norm_eps: float = 1e-12

    @property
    def max_tokens(self) -> int:
        return self.positions - self.pad_id - 1


@dataclass(frozen=True)
class ClapConfig:
    """Both towers, the front end, and the width both project into.

    Raises:
        ModelFormatError: sizes that do not fit together.
    """

    mel: MelConfig = field(default_factory=MelConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    text: TextConfig = field(default_factory=TextConfig)
    embedding_dim: int = 512

    def __post_init__(self) -> None:
        audio, mel, text = self.audio, self.mel, self.text
        sizes = {"embedding_dim": self.embedding_dim, **_sizes(mel), **_sizes(audio), **_sizes(text)}
        absurd = [f"{name} = {size}" for name, size in sizes.items() if size < 1]
        if absurd or min((*audio.depths, *audio.heads), default=0) < 1:
            raise ModelFormatError(
                f"this model configuration holds sizes below 1: {', '.join(absurd) or 'depths, heads'}"
            )
        fold = audio.image_size // mel.n_mels
        rules = {
            "audio.image_size is a multiple of mel.n_mels and audio.patch_size": audio.image_size % mel.n_mels == 0
            and audio.image_size % audio.patch_size == 0
            and mel.n_mels % (audio.patch_size * audio.attention_window) == 0,
            "a window's frames fit into the image": mel.frames <= audio.image_size * fold,
            "audio.depths and audio.heads are of one length": len(audio.depths) == len(audio.heads) > 0,
            "each stage's token grid is a multiple of audio.attention_window": all(
                g >= audio.attention_window and g % audio.attention_window == 0 for g in audio.grids
            ),
            "audio widths are multiples of audio.heads": all(
                w % h == 0 for w, h in zip(audio.widths, audio.heads, strict=False)
            ),
            "text.width is a multiple of text.heads": text.width % text.heads == 0,
            "mel.bank is slaney or htk": mel.bank in get_args(MelBank),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ModelFormatError(
                f"this model configuration does not hold together: it must be that {'; '.join(broken)}"
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_json` reads back."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ClapConfig":
        """Read `to_json`'s dict strictly.

        Raises:
            ModelFormatError: an unknown or missing key (named), a value of the wrong type, or another format version.
        """
        if not isinstance(data, Mapping):
            raise ModelFormatError("config.json is not a JSON object: convert the model again")
        found = data.get("format")
        if found != FORMAT:
            raise ModelFormatError(
                f"config.json has format {found!r}, this version reads {FORMAT}: convert the model again"
            )
        config: ClapConfig = _read(cls, {k: v for k, v in data.items() if k != "format"}, "config.json")
        return config


def _sizes(section: Any) -> dict[str, int]:
    """The whole numbers of a section that count something; an id may be 0."""
    values = {f.name: getattr(section, f.name) for f in fields(section)}
    return {name: value for name, value in values.items() if type(value) is int and not name.endswith("_id")}


def _read(cls: Any, data: Any, where: str) -> Any:
    """Build dataclass `cls` from `data` with exactly its fields."""
    if not isinstance(data, Mapping):
        raise ModelFormatError(f"{where}: expected an object, got {type(data).__name__}")
    names = [f.name for f in fields(cls)]
    unknown, missing = sorted(set(data) - set(names)), sorted(set(names) - set(data))
    if unknown or missing:
        parts = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"missing {', '.join(missing)}"] * bool(missing)
        raise ModelFormatError(f"{where}: {'; '.join(parts)}. Convert the model again with this version of mlx-clap")
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], data[name], f"{where}: {name}") for name in names})


def _value(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return _read(hint, value, where)
    if hint == tuple[int, ...]:
        if isinstance(value, list) and all(type(v) is int for v in value):
            return tuple(value)
    elif hint is float:
        if type(value) in (int, float):
            return float(value)
    elif hint is int or hint is bool:
        if type(value) is hint:
            return value
    elif isinstance(value, str):
        return value
    raise ModelFormatError(f"{where} has the value {value!r}, which is of the wrong type")
