"""The kernel bodies that a GPU runs, compiled as C++ with 32 threads for a simdgroup, against the reference.

Compiled with -ffp-contract=off the forward body has the reference's bits; gradients are held to the bounds of
scan_bounds.py with the canonical exp (2 ULP). On a GPU products and sums may be contracted.
"""

import re
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_bounds import gradient_bounds
from test_scan import bits, make

from ghost_ref import numerics
from ghost_ref.errors import GhostError
from ghost_ref.ops.linear import integer_matmul
from ghost_ref.ops.scan import selective_scan_backward, selective_scan_forward
from mlx_backend.kernels import host as host_module
from mlx_backend.kernels import sources
from mlx_backend.kernels.host import compile_host
from mlx_backend.kernels.packing import pack_trits

EXP_ULP = 2
COMPILERS = [name for name in ("g++", "clang++") if shutil.which(name)]
NAMES = "x dt A B C D".split()

needs_compiler = pytest.mark.skipif(not COMPILERS, reason="needs g++ or clang++")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    return compile_host(tmp_path_factory.mktemp("kernels"))


def check(host, arrays, length=None):
    """Forward to the bit, backward within the bounds."""
    y, present = host.selective_scan_forward(*arrays, length)
    (y_true, h_true), _ = selective_scan_forward(*arrays, length=length)
    np.testing.assert_array_equal(bits(y), bits(y_true))
    np.testing.assert_array_equal(bits(present), bits(h_true))
    *inputs, past = (a.astype(np.float64) for a in arrays)
    dy = np.random.default_rng(0).standard_normal(y.shape).astype(np.float32)
    gradients = host.selective_scan_backward(dy, *arrays, length)
    _, saved = selective_scan_forward(*inputs, past, length=length)
    truth = selective_scan_backward(dy.astype(np.float64), saved)
    if length is not None:
        dy = dy * (np.arange(dy.shape[1]) < length[:, None])[..., None]
    bounds = gradient_bounds(dy, inputs, past, length, EXP_ULP)
    for name, got, true, bound in zip(NAMES, gradients, truth, bounds, strict=True):
        assert got.shape == true.shape and got.dtype == np.float32
        assert (np.abs(got - true) <= bound).all(), name


@needs_compiler
def test_exp_has_the_canonical_bits(host):
    x = np.concatenate([np.linspace(-110, 95, 100_001), [0.0, -0.0, np.inf, -np.inf, 1e-40, -3e38]]).astype(np.float32)
    np.testing.assert_array_equal(bits(host.exp(x)), bits(numerics.exp(x)))
    assert np.isnan(host.exp(np.array([np.nan], np.float32)))[0]


@needs_compiler
@pytest.mark.parametrize("first", range(1, 258, 32))
def test_every_length(host, first):
    for steps in range(first, min(first + 32, 258)):
        check(host, make(steps, 1, steps, 3, 2))


@needs_compiler
@pytest.mark.parametrize("n", [1, 4, 16, 17])
@pytest.mark.parametrize("channels", [1, 31, 32, 33, 64, 70])
def test_edges_of_simdgroups_and_states(host, channels, n):
    check(host, make(channels, 2, 19, channels, n))


@needs_compiler
@pytest.mark.parametrize("steps", [7, 8, 9, 33])
def test_lengths_are_masks(host, steps):
    arrays = make(1, 5, steps, 33, 3)
    arrays[6][:, 0] = -0.0  # a masked step keeps even the sign of zero
    check(host, arrays, np.array([0, 1, steps // 2, steps - 1, steps]))
    without_past = [*arrays[:6], np.zeros_like(arrays[6])]
    for got, expected in zip(host.selective_scan_forward(*arrays[:6]), host.selective_scan_forward(*without_past)):
        np.testing.assert_array_equal(bits(got), bits(expected))


@needs_compiler
def test_decays_that_underflow_give_no_nan(host):
    arrays = make(2, 2, 50, 5, 3)
    arrays[1][:, ::3] = 1e4  # exp(dt·A) = 0
    arrays[1][:, 1::3] = 60  # products of decays underflow
    check(host, arrays)
    gradients = host.selective_scan_backward(np.ones_like(arrays[0]), *arrays)
    assert all(np.isfinite(g).all() for g in gradients)


@needs_compiler
def test_the_largest_state_and_one_more(host):
    check(host, make(3, 1, 9, 2, sources.LARGEST_STATE))
    with pytest.raises(GhostError, match="at most 64 states"):
        host.selective_scan_forward(*make(3, 1, 9, 2, sources.LARGEST_STATE + 1))


def ternary_expected(q, weight, scale, s_x):
    return (integer_matmul(q.astype(np.float32), weight.astype(np.float32), 1) * scale) * s_x


@needs_compiler
@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 35), st.integers(1, 600), st.integers(1, 9))
def test_ternary_matmul_is_exact(host, seed, rows, inner, outputs):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-1, 2, (outputs, inner))
    q = rng.integers(-127, 128, (rows, inner)).astype(np.int8)
    scale, s_x = rng.random(outputs, dtype=np.float32), rng.random((rows, 1), dtype=np.float32)
    y = host.ternary_matmul(q, pack_trits(weight), scale, s_x)
    np.testing.assert_array_equal(bits(y), bits(ternary_expected(q, weight, scale, s_x)))


