"""The op vocabulary of the NumPy reference: one component per file, each op a forward/backward pair."""

from ghost_ref.autodiff import detach
from ghost_ref.ops.activation import (
    dropout,
    log_softmax,
    negative_exp,
    sigmoid,
    silu,
    slot_softmax,
    softplus,
)
from ghost_ref.ops.attention import strided_attention, strided_positions
from ghost_ref.ops.codebook import codebook_linear
from ghost_ref.ops.conv import causal_conv1d
from ghost_ref.ops.embedding import mean_value_embedding, take, window
from ghost_ref.ops.linear import float_linear, null_and_slots, pairwise_dot, quantised_linear, row_dot, slot_sum
from ghost_ref.ops.loss import binary_cross_entropy, cross_entropy, masked_mean
from ghost_ref.ops.norm import rms_norm, unit
from ghost_ref.ops.routing import (
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
from ghost_ref.ops.scan import parallel_scan, selective_scan
from ghost_ref.ops.ternary import codebook_ternarise, dequantise_rows, int8_rows, round_float16, ternarise

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
