"""The peer llama.cpp: fetched from the Python registry and built here, for this CPU, without a GPU.

    python benchmarks/llama_cpp.py                      # fetch and build; later calls find everything in place

The source is the package llama-cpp-python 0.3.36, of which only the llama.cpp in it is unpacked. It is built with
-march=native (GGML_NATIVE), once with OpenMP and once with llama.cpp's own threads: which is quicker depends on the
model. Everything lies in $GHOST_BENCH_CACHE, by default ~/.cache/ghost-bench. It takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ghost_ref.errors import GhostError

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
NAME = f"{PACKAGE.replace('-', '_')}-{VERSION}"
OPTIONS = {"CMAKE_BUILD_TYPE": "Release", "BUILD_SHARED_LIBS": "OFF", "GGML_NATIVE": "ON", "LLAMA_BUILD_TESTS": "OFF",
           "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_SERVER": "OFF", "LLAMA_BUILD_APP": "OFF", "LLAMA_OPENSSL": "OFF"}
THREADING = {"OpenMP": "ON", "own threads": "OFF"}  # {what it is called in reports: GGML_OPENMP}
BUILT = ("ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a", "bin/llama-bench",
         "bin/llama-quantize")
SOURCE = Path(__file__).resolve().parent / "llama_cpp" / "ggml_speed.cpp"
WRONG_RESULT = 0.25  # relative error that no quantisation of ternary weights comes near


def cache() -> Path:
    return Path(os.environ.get("GHOST_BENCH_CACHE") or Path.home() / ".cache" / "ghost-bench")


@dataclass(frozen=True)
class Programs:
    """One build's programs."""

    threading: str
    folder: Path

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


def programs(threading: str) -> Programs:
    """The finished programs. Raises GhostError where they are not built."""
    found = Programs(threading, _folder(threading))
    if not (found.folder / "ggml-speed").exists():
        raise GhostError("llama.cpp is not built; run python benchmarks/llama_cpp.py (a quarter of an hour).")
    return found


def fetch() -> Path:
    """The llama.cpp source tree."""
    source = cache() / NAME / "vendor" / "llama.cpp"
    if (source / "CMakeLists.txt").exists():
        return source
    cache().mkdir(parents=True, exist_ok=True)
    archive = cache() / f"{NAME}.tar.gz"
    if not archive.exists():
        _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", PACKAGE, "-d", str(cache()),
              f"{PACKAGE}=={VERSION}"])
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise GhostError(f"{archive} is not {PACKAGE} {VERSION} as these benchmarks know it; delete it and try again.")
    with tarfile.open(archive) as tar:
        prefix = f"{NAME}/vendor/llama.cpp/"
        tar.extractall(cache(), [member for member in tar if member.name.startswith(prefix)], filter="data")
    return source


def build(jobs: int) -> None:
    """Build both ways of threading, one after the other in one tree: they differ in a few files."""
    source, tree = fetch(), cache() / NAME / "build"
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None:
        raise GhostError('cmake is not installed; python -m pip install -e ".[bench]" brings it.')
    for threading, openmp in THREADING.items():
        target = _folder(threading)
        if not (target / Path(BUILT[-1]).name).exists():
            flags = [f"-D{name}={value}" for name, value in {**OPTIONS, "GGML_OPENMP": openmp}.items()]
            _run([cmake, "-S", str(source), "-B", str(tree), *flags])
            _run([cmake, "--build", str(tree), "-j", str(jobs), "--target", "llama-bench", "llama-quantize"])
            target.mkdir(exist_ok=True)
            for path in BUILT:
                shutil.copy2(tree / path, target / Path(path).name)
        _compile_worker(source, target, openmp == "ON")


def _folder(threading: str) -> Path:
    return cache() / NAME / f"bin-{threading.replace(' ', '-').lower()}"


def _compile_worker(source: Path, target: Path, openmp: bool) -> None:
    program = target / "ggml-speed"
    if program.exists() and program.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    libraries = [str(target / Path(path).name) for path in BUILT if path.endswith(".a")]
    _run([os.environ.get("CXX", "g++"), "-std=c++17", "-O2", f"-I{source / 'ggml' / 'include'}", str(SOURCE),
          *libraries, *(["-fopenmp"] if openmp else []), "-pthread", "-ldl", "-o", str(program)])


def _run(command: list[str]) -> None:
    """Run it, its output to a log; on failure the log's end is the error."""
    log = cache() / "build.log"
    print("+", " ".join(command), file=sys.stderr, flush=True)
    with log.open("ab") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise GhostError(f"{Path(command[0]).name} failed ({tail[0] if tail else 'no output'}); see {log}.")


class Ggml:
    """The worker process that times single operations of ggml."""

    def __init__(self, threading: str = "OpenMP") -> None:
        self.process = subprocess.Popen([programs(threading)["ggml-speed"]], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def matmul(self, kind: str, rows: int, columns: int, tokens: int, threads: int, repack: bool) -> int:
        """The number of a new problem. Raises GhostError where ggml cannot do it or gives a wrong result."""
        return self._problem(f"matmul {kind.lower()} {rows} {columns} {tokens} {threads} {int(repack)}")

    def scan(self, channels: int, states: int, tokens: int, threads: int) -> int:
        return self._problem(f"scan {channels} {states} {tokens} {threads}")

    def time(self, problem: int, seconds: float) -> float:
        """Seconds per operation."""
        return float(self._ask(f"time {problem} {seconds}"))

    def _problem(self, command: str) -> int:
        number, error = self._ask(command).split()
        if not float(error) < WRONG_RESULT:
            raise GhostError(f"ggml's result of '{command}' is wrong by {float(error):.0%}.")
        return int(number)

    def _ask(self, command: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise GhostError(f"ggml-speed ended at '{command}' (status {self.process.wait()}).")
        if answer.startswith("error: "):
            raise GhostError(answer.removeprefix("error: "))
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def llama_bench(built: Programs, model: Path, threads: int, prefill: int, decode: int) -> dict[str, float]:
    """{"prefill", "decode"}: seconds per token, as llama-bench reports one repetition after its own warm-up."""
    command = [str(built["llama-bench"]), "-m", str(model), "-t", str(threads), "-p", str(prefill), "-n", str(decode),
               "-r", "1", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise GhostError(f"llama-bench failed on {model.name}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    tests = json.loads(done.stdout)
    return {"prefill" if test["n_prompt"] else "decode": 1 / test["avg_ts"] for test in tests}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time (%(default)s)")
    try:
        build(parser.parse_args().jobs)
    except GhostError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"llama.cpp from {PACKAGE} {VERSION} is built in {cache() / NAME}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
