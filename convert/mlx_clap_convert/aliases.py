"""Short names for the released CLAP checkpoints, each pinned to one commit.

It knows names, sizes and warnings; it downloads nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Alias:
    """A released checkpoint. `download_bytes` counts its weights; config and tokenizer add about 2 MB."""

    name: str
    repo: str
    revision: str
    filename: str | None
    """The one `.pt` file to read; None for a Hugging Face repository with its own config and tokenizer."""
    download_bytes: int
    note: str


_ALL = (
    Alias(
        "general",
        "laion/larger_clap_general",
        "ada0c23a36c4e8582805bb38fec3905903f18b41",
        None,
        776_444_665,
        "music, speech and everyday sounds; the best all-rounder",
    ),
    Alias(
        "unfused",
        "laion/clap-htsat-unfused",
        "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a",
        None,
        614_525_833,
        "smaller and faster audio tower; everyday sounds",
    ),
    Alias(
        "fused",
        "laion/clap-htsat-fused",
        "365dea6ef167def6676140ed93bbc43f84dabb28",
        None,
        614_100_000,
        "like unfused, trained with feature fusion for long clips",
    ),
    Alias(
        "music-speech",
        "laion/larger_clap_music_and_speech",
        "195c3a3e68faebb3e2088b9a79e79b43ddbda76b",
        None,
        776_444_665,
        "music and speech",
    ),
    Alias(
        "music",
        "lukewys/laion_clap",
        "b3708341862f581175dba5c356a4ebf74a9b6651",
        "music_audioset_epoch_15_esc_90.14.pt",
        778_000_000,
        "music; a third of a 2.35 GB training file is read",
    ),
)

ALIASES: dict[str, Alias] = {alias.name: alias for alias in _ALL}

#: What `mlxclap convert` brings in when no source is named.
DEFAULT_ALIAS = ALIASES["general"]

#: LAION's own training files carry no tokenizer; this repository's is the one they were trained with.
TOKENIZER_REPO = ALIASES["unfused"].repo
TOKENIZER_REVISION = ALIASES["unfused"].revision

#: Hub repository in lower case -> why it is not worth converting.
BROKEN: dict[str, str] = {
    "laion/larger_clap_music": (
        "laion/larger_clap_music is a bad upload: its text projection was never trained, so that unrelated texts get "
        "nearly the same embedding. Use the alias `music` instead (`mlxclap convert music`): it reads LAION's original "
        "file of that model. `--force` converts the broken one all the same."
    ),
}
