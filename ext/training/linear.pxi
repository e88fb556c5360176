# Kernels under the linear layers and the norm; included by _train.pyx.

def integer_product_available():
    """Whether the level in use has `integer_product`."""
    return kernels.product != NULL


def float_products_available():
    """Whether the level in use has `input_gradient` and `weight_gradient`."""
    return kernels.input_gradient != NULL


def panel_columns(Py_ssize_t columns):
    """Columns of a weight in panels: whole panels."""
    return c_panel_columns(columns)


def weight_gradient_scratch(Py_ssize_t rows, Py_ssize_t columns):
    """Floats of scratch that `weight_gradient` needs."""
    return c_weight_gradient_scratch(rows, columns)


def padded_rows(Py_ssize_t rows):
    """Rows of a magnitude array: whole blocks."""
    return (rows + BLOCK_ROWS - 1) // BLOCK_ROWS * BLOCK_ROWS


def quantise_rows(x, Py_ssize_t group):
    """int8 codes of activation rows, bit for bit ghost_ref.ops.linear.quantise_activations.

    x (M, k) float32, rows contiguous -> q (M, k padded to 4) int8, scale (M,), sums (M, ceil(k/group)) int32 of q."""
    cdef Py_ssize_t rows = x.shape[0], columns = x.shape[1]
    if x.dtype != np.float32:
        raise TypeError(f"x must be a float32 array, got {x.dtype}")
    if x.strides[1] != 4 or x.strides[0] % 4 or x.strides[0] < 4 * columns or not x.flags.aligned:
        x = np.ascontiguousarray(x)
    cdef rows_args args
    args.columns, args.padded = columns, (columns + PACK - 1) // PACK * PACK
    args.group, args.groups, args.stride = group, (columns + group - 1) // group, x.strides[0] // 4
    q, scale = np.empty((rows, args.padded), np.int8), np.empty(rows, np.float32)
    sums = np.empty((rows, args.groups), np.int32)
    if not rows or not columns:
        raise ValueError(f"x has shape {x.shape}, expected rows and columns")
    cdef const float[:, :] source = x
    cdef signed char[:, ::1] codes = q
    cdef float[::1] scales = scale
    cdef int[:, ::1] totals = sums
    args.x, args.q, args.scale, args.sums = &source[0, 0], &codes[0, 0], &scales[0], &totals[0, 0]
    with nogil:
        kernels.quantise_rows(&args, 0, rows)
    return q, scale, sums


def dequantise_rows(const signed char[:, ::1] q, const float[::1] scale, Py_ssize_t columns):
    """q · scale, the first `columns` of every row.   q (M, >= columns) int8, scale (M,) -> (M, columns)"""
    cdef Py_ssize_t rows = q.shape[0], padded = q.shape[1]
    if scale.shape[0] != rows or padded < columns:
        raise ValueError(f"q {(rows, padded)} and scale {(scale.shape[0],)} do not fit {columns} columns")
    x = np.empty((rows, columns), np.float32)
    cdef float[:, ::1] target = x
    if rows and columns:
        with nogil:
            kernels.dequantise_rows(&q[0, 0], &scale[0], &target[0, 0], columns, padded, rows)
    return x


