"""mlx_clap_convert: a source checkpoint -> a verified MLX model folder."""
