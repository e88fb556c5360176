/* All kernels, compiled once for each instruction set: GHOST_LEVEL names it. Nothing but the table leaves the unit, so that
   no linker mixes the copies. */
#include "conv.h"
#include "elementwise.h"
#include "linear.h"
#include "norm.h"
#include "scan.h"
#include "ternary.h"
#ifdef __AVX512F__
#include "gemm.h"
#endif
#ifdef __AVX512VNNI__
#include "product.h"
#endif

#define GHOST_TEXT_OF(name) #name
#define GHOST_TEXT(name) GHOST_TEXT_OF(name)
#define GHOST_JOIN_OF(a, b) a##b
#define GHOST_JOIN(a, b) GHOST_JOIN_OF(a, b)

static const struct training_kernels table = {
    .level = GHOST_TEXT(GHOST_LEVEL),
    .conv_forward_unit = conv_forward_unit,
    .conv_backward_unit = conv_backward_unit,
    .scan_forward_unit = scan_forward_unit,
    .scan_backward_unit = scan_backward_unit,
    .silu_forward = silu_forward_range,
    .silu_backward = silu_backward_range,
    .softplus_forward = softplus_forward_range,
    .softplus_backward = softplus_backward_range,
    .adamw = adamw_range,
    .rms_norm_forward = rms_norm_forward_rows,
    .rms_norm_backward = rms_norm_backward_rows,
    .ternarise_rows = ternarise_rows,
    .ternarise_backward_rows = ternarise_backward_rows,
    .nearest_entries = nearest_entries,
    .quantise_rows = quantise_rows,
    .dequantise_rows = dequantise_rows,
    .pack_rows = pack_rows,
#ifdef __AVX512F__
    .input_gradient = input_gradient,
    .weight_gradient = weight_gradient,
#endif
#ifdef __AVX512VNNI__
    .product = product,
#endif
};

const struct training_kernels* GHOST_JOIN(training_kernels_, GHOST_LEVEL)(void);
const struct training_kernels* GHOST_JOIN(training_kernels_, GHOST_LEVEL)(void) { return &table; }
