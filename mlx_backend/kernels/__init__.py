"""Fused kernels: one body per kernel, in the common subset of Metal Shading Language, CUDA C++ and C++17.

`sources` names the kernels and gives their texts, `device` runs them with MLX on a GPU, `host` compiles the very same
bodies as C++ for tests and for machines without a GPU.
"""
