"""Errors of the converter: see `mlx_clap.errors` for the whole tree.

ConvertError
 ├─ SourceError        the checkpoint could not be fetched or found (network, 404, 401, hash, disk)
 ├─ CheckpointError    a file that is damaged, hostile, or of a kind that is not read
 ├─ MappingError       source keys that no rule maps, or model weights that no source key fills
 └─ HealthError        converted, but its embeddings are not worth installing (``--force`` installs anyway)
"""

from mlx_clap.errors import ClapError


class ConvertError(ClapError):
    """A checkpoint that cannot be brought in."""


class SourceError(ConvertError):
    """The checkpoint could not be fetched or found."""


class CheckpointError(ConvertError):
    """A checkpoint file that is damaged, hostile, or of a kind that is not read."""


class MappingError(ConvertError):
    """The map from source keys to model weights is not total and one-to-one."""


class HealthError(ConvertError):
    """The converted model's embeddings collapse; ``--force`` installs it anyway."""
