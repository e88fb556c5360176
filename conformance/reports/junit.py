"""The report as JUnit XML, which CI servers read: a testsuite per backend, a testcase per case."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from conformance.reports.words import number, place
from conformance.results import DEVIATION, FAIL, RAN, BackendInfo, Cell, Report, Result, repro_command

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def junit(report: Report) -> bytes:
    """The document. FAIL is a failure; NOT RUN, n/a and DEVIATION are skipped, each with its reason.

    Source of the form: the schema of the Jenkins xUnit plug-in (junit-10.xsd), which other servers share."""
    counts = _counts(report, report.backends, report.seconds)
    root = ElementTree.Element("testsuites", {"name": "conformance", **counts})
    for backend in report.backends:
        root.append(_suite(report, backend))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _suite(report: Report, backend: BackendInfo) -> ElementTree.Element:
    results = [r for r in report.results if r.backend == backend.name]
    counts = _counts(report, [backend], sum(r.seconds for r in results))
    suite = ElementTree.Element("testsuite", {"name": _clean(backend.name), "timestamp": report.date[:19], **counts})
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"seed": report.seed, "description": backend.description, **report.machine}
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", {"name": _clean(name), "value": _clean(value)})
    for result in results:
        _case(suite, result, report)
    for component, cell in _absent(report, backend):
        case = _testcase(suite, backend.name, component, component, 0.0)
        ElementTree.SubElement(case, "skipped", {"message": _clean(f"{cell.status}: {cell.reason}")})
    return suite


def _absent(report: Report, backend: BackendInfo) -> list[tuple[str, Cell]]:
    """The cells without a result, which would else be missing from the document."""
    return [(c, report.cell(c, backend.name)) for c in report.components if not report.of_cell(c, backend.name)]


def _counts(report: Report, backends: list[BackendInfo], seconds: float) -> dict[str, str]:
    names = [b.name for b in backends]
    results = [r for r in report.results if r.backend in names]
    absent = sum(len(_absent(report, b)) for b in backends)
    failures = sum(r.status == FAIL for r in results)
    passed = sum(r.status in RAN and r.status not in (FAIL, DEVIATION) for r in results)
    tests = len(results) + absent
    return {"tests": str(tests), "failures": str(failures), "errors": "0",
            "skipped": str(tests - failures - passed), "time": f"{seconds:.6f}"}


def _testcase(suite: ElementTree.Element, backend: str, component: str, name: str,
              seconds: float) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", {
        "classname": _clean(f"conformance.{backend}.{component}"), "name": _clean(name), "time": f"{seconds:.6f}"})


def _case(suite: ElementTree.Element, result: Result, report: Report) -> None:
    case = _testcase(suite, result.backend, result.component, result.case, result.seconds)
    if result.status == FAIL:
        where = " ".join(part for part in (result.tier or "", place(result)) if part)
        message = f"{where}: margin {number(result.margin)}, {result.detail}"
        failure = ElementTree.SubElement(case, "failure", {"type": result.tier or FAIL, "message": _clean(message)})
        failure.text = _clean(f"expected {result.expected}\ngot {result.got}\n{result.detail}\n"
                              f"repeat: {repro_command(result, report)}")
    elif result.status == DEVIATION:
        message = f"{result.status}: margin {number(result.margin)}, {result.detail}"
        ElementTree.SubElement(case, "skipped", {"message": _clean(message)})
    elif result.status not in RAN:
        ElementTree.SubElement(case, "skipped", {"message": _clean(f"{result.status}: {result.detail}")})


def _clean(value: object) -> str:
    """Text without the characters that no XML document may hold."""
    return _NO_XML.sub("\ufffd", str(value))
