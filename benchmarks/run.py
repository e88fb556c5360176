"""Everything that `make bench` runs: builds the peers, measures every part, writes the page.

    python benchmarks/run.py [--quick] [--results build/bench] [--page build/bench/speed.md] [--only matmul mamba ...]

The first run builds llama.cpp (a quarter of an hour); measuring takes about 15 minutes, --quick two. A part that fails
is reported and the others go on; the exit status is then 1. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from protocol import RESULTS

HERE = Path(__file__).resolve().parent


def parts(quick: bool, results: Path) -> dict[str, list[str]]:
    """{part: the script and its arguments}, in the order they run."""
    common = ["--results", str(results), *(["--quick"] if quick else [])]
    training = ["--json", str(results / "training.json"), *(["--repeats", "2", "--scan", "eager"] if quick else [])]
    return {
        "llama.cpp": ["llama_cpp.py"],
        "limits": ["kernel_speed.py", "--json", str(results / "limits.json"), *(["--rounds", "1"] if quick else [])],
        "matmul": ["matmul_speed.py", *common],
        "mamba": ["mamba_speed.py", *common],
        "v12": ["v12_speed.py", *common],
        "length": ["length_speed.py", *common],
        "batch": ["batch_speed.py", *common],
        "model_sizes": ["model_sizes.py", *common],
        "training": ["training_speed.py", *training],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few turns and small problems: does it run at all?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files (%(default)s)")
    parser.add_argument("--page", type=Path, help="the page (default: speed.md in the results' folder)")
    parser.add_argument("--only", nargs="+", choices=list(parts(False, RESULTS)), help="these parts alone")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, command in parts(options.quick, options.results).items():
        if options.only and name not in options.only:
            continue
        print(f"=== {name}", file=sys.stderr, flush=True)
        if subprocess.run([sys.executable, str(HERE / command[0]), *command[1:]]).returncode:
            failed.append(name)
    page = options.page or options.results / "speed.md"
    render = [sys.executable, str(HERE / "render.py"), "--results", str(options.results), "--page", str(page)]
    if subprocess.run(render).returncode:
        failed.append("page")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
