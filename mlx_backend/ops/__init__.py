"""The op vocabulary in MLX: the names and signatures of ghost_ref.ops, one component per file.

Training shapes are static and everything traces under mx.compile; ops that carry a state run eagerly. Where plain
autodiff gives the reference's gradient it is used; the others are forward/backward pairs (mlx_backend.autodiff).
"""

from mlx_backend.autodiff import detach
from mlx_backend.ops.activation import (
    dropout,
    log_softmax,
    negative_exp,
    sigmoid,
    silu,
    slot_softmax,
    softplus,
)
from mlx_backend.ops.attention import strided_attention, strided_positions
from mlx_backend.ops.codebook import codebook_linear
from mlx_backend.ops.conv import causal_conv1d
from mlx_backend.ops.embedding import mean_value_embedding, take, window
from mlx_backend.ops.linear import float_linear, null_and_slots, pairwise_dot, quantised_linear, row_dot, slot_sum
from mlx_backend.ops.loss import binary_cross_entropy, cross_entropy, masked_mean
from mlx_backend.ops.norm import rms_norm, unit
from mlx_backend.ops.routing import (
    compact,
    concatenate_rows,
    depth_gate,
    exceeds,
    restore,
    select,
    surprise,
    top_k_mask,
    weighted_residual,
)
from mlx_backend.ops.scan import parallel_scan, selective_scan
from mlx_backend.ops.ternary import codebook_ternarise, dequantise_rows, int8_rows, round_float16, ternarise

__all__ = [
    "binary_cross_entropy",
    "causal_conv1d",
    "codebook_linear",
    "codebook_ternarise",
    "compact",
    "concatenate_rows",
    "cross_entropy",
    "depth_gate",
    "dequantise_rows",
    "detach",
    "dropout",
    "exceeds",
    "float_linear",
    "int8_rows",
    "log_softmax",
    "masked_mean",
    "mean_value_embedding",
    "negative_exp",
    "null_and_slots",
    "pairwise_dot",
    "parallel_scan",
    "quantised_linear",
    "restore",
    "rms_norm",
    "round_float16",
    "row_dot",
    "select",
    "selective_scan",
    "sigmoid",
    "silu",
    "slot_softmax",
    "slot_sum",
    "softplus",
    "strided_attention",
    "strided_positions",
    "surprise",
    "take",
    "ternarise",
    "top_k_mask",
    "unit",
    "weighted_residual",
    "window",
]
