"""The conformance kit: one list of cases, run on every backend, judged by bounds (conformance/README.md)."""
