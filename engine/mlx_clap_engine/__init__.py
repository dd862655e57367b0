"""mlx_clap_engine: files -> windows -> embeddings -> tables -> answers."""
