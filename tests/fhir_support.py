"""What the FHIR tests share: documents of every kind, and independent judges of resources."""

import base64
import hashlib
import importlib
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fhir_core.fhirabstractmodel import FHIRAbstractModel

from reports.document import (
    Addendum,
    Code,
    DocumentState,
    OrderFacts,
    PatientFacts,
    ReportDocument,
    ReportedFinding,
    SeriesFacts,
    SignatureFacts,
    StudyFacts,
)
from reports.fhir import build_bundle
from reports.values import AlgorithmIdentity, InstanceReference, MeasurementValue, Section, Signer

STATES: tuple[DocumentState, ...] = ("draft", "preliminary", "final", "addended", "corrected")
AT = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
STUDY = "1.2.826.0.1.3680043.8.498.1"
BUNDLE_UID = "2.25.99"
XHTML = "{http://www.w3.org/1999/xhtml}"
MODEL = AlgorithmIdentity("VISTA3D", "0.5.0", "MONAI", "a" * 64, ("threshold=0.5",), research_only=True)


def signer(name: str = "Maria Lund", staff: str = "mlund", *, after_h: int = 0) -> Signer:
    """A reader."""
    given, _, family = name.rpartition(" ")
    return Signer(name, family, given, staff, "Nordic Hospital", AT + timedelta(hours=after_h))


def tumor(**changes: Any) -> ReportedFinding:
    """A finding of the model with everything."""
    image = InstanceReference(STUDY, "1.2.3.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.3.1.7")
    values: dict[str, Any] = {
        "label": "lung nodule",
        "concept": Code("786838002", "SCT", "Nodule of lung"),
        "presence": "present",
        "laterality": "right",
        "score": 0.91,
        "sentence": "Nodule of 12.4 mL in the right lung.",
        "measurements": (MeasurementValue("volume", 12.4, "mL"), MeasurementValue("long_axis", 31.5, "mm")),
        "tracking_uid": "2.25.1001",
        "algorithm": MODEL,
        "source": image,
    }
    return ReportedFinding(**(values | changes))


def effusion(**changes: Any) -> ReportedFinding:
    """A finding that is absent."""
    values: dict[str, Any] = {
        "label": "Effusion",
        "concept": Code("60046008", "SCT", "Pleural effusion"),
        "presence": "absent",
        "tracking_uid": "2.25.1002",
        "algorithm": MODEL,
    }
    return ReportedFinding(**(values | changes))


