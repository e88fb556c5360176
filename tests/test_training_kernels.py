"""The compiled training kernels: within error bounds of the NumPy pairs in float64, and always the same bits."""

import hashlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scan_bounds import U, gradient_bounds, sequential_bound
from test_conv import make as make_conv
from test_scan import make as make_scan

from ghost_ref import training_ops
from ghost_ref.ops import activation, conv, scan

REASON = "ghost_ref._train is not built (no C compiler when the package was installed)"
train = pytest.importorskip("ghost_ref._train", reason=REASON)

EXP_ULP, SILU_ULP, SOFTPLUS_ULP = 1, 4, 3
PAIRS = [
    (conv, "causal_conv1d"),
    (scan, "selective_scan"),
    (activation, "silu"),
    (activation, "softplus"),
]


def bits(a):
    return np.ascontiguousarray(a).view(np.int32)


def ulps(y, truth):
    """|y - truth| in units of the last place of the truth rounded to float32."""
    return np.abs(y - truth) / np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)


@pytest.mark.parametrize(("module", "name"), PAIRS)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_signatures_overlay_the_numpy_pairs(module, name, direction):
    ours, theirs = (inspect.signature(getattr(m, f"{name}_{direction}")) for m in (train, module))
    assert str(ours) == str(theirs)


def lengths(steps, masked):
    return np.array([steps // 2, steps, 0]) if masked else None


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n", [1, 3, 16, 17])
@pytest.mark.parametrize("channels", [1, 7, 16, 33])
@pytest.mark.parametrize("steps", [0, 1, 5, 64, 65])
def test_scan_within_bounds(steps, channels, n, masked):
    check_scan(3, steps, channels, n, lengths(steps, masked))


@pytest.mark.parametrize(("batch", "channels"), [(12, 130), (40, 40), (1, 600)])
def test_scan_within_bounds_for_every_way_to_group_channels(batch, channels):
    check_scan(batch, 33, channels, 2, None)


def check_scan(batch, steps, channels, n, length):
    *arrays, past = make_scan(steps + n, batch, steps, channels, n)
    truth, start = [a.astype(np.float64) for a in arrays], past.astype(np.float64)
    (y, present), saved = train.selective_scan_forward(*arrays, past, length=length)
    (y_true, h_true), saved_true = scan.selective_scan_forward(*truth, start, length=length)
    assert y.dtype == present.dtype == np.float32
    y_bound, h_bound = sequential_bound(*truth, start, k=EXP_ULP)
    assert (np.abs(y - y_true) <= y_bound).all()
    if length is None:
        assert (np.abs(present - h_true) <= h_bound).all()
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    gradients = train.selective_scan_backward(dy, saved)
    expected = scan.selective_scan_backward(dy.astype(np.float64), saved_true)
    if length is not None:
        dy *= (np.arange(steps) < length[:, None])[..., None]
    bounds = gradient_bounds(dy.astype(np.float64), truth, start, length, EXP_ULP)
    for gradient, truth_gradient, bound in zip(gradients, expected, bounds, strict=True):
        assert gradient.dtype == np.float32 and gradient.shape == truth_gradient.shape
        assert (np.abs(gradient - truth_gradient) <= bound).all()


def test_scan_length_equals_truncation():
    x, dt, A, Bm, Cm, D, past = make_scan(2, 3, 70, 17, 3)
    length = np.array([33, 70, 0], np.int32)
    x[0, 33:] = dt[2] = np.nan  # the tail is not even read
    (y, present), _ = train.selective_scan_forward(x, dt, A, Bm, Cm, D, past, length=length)
    for b, kept in enumerate(length):
        row = slice(b, b + 1)
        cut = (x[row, :kept], dt[row, :kept], A, Bm[row, :kept], Cm[row, :kept], D, past[row])
        (expected, state), _ = train.selective_scan_forward(*cut)
        np.testing.assert_array_equal(bits(y[row, :kept]), bits(expected))
        np.testing.assert_array_equal(bits(present[row]), bits(state))
        assert (y[row, kept:] == 0).all()


def decay(argument):
    """exp(-argument) as the scan computes it: one step from state 1 with x = 0."""
    one = np.ones((1, argument.size, 1), np.float32)
    A, token = -one[0], np.zeros((1, 1, 1), np.float32)
    dt = argument.reshape(1, 1, -1)
    out, _ = train.selective_scan_forward(np.zeros_like(dt), dt, A, token, token, A[:, 0], one)
    return out[1].reshape(-1)


def test_exp_is_accurate_and_underflows_to_zero():
    rng = np.random.default_rng(3)
    argument = np.concatenate([rng.uniform(0, 87.33, 200_000), 10 ** rng.uniform(-8, 1.9, 100_000), [0, 87.33]])
    argument = argument.astype(np.float32)
    assert ulps(decay(argument), np.exp(-argument.astype(np.float64))).max() <= EXP_ULP
    special = np.array([0, 87.34, 1e30, -1e30, np.nan, -88.3], np.float32)
    np.testing.assert_array_equal(decay(special)[:5], [1, 0, 0, np.inf, np.nan])
    assert np.isfinite(decay(special)[5])


@pytest.mark.parametrize(("name", "limit"), [("silu", SILU_ULP), ("softplus", SOFTPLUS_ULP)])
def test_activations_within_bounds(name, limit):
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.uniform(-80, 80, 99_991), rng.standard_normal(100_000)]).astype(np.float32)
    forward, backward = (getattr(train, f"{name}_{d}") for d in ("forward", "backward"))
    truth_forward, truth_backward = (getattr(activation, f"{name}_{d}") for d in ("forward", "backward"))
    y, saved = forward(x)
    truth, truth_saved = truth_forward(x.astype(np.float64))
    assert ulps(y, truth).max() <= limit
    dy = rng.standard_normal(x.size).astype(np.float32)
    (dx,), (expected,) = backward(dy, saved), truth_backward(dy.astype(np.float64), truth_saved)
    # silu' = s·(1 + x·(1 - s)) cancels, so the bound is in its terms: s, x·s and x·s·s
    terms = np.abs(dy) / (1 + np.exp(-x.astype(np.float64))) * (1 + np.abs(x))
    assert (np.abs(dx - expected) <= 12 * U * terms + 2.0**-126).all()
    np.testing.assert_array_equal(forward(np.array([np.nan, 2.0**99, -(2.0**99)], np.float32))[0], [np.nan, 2.0**99, 0])
    assert forward(np.zeros((2, 0, 3), np.float32))[0].shape == (2, 0, 3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("channels", [1, 7, 64, 65])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 33])
