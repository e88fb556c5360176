"""The MLX training backend: the ops of ghost_ref under the same names, for GPUs. Not built yet; nothing is exported."""