def document(state: DocumentState = "final", **changes: Any) -> ReportDocument:
    """A report in ``state``, signed as that state wants it."""
    resident, reader = signer("Ola Nor", "onor"), signer(after_h=1)
    signatures = {
        "draft": (),
        "preliminary": (SignatureFacts(resident, "preliminary", "author"),),
        "final": (SignatureFacts(reader, "final", "review"),),
        "addended": (SignatureFacts(reader, "final", "review"), SignatureFacts(reader, "addended", "addendum")),
        "corrected": (SignatureFacts(reader, "final", "review"), SignatureFacts(reader, "corrected", "correction")),
    }[state]
    decision = "pending" if state == "draft" else "accepted"
    values: dict[str, Any] = {
        "state": state,
        "uid": f"2.25.50{STATES.index(state)}",
        "report_uid": "2.25.4711",
        "written_at": AT + timedelta(hours=len(signatures)),
        "patient": PatientFacts("P-1001", "HOSP", "Halvorsen^Ingrid", "19580214", "F"),
        "study": StudyFacts(
            STUDY,
            "20261121",
            "083000.25",
            "+0100",
            "CT chest",
            "Berg^Olav",
            (
                SeriesFacts("1.2.3.1", "CT", 2, "Chest 5.0 lung", "CHEST", (tumor().source,) * 3),  # type: ignore[arg-type]
                SeriesFacts("1.2.3.2", "CT", None, "", "", ()),
            ),
        ),
        "order": OrderFacts(
            "ACC-1001",
            "PL-7",
            "FI-7",
            Code("24627-2", "LN", "CT Chest"),
            "Cough since May",
            "URGENT",
            "Berg^Olav",
            "4711",
        ),
        "sections": (
            Section("findings", "There is a nodule in the right lung.\nNo pleural effusion."),
            Section("impression", "Nodule on the right."),
        ),
        "addenda": (Addendum(1, "Known since 2024.", reader),) if state == "addended" else (),
        "signatures": signatures,
        "correction": "Wrong side dictated" if state == "corrected" else "",
        "algorithms": (MODEL,),
        "findings": (tumor(decision=decision), effusion(decision=decision)),
        "not_assessed": ("bone lesion",),
        "organization": "Nordic Hospital",
        "objects": (InstanceReference(STUDY, "1.2.3.9", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.3.9.1"),),
    }
    return replace(ReportDocument(**values), **changes)


# --- judges --------------------------------------------------------------------------------------------------


def judged(resource: dict[str, Any], kinds: Mapping[str, str] | None = None) -> FHIRAbstractModel:
    """Return a resource as ``fhir.resources`` reads it, when it is one by FHIR and says nothing FHIR has no code for.

    The library's models know cardinalities, types, formats and choices. It does not compare codes with required value
    sets, nor the kinds of references, though it knows both: that is done here; ``kinds`` are those of full URLs.
    """
    module = importlib.import_module(f"fhir.resources.R4B.{resource['resourceType'].lower()}")
    model: FHIRAbstractModel = getattr(module, resource["resourceType"]).model_validate(resource)
    for one in _models(model):
        _check_vocabulary(one, kinds or {})
    for div in _divs(resource):
        root = ET.fromstring(div)
        assert root.tag == f"{XHTML}div"
    for attachment in resource.get("presentedForm", ()):
        content = base64.b64decode(attachment["data"], validate=True)
        assert attachment["size"] == len(content)
        assert base64.b64decode(attachment["hash"]) == hashlib.sha1(content).digest()
    _check_no_empty(resource)
    return model


def judged_bundle(bundle: dict[str, Any]) -> None:
    """Judge a bundle and every resource in it; references within must lead to an entry of the right kind."""
    urls = {one["fullUrl"]: one["resource"]["resourceType"] for one in bundle.get("entry", ())}
    assert len(urls) == len(bundle.get("entry", ()))
    judged(bundle, urls)
    for entry in bundle.get("entry", ()):
        judged(entry["resource"], urls)
        for target in references(entry["resource"]):
            assert not target.startswith("urn:uuid:") or target in urls, target


def references(value: Any) -> Iterator[str]:
    """Every literal reference within."""
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for inner in value.values():
            yield from references(inner)
    if isinstance(value, list):
        for inner in value:
            yield from references(inner)


def _models(value: Any) -> Iterator[FHIRAbstractModel]:
    if isinstance(value, FHIRAbstractModel):
        yield value
        for name in type(value).model_fields:
            yield from _models(getattr(value, name))
    elif isinstance(value, list):
        for one in value:
            yield from _models(one)


def _check_vocabulary(model: FHIRAbstractModel, urls: Mapping[str, str]) -> None:
    for name, field in type(model).model_fields.items():
        value, known = getattr(model, name), field.json_schema_extra
        if value is None or not isinstance(known, dict):
            continue
        values = value if isinstance(value, list) else [value]
        codes = known.get("enum_values")
        if isinstance(codes, list) and not {"+", "mime"} & set(codes):  # else it does not know all of them
            assert set(map(str, values)) <= set(codes), (name, values)
        kinds = known.get("enum_reference_types")
        if isinstance(kinds, list) and "Resource" not in kinds:
            for one in values:
                kind = one.type or urls.get(str(one.reference)) or str(one.reference or "").partition("/")[0]
                assert not kind or kind in kinds, (name, kind)


def _divs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("div"), str):
            yield value["div"]
        for inner in value.values():
            yield from _divs(inner)
    if isinstance(value, list):
        for inner in value:
            yield from _divs(inner)


def _check_no_empty(value: Any) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            assert inner not in ("", None, [], {}), name
            _check_no_empty(inner)
    if isinstance(value, list):
        for inner in value:
            assert inner not in ("", None, [], {})
            _check_no_empty(inner)


# --- what a bundle holds ------------------------------------------------------------------------------------


def bundle(made: ReportDocument, **more: Any) -> dict[str, Any]:
    """A bundle that both judges let through, as it is on the wire."""
    built: dict[str, Any] = json.loads(json.dumps(build_bundle(made, uid=BUNDLE_UID, **more), allow_nan=False))
    judged_bundle(built)
    return built


def resources(built: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The resources of one type."""
    return [one["resource"] for one in built["entry"] if one["resource"]["resourceType"] == kind]


def the(built: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The only resource of a type."""
    (found,) = resources(built, kind)
    return found


def target(built: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """What a reference leads to."""
    (found,) = [one["resource"] for one in built["entry"] if one["fullUrl"] == reference["reference"]]
    return dict(found)
