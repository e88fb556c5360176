"""Judge a backend that holds a fault, by the kit's own cases and tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from conformance.backend import Backend
from conformance.case import Component
from conformance.components import COMPONENTS
from conformance.mutation.operator import Operator
from conformance.mutation.outcome import BROKEN, CAUGHT, EQUIVALENT, SURVIVED, Outcome
from conformance.results import FAIL, Result
from conformance.run import CaseJudgement

BY_NAME = {component.name: component for component in COMPONENTS}


@dataclass
class Judgements:
    """The cases of one seed with what they are judged by, kept for the next fault."""

    seed: int
    known: dict[str, list[CaseJudgement]] = field(default_factory=dict)

    def of(self, component: Component) -> list[CaseJudgement]:
        if component.name not in self.known:
            self.known[component.name] = [CaseJudgement(component, case) for case in component.cases(self.seed)]
        return self.known[component.name]

    def look(self, component: Component, backends: Sequence[Backend]) -> list[Result]:
        """Results up to and including the first failure."""
        results: list[Result] = []
        for judgement in self.of(component):
            for backend in backends:
                if backend.absence(component, judgement.case) is None:
                    results.append(judgement.result(backend))
                    if results[-1].status == FAIL:
                        return results
        return results


def outcomes(target: str, operator: Operator, backends: Sequence[Backend], judgements: Judgements) -> list[Outcome]:
    """One outcome per component that the operator names."""
    found = []
    for name in operator.components:
        if name in BY_NAME:
            found.append(outcome_of(target, operator, name, judgements.look(BY_NAME[name], backends)))
        else:
            found.append(broken(target, operator, name, "there is no such component"))
    return found


def outcome_of(target: str, operator: Operator, component: str, results: Sequence[Result]) -> Outcome:
    """What the results of one component say about a fault. An error is no catch, unless it is the expected one."""
    if not results:
        return broken(target, operator, component, "no case of this component ran")
    last = results[-1]
    if last.status != FAIL:
        last = max(results, key=lambda r: r.margin)
        status = EQUIVALENT if operator.equivalent else SURVIVED
    elif last.tier == "error" and not (operator.raises and operator.raises in last.detail):
        return broken(target, operator, component, last.detail)
    elif operator.equivalent:
        return broken(target, operator, component, "declared equivalent, but " + last.case + " fails")
    else:
        status = CAUGHT
    return Outcome(target, operator.name, operator.description, component, status, last.backend, last.case,
                   last.tier or "", last.output or "", last.margin, last.detail or operator.equivalent)


def broken(target: str, operator: Operator, component: str, detail: str) -> Outcome:
    """The fault could not be judged."""
    return Outcome(target, operator.name, operator.description, component, BROKEN, detail=detail)