def test_conv_has_the_reference_bits_and_bounded_gradients(steps, channels, taps, masked):
    arrays = make_conv(5, 3, steps, channels, taps)
    length = lengths(steps, masked)
    (y, present), saved = train.causal_conv1d_forward(*arrays, length=length)
    (expected, window), _ = conv.causal_conv1d_forward(*arrays, length=length)
    np.testing.assert_array_equal(bits(y), bits(expected))
    np.testing.assert_array_equal(bits(present), bits(window))
    dy = np.random.default_rng(6).standard_normal(y.shape).astype(np.float32)
    gradients = train.causal_conv1d_backward(dy, saved)
    truth = [a.astype(np.float64) for a in (dy, *arrays)]
    expected = conv.causal_conv1d_backward(truth[0], conv.causal_conv1d_forward(*truth[1:], length=length)[1])
    dy, *arrays = map(np.abs, truth)
    magnitudes = conv.causal_conv1d_backward(dy, conv.causal_conv1d_forward(*arrays, length=length)[1])
    for gradient, target, magnitude in zip(gradients, expected, magnitudes, strict=True):
        assert gradient.dtype == np.float32 and gradient.shape == target.shape
        assert (np.abs(gradient - target) <= (steps + 3 + taps) * U * magnitude).all()


@pytest.mark.parametrize("step", [1, 10, 1000])
def test_adamw_has_the_bits_of_numpy(step):
    rng = np.random.default_rng(step)
    p, g, m = rng.standard_normal((3, 20_001)).astype(np.float32) * np.float32(0.1)
    v = (rng.standard_normal(p.size) ** 2 * 1e-3).astype(np.float32)
    g[:10] = v[:10] = m[:10] = 0
    lr, beta1, beta2, eps, decay_rate = 3e-4, 0.9, 0.95, 1e-8, 0.1
    c1, c2 = 1 / (1 - beta1**step), 1 / (1 - beta2**step)
    f = np.float32
    m_new = f(beta1) * m + f(1 - beta1) * g
    v_new = f(beta2) * v + (f(1 - beta2) * g) * g
    p_new = p * f(1 - lr * decay_rate) - (f(lr) * (m_new * f(c1))) / (np.sqrt(v_new * f(c2)) + f(eps))
    assert train.adamw_update(p, g, m, v, lr, beta1, beta2, eps, decay_rate, c1, c2) is None
    for ours, expected in ((m, m_new), (v, v_new), (p, p_new)):
        np.testing.assert_array_equal(bits(ours), bits(expected))


