"""The Comparison section of a draft: which earlier study there is, and what its report says, quoted.

Composed here, never by a model, and never shown to one. The text of an earlier report is somebody else's and not
checked: in a prompt it could steer the model ("ignore the image and answer no"), and a small model repeats what it
reads as if it had seen it. So a draft quotes it for the person who reads, and its own findings rest on this study's
images alone; whatever in them speaks of change is marked (:func:`worker.checks.check_comparison`).
"""

import re
from typing import Any

from db.queries.priors import ComparedPrior

NONE_AVAILABLE = "No prior study was available."
_MOST_QUOTED = 1200
_CONCLUDES = re.compile(r"impression|conclusion|summary|opinion|beurteilung|conclusi|assessment", re.IGNORECASE)


def comparison_section(prior: ComparedPrior | None) -> str:
    """Return the Comparison section: date, modality and description of the prior, and its impression as a quotation."""
    if prior is None:
        return NONE_AVAILABLE
    named = ", ".join(part for part in (_modalities(prior), _day(prior.study_date), prior.description) if part)
    lines = [f"Prior study: {named}. Its images were not compared."]
    if prior.report is not None:
        lines += _quoted(prior.report)
    elif prior.paper is not None:
        when = f" of {prior.paper['date']}" if prior.paper["date"] else ""
        lines.append(f"Its report{when} is in the archive as PDF and was not read.")
    else:
        lines.append("No report of it was found.")
    return "\n".join(lines)


def priors_record(prior: ComparedPrior | None) -> list[dict[str, Any]]:
    """Return which prior and which of its objects a draft used, for its provenance record."""
    if prior is None:
        return []
    used = [prior.report] if prior.report else []
    return [
        {
            "study_instance_uid": prior.study_instance_uid,
            "study_date": prior.study_date,
            "report_date": prior.report["date"] if prior.report else "",
            "instances_sha256": {one["sop_instance_uid"]: one["sha256"] for one in used},
        }
    ]


def _quoted(report: dict[str, Any]) -> list[str]:
    sections = [(heading, text) for heading, text in report["sections"] if text.strip()]
    heading, text = next((one for one in sections if _CONCLUDES.search(one[0])), sections[-1])
    by = f" by {report['author']}" if report["author"] else ""
    status = f"verified{by}" if report["is_verified"] else f"not verified{by}"
    when = f" of {report['date']}" if report["date"] else ""
    what = f"{heading or 'Text'} of its report{when} ({status}), quoted, not checked:"
    short = text if len(text) <= _MOST_QUOTED else text[:_MOST_QUOTED].rstrip() + " …"
    return [what, *(f"> {line}".rstrip() for line in short.splitlines())]


def _modalities(prior: ComparedPrior) -> str:
    kept = [one for one in prior.modalities.split(",") if one and one not in {"SR", "DOC", "PR", "KO", "SEG", "OT"}]
    return " and ".join(kept or prior.modalities.split(","))


def _day(value: str) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:8]}" if len(value) == 8 else value
