"""The native build: the C++ runtime (`ghost_ref._native`) and the trainer's kernels (`ghost_ref._train`).

Environment: GHOST_PURE=1 builds no native code (everything still works, slower); GHOST_WERROR=1 turns warnings into
errors; GHOST_SANITIZE=1 adds AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import os
import sysconfig
import tempfile
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib


def enabled(name):
    return os.environ.get(name, "") not in ("", "0")


WARNINGS = ["-Wall", "-Wextra", "-Werror"] if enabled("GHOST_WERROR") else []
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"] if enabled("GHOST_SANITIZE") else []
COMMON = ["-O3", "-g0", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fPIC", *SANITIZERS]
# No function with wide vectors as arguments is ever called across units, so GCC's notes on their calling convention
# (psabi) do not matter.
NATIVE = [*COMMON, "-fvisibility=hidden", *WARNINGS, "-Wno-psabi"]
CXX = [*NATIVE, "-std=c++17"]
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # what some systems call them


def levels(folder):
    """{level: its extra compiler flags} for the machine that the build is for (levels.txt)."""
    machine = sysconfig.get_platform().rpartition("-")[2]
    rows = [line.split() for line in Path(folder, "levels.txt").read_text().splitlines() if not line.startswith("#")]
    return {level: flags for level, where, *flags in rows if where in ("any", MACHINES.get(machine, machine))}


def kernel_libraries():
    """One static library per instruction set and module: the part of setuptools that takes flags per library."""
    def library(folder, level, suffix, cflags):
        return {"sources": [f"{folder}/kernels_{level}.{suffix}"], "obj_deps": {"": glob(f"{folder}/*.h")},
                "include_dirs": [folder], "cflags": cflags}

    found = [(f"ghost_{level}", library("ext/core", level, "cpp", CXX + flags))
             for level, flags in levels("ext/core").items()]
    return found + [(f"ghost_training_{level}", library("ext/training", level, "c", NATIVE + flags))
                    for level, flags in levels("ext/training").items()]


def compiler_accepts(compiler, flag):
    """Whether a program compiles and links with the flag (Apple's clang has no OpenMP)."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "probe.c")
        source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        try:
            objects = compiler.compile([str(source)], output_dir=directory, extra_postargs=[flag])
            compiler.link_executable(objects, str(Path(directory, "probe")), extra_postargs=[flag])
        except Exception:  # every compiler class has its own
            return False
    return True


def extensions():
    from Cython.Build import cythonize
    from pybind11.setup_helpers import Pybind11Extension

    core = [path for path in sorted(glob("ext/core/*.cpp")) if "/kernels_" not in path.replace(os.sep, "/")]
    headers = glob("ext/core/*.h") + glob("ext/bindings/*.h")
    found = [Pybind11Extension("ghost_ref._native", core + sorted(glob("ext/bindings/*.cpp")), cxx_std=17,
                               include_dirs=["ext/core"], depends=headers, extra_compile_args=CXX,
                               extra_link_args=SANITIZERS)]
    found += cythonize([Extension("ghost_ref._train", ["ext/training/_train.pyx", "ext/training/levels.c"],
                                  include_dirs=["ext/training"],
                                  depends=glob("ext/training/*.[hp]*"), extra_compile_args=COMMON,
                                  extra_link_args=SANITIZERS)])
    return found


def build_ext_class():
    from pybind11.setup_helpers import build_ext

    class BuildExt(build_ext):
        """Gives the trainer's kernels OpenMP where the compiler has it."""

        def build_extensions(self):
            openmp = ["-fopenmp"] if compiler_accepts(self.compiler, "-fopenmp") else []
            for extension in self.extensions:
                if extension.name == "ghost_ref._train":
                    extension.extra_compile_args += openmp
                    extension.extra_link_args += openmp
            super().build_extensions()

    return BuildExt


if enabled("GHOST_PURE"):
    setup()
else:
    setup(ext_modules=extensions(), libraries=kernel_libraries(),
          cmdclass={"build_ext": build_ext_class(), "build_clib": build_clib})
