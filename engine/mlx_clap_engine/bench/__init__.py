"""Figures of this machine; `run.run` makes them. It imports nothing, so that `twin_process` stays without MLX."""