def pack_weights(const signed char[:, ::1] weight, const float[:, ::1] magnitude, Py_ssize_t group, int offset,
                 float[::1] effective, unsigned char[::1] codes, bint panels):
    """Fill effective = weight · magnitude of its (group, row) and the codes that `integer_product` reads.

    effective (n · k,) row by row, or with panels (n · `panel_columns`(k),) as `input_gradient` reads it, zero beyond the
    columns. weight (n, k) int8 in -offset..255-offset, magnitude (ceil(k/group), padded n), codes (padded n · padded k,)."""
    cdef pack_args args
    args.rows, args.columns, args.group, args.groups = weight.shape[0], weight.shape[1], group, magnitude.shape[0]
    size = padded_rows(args.rows) * ((args.columns + PACK - 1) // PACK * PACK)
    if (magnitude.shape[1] != padded_rows(args.rows) or args.groups != (args.columns + group - 1) // group
            or effective.shape[0] != args.rows * (c_panel_columns(args.columns) if panels else args.columns)
            or codes.shape[0] != size):
        raise ValueError("pack_weights: shapes of magnitude, effective or codes do not fit the weight")
    args.weight, args.magnitude, args.effective = &weight[0, 0], &magnitude[0, 0], &effective[0]
    args.codes, args.offset, args.panels = &codes[0], offset, panels
    with nogil:
        kernels.pack_rows(&args)


def integer_product(const unsigned char[::1] codes, const signed char[:, ::1] q, const int[:, ::1] sums,
                    const float[:, ::1] magnitude, const float[::1] scale, Py_ssize_t rows, Py_ssize_t group,
                    int offset):
    """y = (Σ_g float(S_g) · magnitude_g, groups in order) · scale, S exact integers: the bits of the reference.

    codes of `pack_weights` for `rows` rows, q, scale and sums of `quantise_rows` -> (M, rows)"""
    cdef product_args args
    args.tokens, args.rows, args.packs, args.groups = q.shape[0], rows, q.shape[1] // PACK, sums.shape[1]
    args.group_packs, args.offset = (group + PACK - 1) // PACK, offset
    if args.groups > 1 and group % PACK:
        raise ValueError(f"integer_product: a group of {group} columns is not a multiple of {PACK}")
    if (codes.shape[0] != padded_rows(rows) * q.shape[1] or q.shape[1] % PACK or magnitude.shape[0] != args.groups
            or magnitude.shape[1] != padded_rows(rows) or scale.shape[0] != args.tokens
            or sums.shape[0] != args.tokens):
        raise ValueError("integer_product: shapes of codes, q, sums, magnitude and scale do not fit")
    y = np.empty((args.tokens, rows), np.float32)
    cdef float[:, ::1] target = y
    args.codes, args.q, args.sums = &codes[0], &q[0, 0], &sums[0, 0]
    args.magnitude, args.scale, args.y = &magnitude[0, 0], &scale[0], &target[0, 0]
    with nogil:
        kernels.product(&args)
    return y


def input_gradient(const float[:, ::1] dy, const float[::1] panels, Py_ssize_t columns):
    """dx = dy · W.   dy (M, n), panels of W (n, columns) by `pack_weights` -> (M, columns)"""
    cdef input_gradient_args args
    args.tokens, args.rows, args.columns = dy.shape[0], dy.shape[1], columns
    if not float_products_available() or panels.shape[0] != args.rows * c_panel_columns(columns):
        raise ValueError(f"input_gradient: {panels.shape[0]} floats are no panels of {(args.rows, columns)} here")
    dx = np.empty((args.tokens, columns), np.float32)
    cdef float[:, ::1] target = dx
    if args.tokens:
        args.dy, args.panels, args.dx = &dy[0, 0], &panels[0], &target[0, 0]
        with nogil:
            kernels.input_gradient(&args)
    return dx


def weight_gradient(const float[:, ::1] dy, const signed char[:, ::1] q, const float[::1] scale,
                    float[:, ::1] dweight, float[::1] scratch):
    """Fill dweight (n, k) = dyᵀ · (q · scale).   dy (M, n), q and scale of `quantise_rows` of M rows of k columns,
    scratch: at least `weight_gradient_scratch`(n, k) floats"""
    cdef weight_gradient_args args
    args.tokens, args.rows, args.columns, args.padded = dy.shape[0], dy.shape[1], dweight.shape[1], q.shape[1]
    if (not float_products_available() or dweight.shape[0] != args.rows or q.shape[0] != args.tokens
            or scale.shape[0] != args.tokens or args.padded < args.columns
            or scratch.shape[0] < c_weight_gradient_scratch(args.rows, args.columns)):
        raise ValueError("weight_gradient: shapes of dy, q, scale, dweight and scratch do not fit")
    args.dweight, args.scratch = &dweight[0, 0], &scratch[0]
    if args.tokens:
        args.dy, args.q, args.scale = &dy[0, 0], &q[0, 0], &scale[0]
    with nogil:
        kernels.weight_gradient(&args)


cdef ternary_args _ternary_args(const float[:, ::1] weight, const float[::1] threshold, float[::1] mean,
                                float[::1] delta, Py_ssize_t group):
    cdef ternary_args args
    args.rows, args.columns, args.group = weight.shape[0], weight.shape[1], group
    args.groups, args.padded_rows = (args.columns + group - 1) // group, padded_rows(args.rows)
    args.weight, args.threshold = &weight[0, 0], &threshold[0]
    args.mean, args.delta, args.kept = &mean[0], &delta[0], NULL
    return args


def ternarise_rows(weight, threshold, signed char[:, ::1] trits, Py_ssize_t group=0):
    """Trits by the rule of ghost_ref.ops.ternary, bit for bit.

    weight (n, k), threshold (n,) already clipped and rounded to float16, trits (n, k) int8 is filled
    -> mean, delta (n,) and, with a group, the mean of the kept |w| per (row, group), 0 where none is (else None)."""
    cdef Py_ssize_t rows = weight.shape[0], columns = weight.shape[1]
    if threshold.shape[0] != rows or trits.shape[0] != rows or trits.shape[1] != columns:
        raise ValueError("ternarise_rows: shapes of weight, threshold and trits do not fit")
    mean, delta = np.empty(rows, np.float32), np.empty(rows, np.float32)
    cdef ternary_args args = _ternary_args(weight, threshold, mean, delta, group or columns)
    args.trits = &trits[0, 0]
    kept = np.empty((rows, args.groups), np.float32) if group else None
    cdef float[:, ::1] sizes
    if group:
        sizes = kept
        args.kept = &sizes[0, 0]
    with nogil:
        kernels.ternarise_rows(&args)
    return mean, delta, kept


def ternarise_backward_rows(dweight, weight, mean, delta, const float[:, ::1] magnitude, Py_ssize_t group):
    """-> dthreshold (n,), dmagnitude (n, groups) from the gradient dweight (n, k) of the effective weight."""
    cdef Py_ssize_t rows = weight.shape[0]
    cdef float[:, ::1] gradient = dweight
    cdef ternary_args args = _ternary_args(weight, mean, mean, delta, group)
    if dweight.shape != weight.shape or magnitude.shape[0] != args.groups or magnitude.shape[1] != args.padded_rows:
        raise ValueError("ternarise_backward_rows: shapes of dweight, weight and magnitude do not fit")
    dthreshold, dmagnitude = np.empty(rows, np.float32), np.empty((rows, args.groups), np.float32)
    cdef float[::1] slopes = dthreshold
    cdef float[:, ::1] products = dmagnitude
    args.magnitude, args.dweight = &magnitude[0, 0], &gradient[0, 0]
    args.dthreshold, args.dmagnitude = &slopes[0], &products[0, 0]
    with nogil:
        kernels.ternarise_backward_rows(&args)
    return dthreshold, dmagnitude


def nearest_entries(const float[:, ::1] values, codebook):
    """ghost_ref.ops.ternary.nearest_entry of every value.   values (n, groups), codebook (256,) -> uint8"""
    if not 2 <= len(codebook) <= 256:
        raise ValueError(f"a codebook has 2 to 256 entries, got {len(codebook)}")
    order = np.argsort(codebook, kind="stable").astype(np.uint8)
    cdef const unsigned char[::1] places = order
    cdef const float[::1] entries = codebook[order]
    index = np.empty((values.shape[0], values.shape[1]), np.uint8)
    cdef unsigned char[:, ::1] target = index
    if index.size:
        with nogil:
            kernels.nearest_entries(&values[0, 0], values.shape[0] * values.shape[1], &entries[0], &places[0],
                              entries.shape[0], &target[0, 0])
    return index


def rms_norm_forward(x, gain):
    """ghost_ref.ops.norm.rms_norm_forward in float32, bit for bit."""
    x = _array("x", x, np.shape(x))
    cdef Py_ssize_t d = np.shape(gain)[0], rows = x.size // d if d else 0
    gain = _array("gain", gain, (x.shape[x.ndim - 1],))
    y, rms = np.empty_like(x), np.empty(rows, np.float32)
    cdef const float *source = _read(x)
    cdef const float *gains = _read(gain)
    cdef float *target = _write(y)
    cdef float *roots = _write(rms)
    with nogil:
        kernels.rms_norm_forward(source, gains, target, roots, rows, d)
    return y, (x, rms, gain)


def rms_norm_backward(dy, saved):
    """Gradients of x and gain."""
    x, rms, gain = saved
    dy = _array("dy", dy, x.shape)
    dx, dgain = np.empty_like(x), np.zeros_like(gain)
    cdef Py_ssize_t d = gain.size, rows = rms.size
    cdef const float *gradient = _read(dy)
    cdef const float *source = _read(x)
    cdef const float *roots = _read(rms)
    cdef const float *gains = _read(gain)
    cdef float *target = _write(dx)
    cdef float *total = _write(dgain)
    with nogil:
        kernels.rms_norm_backward(gradient, source, roots, gains, target, total, rows, d)
    return dx, dgain
