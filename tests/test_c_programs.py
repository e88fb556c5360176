"""ghost.h and libghost in C programs: how they compile, link, install, and stand it when memory runs out."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from device_build import ROOT, build
from models import SMALL, random_weights

from ghost_ref.config import SEP, SamplingConfig
from ghost_ref.packed import save_packed
from ghost_ref.runtime import load

HEADER = ROOT / "ext/capi/ghost.h"
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]


@pytest.fixture(scope="module")
def folder() -> Path:
    return build()


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("device") / "small.ghost"
    save_packed(file, random_weights(SMALL, 1), SMALL)
    return str(file)


def compiled(folder: Path, tmp_path: Path, source: Path, *flags: str) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("NOT RUN: no gcc")
    binary = tmp_path / source.stem
    subprocess.run(["gcc", "-std=c11", *STRICT, f"-I{HEADER.parent}", str(source), *flags, "-o", str(binary)],
                   check=True)
    return binary


@pytest.mark.parametrize("link", ["static", "shared"])
def test_the_example(folder, path, tmp_path, link):
    reference = load(path, backend="reference")
    flags = [str(folder / "libghost.a"), "-lstdc++", "-lm", "-pthread"] if link == "static" else \
        [f"-L{folder}", "-lghost", f"-Wl,-rpath,{folder}"]
    source = ROOT / "examples/embed_c/embed.c"
    assert len(source.read_text().splitlines()) <= 45
    example = compiled(folder, tmp_path, source, *flags)
    done = subprocess.run([example, path, "list pods"], capture_output=True)
    assert done.returncode == 0 and done.stderr == b""
    expected = b"".join(
        bytes(reference.generate_bytes(b"list pods" + bytes([SEP]), SamplingConfig(temp=temp, max_bytes=64))) + b"\n"
        for temp in (0.0, 0.5, 1.0))
    head, _, answers = done.stdout.partition(b"\n")
    assert re.fullmatch(rb".*small\.ghost: level \w+, \d+ bytes", head) and answers == expected
    done = subprocess.run([example, path + "x", "q"], capture_output=True)
    assert done.returncode == 2 and b"No such file" in done.stderr and done.stdout == b""
    assert subprocess.run([example], capture_output=True).returncode == 2


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("gcc", "c11"), ("clang", "c99"),
                                                    ("g++", "c++11"), ("clang++", "c++20")])
def test_the_header_stands_alone(compiler, standard):
    if not shutil.which(compiler):
        pytest.skip(f"NOT RUN: no {compiler}")
    language = "c++" if "++" in compiler else "c"
    subprocess.run([compiler, f"-std={standard}", *STRICT, "-fsyntax-only", "-x", language, "-"], check=True,
                   input=f'#include "{HEADER}"\n#include "{HEADER}"\nint main(void) {{ return GHOST_OK; }}\n'.encode())


def test_only_the_interface_is_visible(folder):
    if not shutil.which("nm"):
        pytest.skip("NOT RUN: no nm")
    listed = subprocess.run(["nm", "-D", "--defined-only", folder / "libghost.so.0"], check=True, capture_output=True)
    names = {line.split()[2] for line in listed.stdout.decode().splitlines()}
    assert names == set(re.findall(r"(?m)^GHOST_API .*?(\w+)\(", HEADER.read_text())) and len(names) == 17


MALLOC = r"""
#include <stdio.h>
#include <stdlib.h>
#include "ghost.h"
void* __libc_malloc(size_t size);
void* __libc_memalign(size_t alignment, size_t size);
static long left = -1; /* allocations until one fails; -1: none does */
static int fails(void) { return left >= 0 && left-- == 0; }
void* malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void* aligned_alloc(size_t alignment, size_t size) { return fails() ? NULL : __libc_memalign(alignment, size); }
static int ignore(void* context, uint8_t byte) { (void)context; (void)byte; return 0; }

int main(int argc, char** argv) {
  long failures = 0;
  if (argc != 2) return 2;
  for (long n = 0;; ++n) {
    ghost_error error;
    ghost_model* model = NULL;
    ghost_state *state = NULL, *copy = NULL;
    int wrong;
    left = n;
    wrong = ghost_load(argv[1], 2, NULL, &model, &error) || ghost_new_state(model, &state, &error) ||
            ghost_fork(state, &copy, &error) ||
            ghost_step((ghost_state*[]){state, copy}, (const uint8_t*)"ab", 2, NULL, &error) ||
            ghost_generate(copy, (const uint8_t*)"abc", 3, NULL, 4, ignore, NULL, NULL, &error);
    failures += wrong;
    if (wrong && error.text[0] == 0) return 1;
    n += n > 400 ? n / 50 : 0; /* the header's many small strings */
    if (left >= 0) wrong = -1;
    left = -1;
    ghost_free(model);
    ghost_free_state(copy);
    ghost_free_state(state);
    if (wrong == -1) break;
  }
  printf("%ld\n", failures);
  return 0;
}
"""


@pytest.mark.slow
def test_a_host_survives_every_failed_allocation(path, tmp_path):
    """Built with EXCEPTIONS=1: the n-th allocation fails, for every n."""
    folder = build("device-exceptions", EXCEPTIONS="1")
    source = tmp_path / "failing.c"
    source.write_text(MALLOC)
    program = compiled(folder, tmp_path, source, str(folder / "libghost.a"), "-lstdc++", "-lm", "-pthread")
    done = subprocess.run([program, path], capture_output=True)
    assert done.returncode == 0 and int(done.stdout) > 100, done


@pytest.mark.slow
@pytest.mark.parametrize("shared", ["OFF", "ON"])
def test_cmake_installs_a_package(path, tmp_path, shared):
    if not shutil.which("cmake"):
        pytest.skip("NOT RUN: no cmake")
    (tmp_path / "host").mkdir()
    (tmp_path / "host/CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(host LANGUAGES C CXX)\nfind_package(ghost REQUIRED)\n"
        f"add_executable(host {ROOT}/examples/embed_c/embed.c)\ntarget_link_libraries(host ghost::ghost)\n")
    prefix = tmp_path / "prefix"
    for source, folder, more in ((ROOT, "library", [f"-DBUILD_SHARED_LIBS={shared}", "-DCMAKE_CXX_FLAGS=-Werror"]),
                                 (tmp_path / "host", "program", [f"-DCMAKE_PREFIX_PATH={prefix}"])):
        binary = str(tmp_path / folder)
        subprocess.run(["cmake", "-S", source, "-B", binary, f"-DCMAKE_INSTALL_PREFIX={prefix}", *more], check=True,
                       capture_output=True)
        subprocess.run(["cmake", "--build", binary, f"-j{os.cpu_count()}"], check=True, capture_output=True)
        if folder == "library":
            subprocess.run(["cmake", "--install", binary], check=True, capture_output=True)
    done = subprocess.run([tmp_path / "program/host", path, "q"], check=True, capture_output=True)
    assert b"level" in done.stdout
    checked = subprocess.run([prefix / "bin/ghost-run", "check", path], capture_output=True, check=True,
                             env={**os.environ, "LD_LIBRARY_PATH": str(prefix / "lib")})
    assert b"the same bits everywhere" in checked.stdout