@needs_compiler
def test_ternary_matmul_of_large_sums_leading_axes_and_nan(host):
    q, weight = np.full((2, 3, 140_001), 127, np.int8), np.ones((2, 140_001), np.int8)  # sums beyond 2^24
    weight[1] = -1
    scale, s_x = np.float32([0.3, 0.7]), np.full((2, 3, 1), 0.01, np.float32)
    s_x[1, 2] = np.nan
    y = host.ternary_matmul(q, pack_trits(weight), scale, s_x)
    assert y.shape == (2, 3, 2) and np.isnan(y[1, 2]).all()
    np.testing.assert_array_equal(y, ternary_expected(q, weight, scale, s_x))


def test_packed_trits_are_two_bits_each_with_zero_trits_at_the_end():
    packed = pack_trits(np.array([[1, 0, -1] + [0] * 13 + [1]]))
    assert packed.dtype == np.uint32
    np.testing.assert_array_equal(packed, [[0x55555546, 0x55555556]])


@pytest.mark.parametrize("compiler", COMPILERS)
def test_both_compilers_accept_the_bodies_without_a_warning(compiler, tmp_path):
    check(compile_host(tmp_path, compiler), make(4, 1, 9, 33, 2))


def test_without_a_compiler_the_error_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(GhostError, match=r"no C\+\+ compiler found \(tried no-such-compiler\): install"):
        compile_host(tmp_path, "no-such-compiler")
    monkeypatch.setenv("CXX", "neither-this-one")
    with pytest.raises(GhostError, match="neither-this-one"):
        compile_host(tmp_path)
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(host_module.shutil, "which", lambda name: None)
    with pytest.raises(GhostError, match=r"tried g\+\+, clang\+\+"):
        compile_host(tmp_path)


@pytest.mark.skipif(not COMPILERS, reason="needs g++ or clang++")
def test_a_body_that_does_not_compile_is_reported(tmp_path):
    with pytest.raises(GhostError, match="could not compile"):
        compile_host(tmp_path, flags=("-DSTATES=%",))


@pytest.mark.parametrize("kernel", sources.KERNELS)
def test_texts_are_fit_for_mlx(kernel):
    """MLX passes Metal sources as ASCII, and adds a parameter for every `<input>_shape` it finds in a source."""
    kernel = sources.KERNELS[kernel]
    for text in (sources.text(kernel.name), *map(sources.header, ("metal", "cuda", "host")), *sources.PLACES.values()):
        assert text.isascii()
        assert not [n for n in kernel.inputs if re.search(rf"{n}_(shape|strides|ndim)", text)]
    for constant, value in (("CHUNK", sources.CHUNK), ("SUMS", sources.SUMS)):
        assert f"#define GHOST_{constant} {value}\n" in sources.text("common_subset")


