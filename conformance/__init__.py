"""The conformance kit: one list of cases, run on every backend, judged against the reference (conformance/README.md)."""
