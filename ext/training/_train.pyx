# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Training kernels: float32 twins of the NumPy forward/backward pairs, under the same names and contracts.

Not canonical: they are judged by error bounds against the NumPy pair in float64. Results do not depend on the
number of threads: work is split by shape alone and partial sums are added in a fixed order. Arrays must be
float32 (TypeError) of fitting shapes (ValueError); strided ones are copied. ``saved`` is opaque and goes to the
backward of the same pair.
"""

import numpy as np

from cython.parallel cimport prange


ctypedef void (*unary_range)(const float *x, float *y, Py_ssize_t count) noexcept nogil
ctypedef void (*binary_range)(const float *dy, const float *x, float *dx, Py_ssize_t count) noexcept nogil

cdef extern from "kernels.h" nogil:
    enum: CONV_BLOCK
    enum: LANES
    enum: SEGMENT
    enum: BLOCK_ROWS
    enum: PACK
    struct conv_args:
        Py_ssize_t steps, channels, taps
        const float *x
        const float *weight
        const float *bias
        const float *past
        const Py_ssize_t *length
        float *y
        float *present
        const float *dy
        float *dx
        float *dweight
        float *dbias
    struct scan_args:
        Py_ssize_t steps, channels, n, blocks, segments, groups
        const float *x
        const float *dt
        const float *A
        const float *Bm
        const float *Cm
        const float *D
        const float *past
        const Py_ssize_t *length
        float *y
        float *present
        float *starts
        const float *dy
        float *dx
        float *ddt
        float *dA
        float *dB
        float *dC
        float *dD
    struct rows_args:
        Py_ssize_t columns, padded, stride, group, groups
        const float *x
        signed char *q
        float *scale
        int *sums
    struct pack_args:
        Py_ssize_t rows, columns, groups, group
        const signed char *weight
        const float *magnitude
        float *effective
        unsigned char *codes
        int offset, panels
    struct input_gradient_args:
        Py_ssize_t tokens, rows, columns
        const float *dy
        const float *panels
        float *dx
    struct weight_gradient_args:
        Py_ssize_t tokens, rows, columns, padded
        const float *dy
        const signed char *q
        const float *scale
        float *scratch
        float *dweight
    struct product_args:
        Py_ssize_t tokens, rows, packs, group_packs, groups
        const unsigned char *codes
        const signed char *q
        const int *sums
        const float *magnitude
        const float *scale
        float *y
        int offset
    struct ternary_args:
        Py_ssize_t rows, columns, group, groups, padded_rows
        const float *weight
        const float *threshold
        signed char *trits
        float *mean
        float *delta
        float *kept
        const float *magnitude
        const float *dweight
        float *dthreshold
        float *dmagnitude
    struct adamw_factors:
        float lr, beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon, decay, c1, c2, clip
    struct training_kernels_table "training_kernels":
        const char *level
        void (*conv_forward_unit)(const conv_args *args, Py_ssize_t index) noexcept nogil
        void (*conv_backward_unit)(const conv_args *args, Py_ssize_t index) noexcept nogil
        int (*scan_forward_unit)(const scan_args *args, Py_ssize_t index) noexcept nogil
        int (*scan_backward_unit)(const scan_args *args, Py_ssize_t index) noexcept nogil
        unary_range silu_forward
        binary_range silu_backward
        unary_range softplus_forward
        binary_range softplus_backward
        void (*adamw)(float *p, const float *g, float *m, float *v, const adamw_factors *f, Py_ssize_t count) noexcept nogil
        void (*rms_norm_forward)(const float *x, const float *gain, float *y, float *rms, Py_ssize_t rows, Py_ssize_t d) noexcept nogil
        void (*rms_norm_backward)(const float *dy, const float *x, const float *rms, const float *gain, float *dx,
                                  float *dgain, Py_ssize_t rows, Py_ssize_t d) noexcept nogil
        void (*ternarise_rows)(const ternary_args *args) noexcept nogil
        void (*ternarise_backward_rows)(const ternary_args *args) noexcept nogil
        void (*nearest_entries)(const float *values, Py_ssize_t count, const float *entries,
                                const unsigned char *order, Py_ssize_t size, unsigned char *index) noexcept nogil
        void (*quantise_rows)(const rows_args *args, Py_ssize_t begin, Py_ssize_t end) noexcept nogil
        void (*dequantise_rows)(const signed char *q, const float *scale, float *x, Py_ssize_t columns,
                                Py_ssize_t padded, Py_ssize_t rows) noexcept nogil
        void (*pack_rows)(const pack_args *args) noexcept nogil
        void (*product)(const product_args *args) noexcept nogil
        void (*input_gradient)(const input_gradient_args *args) noexcept nogil
        void (*weight_gradient)(const weight_gradient_args *args) noexcept nogil
    Py_ssize_t c_panel_columns "panel_columns" (Py_ssize_t columns)
    Py_ssize_t c_weight_gradient_scratch "weight_gradient_scratch" (Py_ssize_t rows, Py_ssize_t columns)
    const char *c_training_level "training_level" (int index)
    const training_kernels_table *c_training_kernels "training_kernels" (const char *level)


cdef const training_kernels_table *kernels = NULL  # the copies in use


def levels(bint missing=False):
    """The instruction sets that this machine can run, the best one last; missing: those of its architecture that it
    cannot run."""
    found, index = [], 0
    while (name := c_training_level(index)) != NULL:
        if (c_training_kernels(name) == NULL) == missing:
            found.append((<bytes>name).decode())
        index += 1
    return found


def level():
    """The instruction set in use."""
    return (<bytes>kernels.level).decode()


def use_level(str name):
    """Use the kernels of another instruction set. ValueError if there is none of this name that can run here."""
    global kernels
    chosen = c_training_kernels(name.encode())
    if chosen == NULL:
        raise ValueError(f"this machine has no training kernels {name!r}, only {', '.join(levels())}")
    kernels = chosen


use_level(levels().pop())

cdef Py_ssize_t RANGE = 8192  # elements of one unit of elementwise work
cdef Py_ssize_t ALONE = 1 << 20  # up to so many elements one thread is as fast as waking the others
cdef Py_ssize_t BACKWARD_UNITS = 32  # split the channels of a row until a scan backward has about so many units


def _array(name, array, tuple shape):
    """The array, C-contiguous and aligned, if it is float32 and has this shape."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        raise TypeError(f"{name} must be a float32 array, got {getattr(array, 'dtype', type(array).__name__)}")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    return np.require(array, requirements="CA")


