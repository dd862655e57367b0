"""mlx_clap_convert: a source checkpoint -> a verified MLX model folder.

`conversion.convert` does the whole of it; `installed` knows the models of this machine. Nothing here executes what a
checkpoint says: ``.bin`` and ``.pt`` files are read by an interpreter of our own that imports and calls nothing.
"""
