"""The MLX selective scan against the float64 reference, within the bounds of scan_bounds.py.

The scan's exp is the reference's polynomial: k = 2 ULP, and one more where a compiler contracts. The chunked scan adds
one addition per step to the error of a product of decays (parallel_scan's docstring), which is k + 1/2 in
parallel_bound.
"""

import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

mx = pytest.importorskip("mlx.core")

from scan_bounds import gradient_bounds, parallel_bound  # noqa: E402

from ghost_ref.errors import GhostError  # noqa: E402
from ghost_ref.ops.linear import integer_matmul  # noqa: E402
from ghost_ref.ops.scan import selective_scan_backward, selective_scan_forward  # noqa: E402
from mlx_backend.kernels import device, sources  # noqa: E402
from mlx_backend.kernels.host import compile_host  # noqa: E402
from mlx_backend.kernels.packing import pack_trits  # noqa: E402
from mlx_backend.ops import scan  # noqa: E402

GRADIENTS = tuple(range(6))
EXP_ULP = 3
RANGES = (1.0, 20.0, 80.0)  # largest |dt·A|


def make(seed, batch, steps, channels, n, largest=20.0):
    """Inputs as in a trained layer, with |dt·A| <= largest; float32 x, dt, A, Bm, Cm, D, past, and dy."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, steps, channels))
    A = -np.arange(1, n + 1) * np.exp(rng.normal(0, 0.1, (channels, n)))
    dt = np.minimum(np.exp(rng.normal(-3, 1.5, x.shape)), 0.999 * largest / np.abs(A).max())
    Bm, Cm = rng.standard_normal((2, batch, steps, n))
    D, past = rng.standard_normal(channels), rng.standard_normal((batch, channels, n))
    return [a.astype(np.float32) for a in (x, dt, A, Bm, Cm, D, past, rng.standard_normal(x.shape))]


def reference(arrays, length=None):
    """float64 y, present and gradients."""
    *inputs, dy = (a.astype(np.float64) for a in arrays)
    (y, present), saved = selective_scan_forward(*inputs, length=length)
    return y, present, selective_scan_backward(dy, saved)


def evaluate(arrays, length=None, compiled=False, function=scan.parallel_scan):
    """y, present and gradients by MLX as NumPy arrays."""
    *inputs, past, dy = (mx.array(a) for a in arrays)
    lengths = None if length is None else mx.array(length)

    def loss(*values):
        y, present = function(*values, past, lengths)
        return (y * dy).sum(), y, present

    gradient = mx.value_and_grad(loss, argnums=GRADIENTS)
    (_, y, present), gradients = (mx.compile(gradient) if compiled else gradient)(*inputs)
    return np.array(y), np.array(present), [np.array(g) for g in gradients]


def check(arrays, k, length=None, **how):
    y_true, h_true, true_gradients = reference(arrays, length)
    y, present, gradients = evaluate(arrays, length, **how)
    *inputs, past, dy = (a.astype(np.float64) for a in arrays)
    steps = dy.shape[1]
    moving = list(inputs)
    if length is not None:  # a masked step leaves the state alone, and y is zero
        keep = (np.arange(steps) < length[:, None])[..., None]
        moving[1], moving[3] = inputs[1] * keep, inputs[3] * keep
        dy = dy * keep
        assert (y[~keep[..., 0]] == 0).all()
    y_bound, h_bound = parallel_bound(*moving, past, k=k + 0.5, chunk=steps)
    assert (np.abs(y - y_true) <= y_bound).all()
    assert (np.abs(present - h_true) <= h_bound).all()
    bounds = gradient_bounds(dy, inputs, past, length, k + 0.5)
    for name, got, true, bound in zip("x dt A B C D".split(), gradients, true_gradients, bounds, strict=True):
        assert got.shape == true.shape
        assert (np.abs(got - true) <= bound).all(), name


@pytest.fixture(autouse=True)
def fresh_selection(monkeypatch):
    monkeypatch.delenv("GHOST_SCAN", raising=False)
    scan._announce.cache_clear()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 15, 16, 17, 33, 257])
def test_forward_and_backward_within_the_bounds(steps, compiled):
    check(make(steps, 2, steps, 7, 16), EXP_ULP, compiled=compiled)


@pytest.mark.parametrize("largest", RANGES)
def test_every_range_of_decays(largest):
    check(make(1, 2, 70, 5, 3, largest), EXP_ULP)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("chunks", [1, 2, 99])  # in a segment
@pytest.mark.parametrize("steps", [15, 16, 17, 70])
def test_edges_of_chunks_and_segments(steps, chunks, compiled, monkeypatch):
    size = scan.CHUNK_STEPS
    monkeypatch.setattr(scan, "SEGMENT_ELEMENTS", chunks * size * 2 * 7 * 3)
    assert scan.make_plan(steps, 2 * 7 * 3).chunks == min(-(-steps // size), chunks)
    check(make(steps, 2, steps, 7, 3), EXP_ULP, compiled=compiled)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 70), st.data())
def test_lengths_are_masks(seed, steps, data):
    length = np.array(data.draw(st.lists(st.integers(0, steps), min_size=4, max_size=4)))
    check(make(seed, 4, steps, 5, 3), EXP_ULP, length=length)


def test_lengths_under_compile_and_a_masked_step_keeps_every_bit():
    arrays = make(2, 3, 33, 5, 3)
    arrays[6][0] = -0.0
    length = np.array([0, 20, 33])
    check(arrays, EXP_ULP, length=length, compiled=True)
    _, present, _ = evaluate(arrays, length)
    np.testing.assert_array_equal(present[0].view(np.int32), arrays[6][0].view(np.int32))
    for masked in (arrays[0], arrays[1], arrays[3], arrays[4]):
        masked[1, 20:] = 7
    np.testing.assert_array_equal(evaluate(arrays, length)[1], present)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 40), min_size=2, max_size=4))
def test_a_split_with_carried_state_is_the_whole(seed, parts):
    arrays = make(seed, 2, sum(parts), 5, 3)
    *truth, _ = (a.astype(np.float64) for a in arrays)
    (y_true, h_true), _ = selective_scan_forward(*truth)
    x, dt, A, Bm, Cm, D, state, _ = (mx.array(a) for a in arrays)
    pieces, start = [], 0
    for part in parts:
        now = slice(start, start + part)
        y, state = scan.parallel_scan(x[:, now], dt[:, now], A, Bm[:, now], Cm[:, now], D, state)
        pieces.append(np.array(y))
        start += part
    y_bound, h_bound = parallel_bound(*truth, k=EXP_ULP + 0.5, chunk=sum(parts))
    assert (np.abs(np.concatenate(pieces, 1) - y_true) <= y_bound).all()
    assert (np.abs(np.array(state) - h_true) <= h_bound).all()


def test_without_past_the_state_is_zero():
    x, dt, A, Bm, Cm, D, past, _ = (mx.array(a) for a in make(3, 2, 20, 5, 3))
    without, zeros = scan.parallel_scan(x, dt, A, Bm, Cm, D), scan.parallel_scan(x, dt, A, Bm, Cm, D, past * 0)
    for got, expected in zip(without, zeros):
        np.testing.assert_array_equal(np.array(got), np.array(expected))


def test_past_and_present_carry_no_gradient():
    x, dt, A, Bm, Cm, D, past, _ = (mx.array(a) for a in make(4, 2, 20, 5, 3))
    of_past = mx.grad(lambda past: scan.parallel_scan(x, dt, A, Bm, Cm, D, past)[0].sum())(past)
    of_x = mx.grad(lambda x: scan.parallel_scan(x, dt, A, Bm, Cm, D, past)[1].sum())(x)
    assert not np.array(of_past).any() and not np.array(of_x).any()


def test_decays_that_underflow_give_no_nan():
    arrays = make(5, 2, 130, 5, 3)
    arrays[1][:, ::3] = 1e4  # exp(dt·A) = 0
    arrays[1][:, 1::3] = 60  # products of decays underflow
    y, present, gradients = evaluate(arrays)
    assert all(np.isfinite(v).all() for v in (y, present, *gradients))


def test_is_causal_to_the_bit():
    x, *rest, _ = make(6, 2, 70, 7, 3)
    rest = [mx.array(a) for a in rest]
    before = np.array(scan.parallel_scan(mx.array(x), *rest)[0])
    x[:, 41] += 1
    after = np.array(scan.parallel_scan(mx.array(x), *rest)[0])
    np.testing.assert_array_equal(before[:, :41], after[:, :41])
    assert (before[:, 41] != after[:, 41]).all()


def test_mixed_dtypes_and_wrong_shapes_are_refused():
    arrays = [mx.array(a) for a in make(7, 2, 5, 7, 3)[:7]]
    for index in range(1, 7):
        bad = list(arrays)
        bad[index] = arrays[index].astype(mx.float16)
        with pytest.raises(TypeError, match="same dtype"):
            scan.selective_scan(*bad)
        bad[index] = arrays[index][..., 1:]
        with pytest.raises(ValueError, match="do not fit"):
            scan.selective_scan(*bad)


def test_compiled_once_and_memory_does_not_grow():
    traces = []
    *inputs, past, dy = (mx.array(a) for a in make(8, 2, 65, 7, 3))

    def loss(*values):
        traces.append(1)
        return (scan.selective_scan(*values, past)[0] * dy).sum()

    gradient = mx.compile(mx.value_and_grad(loss, argnums=GRADIENTS))
    used = []
    for _ in range(30):
        mx.eval(gradient(*inputs))
        used.append(mx.get_active_memory())
    assert len(traces) == 1
    assert used[-1] == used[2]


def test_memory_of_a_step_does_not_hold_a_state_per_token():
    """Inputs, gradients, chunk starts and one segment: no more than the (B, L, E, N) states alone would take."""
    arrays = [mx.array(a) for a in make(9, 1, 1024, 256, 16)]
    *inputs, past, dy = arrays
    gradient = mx.value_and_grad(lambda *v: (scan.parallel_scan(*v, past)[0] * dy).sum(), argnums=GRADIENTS)
    mx.eval(arrays)
    mx.clear_cache()
    mx.reset_peak_memory()
    start = mx.get_active_memory()
    mx.eval(gradient(*inputs))
    assert mx.get_peak_memory() - start < 16 << 20


def host_runner(directory):
    """Runs the kernel bodies as C++ where a GPU would run them."""
    host = compile_host(directory)

    def run(kernel, arrays, shapes, constants, grid):
        inputs = {name: np.array(a) for name, a in arrays.items()}
        return [mx.array(a) for a in host.run(kernel, inputs, shapes, constants, grid).values()]

    return run


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs g++ or clang++")
@pytest.mark.parametrize("length", [None, [0, 20, 33]])
def test_the_fused_scan_joins_its_kernels(length, tmp_path, monkeypatch):
    run = host_runner(tmp_path)
    monkeypatch.setattr(device, "available", lambda: "metal")
    monkeypatch.setattr(device, "runner", lambda dialect: run)
    length = None if length is None else np.array(length)
    check(make(10, 3, 33, 40, 3), 2, length=length, function=scan.selective_scan)  # the bodies' exp is good to 2 ULP


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs g++ or clang++")
def test_the_ternary_matmul_joins_its_kernel(tmp_path):
    rng = np.random.default_rng(11)
    weight, q = rng.integers(-1, 2, (5, 37)), rng.integers(-127, 128, (2, 9, 37)).astype(np.float32)
    scale, s_x = rng.random(5, dtype=np.float32), rng.random((2, 9, 1), dtype=np.float32)
    arrays = [mx.array(a) for a in (q, pack_trits(weight), scale, s_x)]
    y = device.ternary_matmul(*arrays, run=host_runner(tmp_path))
    np.testing.assert_array_equal(np.array(y), (integer_matmul(q, weight.astype(np.float32), 1) * scale) * s_x)


def arrays_like(dtype=mx.float32, n=16):
    return SimpleNamespace(dtype=dtype), SimpleNamespace(shape=(7, n))


def test_the_choice_follows_the_device_and_is_logged_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "ghost.mlx")
    assert scan.choose(*arrays_like()) == scan.choose(*arrays_like()) == (device.available() or "ops")
    assert len(caplog.records) == 1 and "selective scan: " in caplog.text and "kernels: " in caplog.text
    for dialect in ("metal", "cuda"):
        monkeypatch.setattr(device, "available", lambda dialect=dialect: dialect)
        assert scan.choose(*arrays_like()) == dialect
        assert scan.choose(*arrays_like(n=sources.LARGEST_STATE + 1)) == "ops"
        assert scan.choose(*arrays_like(mx.float16)) == "ops"
        monkeypatch.setenv("GHOST_SCAN", "ops")
        assert scan.choose(*arrays_like()) == "ops"
        monkeypatch.setenv("GHOST_SCAN", dialect)
        assert scan.choose(*arrays_like()) == dialect
        with pytest.raises(GhostError, match="at most 64 states"):
            scan.choose(*arrays_like(n=65))
        monkeypatch.delenv("GHOST_SCAN")


def test_a_choice_that_cannot_be_had_is_refused(monkeypatch):
    monkeypatch.setenv("GHOST_SCAN", "fast")
    with pytest.raises(GhostError, match="GHOST_SCAN=fast is unknown: use ops, metal or cuda"):
        scan.choose(*arrays_like())
    monkeypatch.setattr(device, "available", lambda: None)
    for dialect in ("metal", "cuda"):
        monkeypatch.setenv("GHOST_SCAN", dialect)
        with pytest.raises(GhostError, match=f"GHOST_SCAN={dialect} cannot run on"):
            scan.choose(*arrays_like())


def test_a_cpu_has_no_kernel():
    if mx.default_device().type == mx.DeviceType.cpu:
        assert device.available() is None