def _shape(name, array, ndim):
    """The shape of an array that sets the shapes of the others."""
    if np.ndim(array) != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {np.shape(array)}")
    return np.shape(array)


def _kept(length, Py_ssize_t batch, Py_ssize_t steps):
    """Kept tokens per row, (B,) intp: all of them without a length."""
    if length is None:
        return np.full(batch, steps, np.intp)
    length = np.asarray(length)
    if length.shape != (batch,) or not np.issubdtype(length.dtype, np.integer):
        raise ValueError(f"length must hold {batch} integers, got shape {length.shape} of {length.dtype}")
    if ((length < 0) | (length > steps)).any():
        raise ValueError(f"length must lie in 0..{steps}")
    return np.ascontiguousarray(length, np.intp)


cdef const float *_read(array):
    cdef const float[::1] view = array.reshape(-1)
    return &view[0]


cdef float *_write(array):
    cdef float[::1] view = array.reshape(-1)
    return &view[0]


cdef const Py_ssize_t *_read_lengths(array):
    cdef const Py_ssize_t[::1] view = array
    return &view[0]


cdef conv_args _conv_args(x, weight, bias, past, kept):
    cdef conv_args args
    args.steps, args.channels, args.taps = x.shape[1], x.shape[2], weight.shape[0]
    args.x, args.weight, args.bias, args.past = _read(x), _read(weight), _read(bias), _read(past)
    args.length = _read_lengths(kept)
    return args


