"""What can go wrong, on one screen.

ClapError                       base of every error this project raises on purpose; the CLI prints it and exits
 ├─ AskedWronglyError           the request itself makes no sense (exit code 2 instead of 1)
 ├─ ModelNotFoundError          no model folder there, or no installed model of that name
 ├─ ModelFormatError            a model folder with missing, unknown or misshapen weights, or an unknown config key
 ├─ InputError                  audio or text the model cannot take (shape, dtype, length, not finite)
 ├─ ConvertError                (mlx_clap_convert) a checkpoint that cannot be brought in
 └─ EngineError                 (mlx_clap_engine) a library, a file or a question that cannot be served

Every message says what happened, where, and what to do next.
"""


class ClapError(Exception):
    """Base class; its text is complete and fit to show a person."""

    exit_code = 1


class AskedWronglyError(ClapError):
    """The request is at fault: a malformed filter, a path that is not there, options that exclude each other."""

    exit_code = 2


class ModelNotFoundError(ClapError):
    """There is no model where one was asked for."""


class ModelFormatError(ClapError):
    """A model folder is damaged or was made by another version: the message names every offending key."""


class InputError(ClapError):
    """Audio or text outside what the model takes."""