METAL_SHIM = """
#define device __global
#define constant __constant
#define thread __private
typedef int int32_t; typedef signed char int8_t; typedef unsigned int uint32_t;
typedef unsigned int uint; typedef unsigned short ushort; typedef unsigned long size_t;
typedef unsigned int uint3 __attribute__((ext_vector_type(3)));
template <typename T, typename U> T as_type(U value) {
  union { U from; T to; } both; both.from = value; return both.to;
}
namespace metal { template <typename T> T simd_shuffle_xor(T value, ushort mask) { return mask > 31 ? T(0) : value; } }
"""
CUDA_SHIM = """
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __forceinline__ inline __attribute__((always_inline))
typedef unsigned long size_t;
struct Index { unsigned x, y, z; };
extern __device__ const Index threadIdx, blockIdx;
__device__ float __uint_as_float(unsigned);
__device__ unsigned __float_as_uint(float);
__device__ float __shfl_xor_sync(unsigned, float, int);
__device__ int __shfl_xor_sync(unsigned, int, int);
"""
needs_clang = pytest.mark.skipif(not shutil.which("clang++"), reason="needs clang++")


def clang_errors(text, path, *flags):
    path.write_text(text)
    command = ["clang++", *flags, "-fsyntax-only", "-Wall", "-Wno-unknown-cuda-version", "-Wno-unknown-attributes"]
    return subprocess.run([*command, "-Werror", str(path)], capture_output=True, text=True, check=False).stderr


def metal_errors(text, tmp_path):
    return clang_errors(METAL_SHIM + text, tmp_path / "kernel.cl", "-x", "cl", "-cl-std=clc++",
                        "-Xclang", "-finclude-default-header")  # fmt: skip


def metal_text(name, size, capfd, tmp_path):
    """The source that MLX itself makes for Metal; it prints it, without a GPU, while it exports a function."""
    mx = pytest.importorskip("mlx.core")
    from mlx_backend.kernels import device

    kernel = sources.KERNELS[name]
    dtypes = device.DTYPES

    def function(*arrays):
        return device.built("metal", name)(
            inputs=list(arrays), output_shapes=[(size,)] * len(kernel.outputs),
            output_dtypes=[dtypes[kind] for kind in kernel.outputs.values()], grid=(32, 1, 1),
            threadgroup=(32, 1, 1), template=[(constant, 16) for constant in kernel.constants], verbose=True,
        )  # fmt: skip

    arrays = [mx.zeros((size,), dtypes[kind]) for kind in kernel.inputs.values()]
    mx.export_function(str(tmp_path / "kernel.mlxfn"), function, *arrays)
    printed = capfd.readouterr().out.split("```\n")[1]
    return re.sub(r"\[\[host_name\([^)]*\)\]\] \[\[kernel\]\]", "", printed)


@needs_clang
@pytest.mark.parametrize("size", [1, 100])  # MLX puts arrays of fewer than 8 elements into constant memory
@pytest.mark.parametrize("name", sources.KERNELS)
def test_metal_source_is_well_formed_and_keeps_address_spaces_apart(name, size, capfd, tmp_path):
    """Read as C++ for OpenCL, which has Metal's address spaces under other names."""
    text = metal_text(name, size, capfd, tmp_path)
    assert ("const constant float" in text) == (size < 8)
    assert metal_errors(text, tmp_path) == ""
    output = next(iter(sources.KERNELS[name].outputs))
    wrong = text.replace("ghost_lane_sums(sums, lane)", f"ghost_lane_sums({output}, lane)")
    wrong = wrong.replace("ghost_exp(step_size * rate[n])", "ghost_exp(&step_size)")
    assert "error: " in metal_errors(wrong, tmp_path)


@needs_clang
def test_cuda_source_is_well_formed(tmp_path):
    text = CUDA_SHIM + sources.header("cuda")
    for kernel in sources.KERNELS.values():
        parameters = [f"const {kind}* {name}" for name, kind in kernel.inputs.items()]
        parameters += [f"{kind}* {name}" for name, kind in kernel.outputs.items()]
        constants = "".join(f"constexpr int {name} = 16;\n" for name in kernel.constants)
        body = constants + sources.PLACES["cuda"] + sources.text(kernel.name)
        text += f"__global__ void {kernel.name}({', '.join(parameters)}) {{\n{body}\n}}\n"
    flags = ("-x", "cuda", "--cuda-gpu-arch=sm_70", "--cuda-device-only", "-nocudainc", "-nocudalib", "-std=c++17")
    assert clang_errors(text, tmp_path / "kernels.cu", *flags) == ""
    assert "error: " in clang_errors(text.replace("threadIdx", "threadIndex", 2), tmp_path / "wrong.cu", *flags)
