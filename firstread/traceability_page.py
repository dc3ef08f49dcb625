"""``docs/traceability.md``, as text: written from a matrix, the same bytes for the same sources."""

from collections.abc import Iterable

from firstread.traceability import Group, Matrix, Requirement

_HEAD = """\
# Traceability

Hazard → risk control → requirement → code → test, and back from each paragraph of a regulation. **Generated** by
`make traceability` (`firstread release matrix`); do not edit. Its sources:

- [hazards.md](hazards.md): hazards (H) and risk controls (RC);
- [requirements.yaml](requirements.yaml): requirements (REQ), the paragraphs they come from, the code that does them;
- the marker `@pytest.mark.requirement("REQ-…")` on the tests.

`tests/unit/test_repository_traceability.py` fails when this page is not what the sources say, when a requirement has
no test, a test names no requirement there is, code that is named is gone, a control has no requirement, or a hazard no
control. The tests of one requirement: `grep -rn REQ-SIGN-1 tests/`.

`firstread release evidence --out FOLDER` puts the technical file of a release together: this page, hazard log,
requirements, intended use, `sbom.cdx.json` (CycloneDX 1.6: Python, browser and model components), `requirements.lock`
and `SHA256SUMS` over all of it.
"""


def traceability_page(matrix: Matrix) -> str:
    """Return ``docs/traceability.md`` for ``matrix``."""
    listed = list(matrix.requirements.each())
    done = [one for one in listed if not one.planned]
    planned = [one for one in listed if one.planned]
    tests = {test for one in done for test in matrix.tests.get(one.id, ())}
    parts = [
        _HEAD,
        f"{len(matrix.log.hazards)} hazards, {len(matrix.log.controls)} risk controls, {len(done)} requirements shown "
        f"by {len(tests)} tests, {len(planned)} planned.\n",
        "## Hazards\n",
        _hazards(matrix),
        "## Risk controls\n",
        _controls(matrix),
        "## Requirements\n",
    ]
    for group in matrix.requirements.groups:
        parts += [f"### {group.title}\n", _group(matrix, group)]
    parts += ["## Planned\n", _planned(planned), "## Paragraphs\n", _paragraphs(matrix)]
    return "\n".join(part for part in parts if part)


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    cells = head.split(" | ")
    lines = ["| " + head + " |", "|" + "---|" * len(cells)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _hazards(matrix: Matrix) -> str:
    def requirements(controls: tuple[str, ...]) -> str:
        return ", ".join(_id(one) for one in matrix.requirements.each() if set(controls) & set(one.controls))

    rows = ((h.id, h.situation, ", ".join(h.controls), requirements(h.controls)) for h in matrix.log.hazards)
    return _table("Hazard | Situation | Controls | Requirements", rows)


def _controls(matrix: Matrix) -> str:
    rows = []
    for control, text in matrix.log.controls.items():
        serving = [one for one in matrix.requirements.each() if control in one.controls]
        against = [hazard.id for hazard in matrix.log.hazards if control in hazard.controls]
        tests = {test for one in serving for test in matrix.tests.get(one.id, ())}
        rows.append((control, text, ", ".join(against), ", ".join(map(_id, serving)), str(len(tests))))
    return _table("Control | What | Against | Requirements | Tests", rows)


def _group(matrix: Matrix, group: Group) -> str:
    rows = [
        (
            one.id,
            one.text,
            "; ".join(one.sources),
            ", ".join([*one.controls, *matrix.hazards_of(one)]) or "–",
            "<br>".join(f"`{name}`" for name in one.code),
            "<br>".join(f"`{test.removeprefix('tests/')}`" for test in matrix.tests.get(one.id, ())),
        )
        for one in group.requirements
        if not one.planned
    ]
    return _table("Id | Requirement | From | Serves | Code | Tests (below `tests/`)", rows) if rows else "None yet.\n"


def _planned(planned: list[Requirement]) -> str:
    if not planned:
        return "Nothing is planned: every requirement has a test.\n"
    head = "Requirements that no test shows yet. Nothing may rest on them.\n\n"
    rows = ((one.id, one.text, "; ".join(one.sources), ", ".join(one.controls)) for one in planned)
    return head + _table("Id | Requirement | From | Serves", rows)


def _paragraphs(matrix: Matrix) -> str:
    rows = (
        (name, text, ", ".join(_id(one) for one in matrix.requirements.each() if name in one.sources))
        for name, text in matrix.requirements.sources.items()
    )
    return _table("Paragraph | Asks, in our words | Requirements", rows)


def _id(requirement: Requirement) -> str:
    return f"{requirement.id} (planned)" if requirement.planned else requirement.id
