"""Devices: each model, and the product that runs them."""

from collections.abc import Sequence
from importlib.metadata import version

from reports.document import Code, ReportDocument
from reports.equipment import algorithm_parameters, distinct, use_notice
from reports.fhir.datatypes import Json, clean, concept, kept, narrative, uid_identifier
from reports.values import AlgorithmIdentity, Equipment

_AI = Code("123110", "DCM", "Artificial Intelligence")


def models_of(document: ReportDocument) -> tuple[AlgorithmIdentity, ...]:
    """Return every model that had a part in the report, once."""
    spoke = [finding.algorithm for finding in document.findings if finding.algorithm is not None]
    return distinct([*document.algorithms, *spoke])


def product(document: ReportDocument) -> Equipment:
    """Return our product as it stands at the site."""
    return Equipment(software_versions=(version("firstread"),), institution=document.organization)


def model_resource(model: AlgorithmIdentity) -> Json:
    """Return the Device of one model: name, version, hash of its weights, parameters, what keeps it out of care."""
    notice = use_notice([model])
    return kept(
        resourceType="Device",
        text=narrative(f"{model.name} {model.version}", notice),
        identifier=[uid_identifier(model.device_uid)],
        status="active",
        manufacturer=clean(model.manufacturer),
        deviceName=[{"name": clean(model.name) or "unnamed model", "type": "model-name"}],
        type=concept(_AI),
        version=[{"value": clean(model.version)}] if clean(model.version) else None,
        property=_properties(algorithm_parameters(model)),
        note=[{"text": notice}] if notice else None,
    )


def product_resource(equipment: Equipment) -> Json:
    """Return the Device of our product."""
    return kept(
        resourceType="Device",
        text=narrative(f"{equipment.model_name} {', '.join(equipment.software_versions)}"),
        identifier=[uid_identifier(equipment.device_uid)],
        status="active",
        manufacturer=equipment.manufacturer,
        deviceName=[{"name": equipment.model_name, "type": "model-name"}],
        version=[{"value": one} for one in equipment.software_versions],
    )


def _properties(parameters: Sequence[str]) -> list[Json]:
    pairs = (clean(one).partition("=") for one in parameters)
    return [{"type": {"text": name}, "valueCode": [{"text": value}]} for name, _, value in pairs if name and value]