def causal_conv1d_forward(x, weight, bias, past=None, length=None):
    """ghost_ref.ops.conv.causal_conv1d_forward in float32."""
    batch, steps, channels = _shape("x", x, 3)
    _, taps = _shape("weight", weight, 2)
    past = np.zeros((batch, taps - 1, channels), np.float32) if past is None else past
    x, bias = _array("x", x, (batch, steps, channels)), _array("bias", bias, (channels,))
    past = _array("past", past, (batch, taps - 1, channels))
    transposed = np.ascontiguousarray(_array("weight", weight, (channels, taps)).T)
    kept = _kept(length, batch, steps)
    y, present = np.zeros_like(x), np.empty_like(past)
    cdef conv_args args = _conv_args(x, transposed, bias, past, kept)
    args.y, args.present = _write(y), _write(present)
    cdef Py_ssize_t unit, units = batch * ((channels + CONV_BLOCK - 1) // CONV_BLOCK)
    cdef bint threads = batch * steps * channels > ALONE
    for unit in prange(units, nogil=True, schedule="static", use_threads_if=threads):
        kernels.conv_forward_unit(&args, unit)
    return (y, present), (x, transposed, bias, past, kept)


def causal_conv1d_backward(dy, saved):
    """ghost_ref.ops.conv.causal_conv1d_backward in float32."""
    x, transposed, bias, past, kept = saved
    batch, steps, channels = x.shape
    dy = _array("dy", dy, x.shape)
    dx, dbias = np.zeros_like(x), np.zeros((batch, channels), np.float32)
    dweight = np.zeros((batch, *transposed.shape), np.float32)
    cdef conv_args args = _conv_args(x, transposed, bias, past, kept)
    args.dy, args.dx, args.dweight, args.dbias = _read(dy), _write(dx), _write(dweight), _write(dbias)
    cdef Py_ssize_t unit, units = batch * ((channels + CONV_BLOCK - 1) // CONV_BLOCK)
    cdef bint threads = batch * steps * channels > ALONE
    for unit in prange(units, nogil=True, schedule="static", use_threads_if=threads):
        kernels.conv_backward_unit(&args, unit)
    return dx, np.ascontiguousarray(dweight.sum(0).T), dbias.sum(0)


cdef scan_args _scan_args(x, dt, A, Bm, Cm, D, past, kept, starts):
    cdef scan_args args
    args.steps, args.channels, args.n = x.shape[1], x.shape[2], A.shape[1]
    args.segments, args.blocks = starts.shape[1], starts.shape[2]
    args.groups = max(1, min(args.blocks, -(-BACKWARD_UNITS // max(1, len(x)))))
    args.x, args.dt, args.A, args.Bm, args.Cm = _read(x), _read(dt), _read(A), _read(Bm), _read(Cm)
    args.D, args.past, args.length, args.starts = _read(D), _read(past), _read_lengths(kept), _write(starts)
    return args


def selective_scan_forward(x, dt, A, Bm, Cm, D, past=None, length=None):
    """ghost_ref.ops.scan.selective_scan_forward in float32."""
    batch, steps, channels = _shape("x", x, 3)
    _, n = _shape("A", A, 2)
    past = np.zeros((batch, channels, n), np.float32) if past is None else past
    x, dt = _array("x", x, (batch, steps, channels)), _array("dt", dt, (batch, steps, channels))
    A = _array("A", A, (channels, n))
    Bm, Cm = _array("Bm", Bm, (batch, steps, n)), _array("Cm", Cm, (batch, steps, n))
    D, past = _array("D", D, (channels,)), _array("past", past, (batch, channels, n))
    kept = _kept(length, batch, steps)
    starts = np.empty((batch, -(-steps // SEGMENT), -(-channels // LANES), n, LANES), np.float32)
    y, present = np.zeros_like(x), np.empty_like(past)
    cdef scan_args args = _scan_args(x, dt, A, Bm, Cm, D, past, kept, starts)
    args.y, args.present = _write(y), _write(present)
    cdef Py_ssize_t unit, units = batch * args.blocks
    cdef int failed = 0
    cdef bint threads = batch * steps * channels * n > ALONE
    for unit in prange(units, nogil=True, schedule="static", use_threads_if=threads):
        failed |= kernels.scan_forward_unit(&args, unit)
    if failed:
        raise MemoryError("selective_scan_forward: out of memory")
    return (y, present), (x, dt, A, Bm, Cm, D, past, kept, starts)


def selective_scan_backward(dy, saved):
    """ghost_ref.ops.scan.selective_scan_backward in float32."""
    x, dt, A, Bm, Cm, D, past, kept, starts = saved
    (batch, steps, channels), n = x.shape, A.shape[1]
    dy = _array("dy", dy, x.shape)
    cdef scan_args args = _scan_args(x, dt, A, Bm, Cm, D, past, kept, starts)
    per_group = (batch, args.groups, steps, n)
    dx, ddt = np.zeros_like(x), np.zeros_like(x)
    dB, dC = np.zeros(per_group, np.float32), np.zeros(per_group, np.float32)
    dA, dD = np.zeros((batch, channels, n), np.float32), np.zeros((batch, channels), np.float32)
    args.dy, args.dx, args.ddt = _read(dy), _write(dx), _write(ddt)
    args.dA, args.dB, args.dC, args.dD = _write(dA), _write(dB), _write(dC), _write(dD)
    cdef Py_ssize_t unit, units = batch * args.groups
    cdef int failed = 0
    cdef bint threads = batch * steps * channels * n > ALONE
    for unit in prange(units, nogil=True, schedule="static", use_threads_if=threads):
        failed |= kernels.scan_backward_unit(&args, unit)
    if failed:
        raise MemoryError("selective_scan_backward: out of memory")
    return dx, ddt, dA.sum(0), dB.sum(1), dC.sum(1), dD.sum(0)


cdef _unary(unary_range kernel, x):
    x = _array("x", x, np.shape(x))
    y = np.empty_like(x)
    cdef const float *source = _read(x)
    cdef float *target = _write(y)
    cdef Py_ssize_t count = x.size, parts = (count + RANGE - 1) // RANGE, part
    for part in prange(parts, nogil=True, schedule="static", use_threads_if=count > ALONE):
        kernel(source + part * RANGE, target + part * RANGE, min(RANGE, count - part * RANGE))
    return y, (x,)


cdef _binary(binary_range kernel, dy, saved):
    (x,) = saved
    dy = _array("dy", dy, x.shape)
    dx = np.empty_like(x)
    cdef const float *gradient = _read(dy)
    cdef const float *source = _read(x)
    cdef float *target = _write(dx)
    cdef Py_ssize_t count = x.size, parts = (count + RANGE - 1) // RANGE, part, at
    for part in prange(parts, nogil=True, schedule="static", use_threads_if=count > ALONE):
        at = part * RANGE
        kernel(gradient + at, source + at, target + at, min(RANGE, count - at))
    return (dx,)


include "linear.pxi"


def silu_forward(x):
    """y = x · sigmoid(x), any shape."""
    return _unary(kernels.silu_forward, x)


def silu_backward(dy, saved):
    """dx = dy · s · (1 + x · (1 - s)), s = sigmoid(x)."""
    return _binary(kernels.silu_backward, dy, saved)


def softplus_forward(x):
    """y = max(x, 0) + log1p(exp(-|x|)), any shape."""
    return _unary(kernels.softplus_forward, x)


def softplus_backward(dy, saved):
    """dx = dy · sigmoid(x)."""
    return _binary(kernels.softplus_backward, dy, saved)


def adamw_update(float[::1] p, const float[::1] g, float[::1] m, float[::1] v, double lr, double beta1,
                 double beta2, double eps, double weight_decay, double c1, double c2, double clip=1.0):
    """One AdamW step in place (arXiv:1711.05101), bit for bit what NumPy computes in float32 with g = clip·g:

    m = beta1·m + (1-beta1)·g;  v = beta2·v + ((1-beta2)·g)·g;
    p = p·(1 - lr·weight_decay) - (lr·(m·c1)) / (sqrt(v·c2) + eps),  c1 = 1/(1-beta1^t), c2 = 1/(1-beta2^t).
    p, g, m, v (n,) C-contiguous; the scalar factors are computed in float64 and rounded once."""
    cdef Py_ssize_t count = p.shape[0], parts = (count + RANGE - 1) // RANGE, part, at
    if g.shape[0] != count or m.shape[0] != count or v.shape[0] != count:
        counts = (p.shape[0], g.shape[0], m.shape[0], v.shape[0])
        raise ValueError(f"adamw_update: p, g, m, v have {counts} elements")
    cdef adamw_factors factors
    factors.lr, factors.epsilon, factors.decay = <float>lr, <float>eps, <float>(1 - lr * weight_decay)
    factors.beta1, factors.one_minus_beta1, factors.c1 = <float>beta1, <float>(1 - beta1), <float>c1
    factors.beta2, factors.one_minus_beta2, factors.c2 = <float>beta2, <float>(1 - beta2), <float>c2
    factors.clip = <float>clip
    for part in prange(parts, nogil=True, schedule="static", use_threads_if=count > ALONE):
        at = part * RANGE
        kernels.adamw(&p[0] + at, &g[0] + at, &m[0] + at, &v[0] + at, &factors, min(RANGE, count - at))
