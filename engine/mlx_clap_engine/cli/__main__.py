"""`python -m mlx_clap_engine.cli` is `mlxclap`."""

from . import main

main(prog_name="mlxclap")