def test_adamw_refuses_unequal_sizes_and_other_dtypes():
    p, g, m, v = np.zeros((4, 5), np.float32)
    factors = (1e-3, 0.9, 0.95, 1e-8, 0.1, 1.0, 1.0)
    with pytest.raises(ValueError, match="elements"):
        train.adamw_update(p, g[1:], m, v, *factors)
    with pytest.raises(ValueError, match="dtype"):
        train.adamw_update(p, g, m, v.astype(np.float64), *factors)


def outputs():
    """Every output of every kernel, at ragged shapes, with a mask and large enough to use threads."""
    arrays = make_scan(7, 5, 70, 200, 17)
    rng = np.random.default_rng(8)
    length = np.array([70, 0, 33, 64, 1])
    out, saved = train.selective_scan_forward(*arrays, length=length)
    results = [*out, *train.selective_scan_backward(arrays[0], saved)]
    x, *rest = make_conv(9, 5, 700, 301)
    out, saved = train.causal_conv1d_forward(x, *rest, length=10 * length)
    results += [*out, *train.causal_conv1d_backward(x, saved)]
    for name in ("silu", "softplus"):
        y, saved = getattr(train, f"{name}_forward")(x)
        results += [y, *getattr(train, f"{name}_backward")(y, saved)]
    p, g, m, v = np.abs(rng.standard_normal((4, 1_100_000))).astype(np.float32)
    train.adamw_update(p, g, m, v, 1e-3, 0.9, 0.95, 1e-8, 0.1, 10.0, 20.0)
    y, saved = train.rms_norm_forward(x[0], rest[1])
    results += [y, *train.rms_norm_backward(x[1], saved)]
    trits, threshold = np.empty((5, 301), np.int8), rng.uniform(0.3, 1.2, 5).astype(np.float32)
    mean, delta, kept = train.ternarise_rows(x[0, :5], threshold, trits, 64)
    magnitude = np.ones((5, train.padded_rows(5)), np.float32)
    results += [trits, mean, delta, kept, train.nearest_entries(kept, np.sort(x[1, 0, :256])),
                *train.quantise_rows(x[0], 64),
                *train.ternarise_backward_rows(x[1, :5], x[0, :5], mean, delta, magnitude, 64)]
    return [*results, p, m, v]


def digest(level=""):
    if level:
        train.use_level(level)
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in outputs())).hexdigest()


def test_repeated_runs_and_other_thread_counts_give_the_same_bits():
    expected = digest()
    assert digest() == expected
    here = Path(__file__).parent
    for threads in ("1", "2", "5"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
        command = [sys.executable, "-c", "import test_training_kernels as t; print(t.digest())"]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == expected


@pytest.mark.parametrize("level", train.levels())
def test_instruction_sets_with_equal_arithmetic_give_the_same_bits(level):
    """No kernel here adds in an order that depends on the width of vectors, and none contracts by itself: from AVX-512
    on, exponentials and scans multiply and add in one rounding, below in two."""
    best = train.level()
    twin = "avx512" if level.startswith("avx512") else "baseline"
    try:
        assert digest(level) == digest(twin)
    finally:
        train.use_level(best)


@pytest.mark.parametrize("level", train.levels())
def test_every_instruction_set_within_bounds(level):
    best = train.level()
    try:
        train.use_level(level)
        check_scan(3, 70, 33, 17, lengths(70, True))
        test_exp_is_accurate_and_underflows_to_zero()
        for name, limit in (("silu", SILU_ULP), ("softplus", SOFTPLUS_ULP)):
            test_activations_within_bounds(name, limit)
    finally:
        train.use_level(best)


def test_levels_are_named_and_unknown_ones_refused():
    assert train.levels()[0] == "baseline" and train.level() == train.levels()[-1]
    assert not set(train.levels()) & set(train.levels(missing=True))
    with pytest.raises(ValueError, match="no training kernels 'mmx', only baseline"):
        train.use_level("mmx")
    assert training_ops.describe_kernels().startswith(f"{train.level()} ")


@pytest.mark.parametrize("level", train.levels())
def test_a_levels_unit_defines_nothing_but_its_table(level, tmp_path):
    """Anything else could be linked in place of another level's copy, and run where the CPU cannot."""
    compiler, nm = shutil.which("gcc"), shutil.which("nm")
    if not compiler or not nm:
        pytest.skip("needs gcc and nm")
    folder = Path(__file__).parents[1] / "ext" / "training"
    (flags,) = [row[2:] for row in map(str.split, (folder / "levels.txt").read_text().splitlines()) if row[0] == level]
    object_file = tmp_path / "unit.o"
    subprocess.run([compiler, "-O1", "-ffp-contract=off", *flags, "-c", folder / f"kernels_{level}.c", "-o",
                    object_file], check=True)
    symbols = subprocess.run([nm, "--defined-only", "-g", object_file], check=True, capture_output=True, text=True)
    assert [line.split()[-1] for line in symbols.stdout.splitlines()] == [f"training_kernels_{level}"]


def test_strided_inputs_give_the_same_bits():
    arrays = make_scan(10, 2, 9, 7, 3)
    strided = [np.repeat(a, 2, axis=-1)[..., ::2] for a in arrays]
    assert not strided[0].flags.c_contiguous
    (y, present), saved = train.selective_scan_forward(*strided)
    (expected, state), _ = train.selective_scan_forward(*arrays)
    np.testing.assert_array_equal(bits(y), bits(expected))
    np.testing.assert_array_equal(bits(present), bits(state))
    train.selective_scan_backward(strided[0], saved)


@pytest.mark.parametrize(
    ("forward", "make"),
    [(train.selective_scan_forward, make_scan), (train.causal_conv1d_forward, make_conv)],
)
def test_wrong_inputs_are_refused(forward, make):
    arrays = make(11, 2, 5, 7, 3)
    for index, array in enumerate(arrays):
        for bad in (array.astype(np.float64), array.astype(">f4"), array.tolist()):
            with pytest.raises(TypeError, match="float32"):
                forward(*arrays[:index], bad, *arrays[index + 1 :])
        for bad in (array[..., 1:], array[None], array[..., :0]):
            with pytest.raises(ValueError, match=r"shape|axes"):
                forward(*arrays[:index], bad, *arrays[index + 1 :])
    for length in ([5], [5, 6], [-1, 5], [1.0, 2.0], [[1, 2]]):
        with pytest.raises(ValueError, match="length"):
            forward(*arrays, length=np.array(length))


def test_a_gradient_of_another_shape_is_refused():
    arrays = make_scan(12, 2, 5, 7, 3)
    _, saved = train.selective_scan_forward(*arrays)
    with pytest.raises(ValueError, match="dy has shape"):
        train.selective_scan_backward(arrays[0][:, 1:], saved)
