"""Who made an object: product, algorithms and time, written wherever IHE AI Results and the viewers look for it."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import highdicom as hd
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, DT, TM

from config.errors import RefusedInputError
from reports.codes import code_table
from reports.source import timezone_of
from reports.text import one_line, text_block
from reports.values import AlgorithmIdentity, DraftIdentity, Equipment

DRAFT_NOTICE = "AI-generated draft, not verified"
DEMONSTRATION_NOTICE = "DEMONSTRATION MODEL"
RESEARCH_NOTICE = "RESEARCH USE ONLY"
_LT_LIMIT = 10_240  # PS3.5 6.2
# What a copy of the scanner's series cannot tell; dciodvfy misses them in a SEG of a projection image.
_COPIED_TO_IMAGES = ("BodyPartExamined", "PatientOrientation", "Laterality")


@contextmanager
def building(what: str) -> Iterator[None]:
    """Turn highdicom's complaints about what it was given into our error.

    Raises:
        RefusedInputError: the object would not be a valid ``what``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom's warnings quote the patient's name
            yield
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError) as exc:
        raise RefusedInputError(f"no {what} can be made of this input: {type(exc).__name__}: {exc}") from exc


def use_notice(algorithms: Sequence[AlgorithmIdentity]) -> str:
    """Return what keeps these models' output out of care: demonstration, research only, or ``""``."""
    if any(algorithm.demonstration for algorithm in algorithms):
        return DEMONSTRATION_NOTICE
    return RESEARCH_NOTICE if any(algorithm.research_only for algorithm in algorithms) else ""


def distinct(algorithms: Sequence[AlgorithmIdentity]) -> tuple[AlgorithmIdentity, ...]:
    """Return each algorithm once (by Device UID), in order of first appearance."""
    return tuple({algorithm.device_uid: algorithm for algorithm in algorithms}.values())


def draft_notice(algorithms: Sequence[AlgorithmIdentity]) -> str:
    """Return the sentence that stands above every unsigned text."""
    notice = use_notice(algorithms)
    return DRAFT_NOTICE + (f" – {notice}, not for clinical use" if notice else "")


def draft_description(algorithms: Sequence[AlgorithmIdentity]) -> str:
    """Return the Series Description of an unsigned object, at most 64 characters (LO)."""
    mark = f"{notice} " if (notice := use_notice(algorithms)) else ""
    names = ", ".join(f"{algorithm.name} {algorithm.version}" for algorithm in distinct(algorithms))
    # the dash and the ellipsis are three bytes each in UTF-8, and validators and archives count bytes
    return one_line(f"AI DRAFT – not verified: {mark}{names}", 60)


def contributing_equipment(algorithms: Sequence[AlgorithmIdentity], at: datetime) -> list[hd.ContributingEquipment]:
    """Return one Contributing Equipment item per algorithm, with the Device UID that changes with its weights."""
    items = []
    for algorithm in distinct(algorithms):
        item = hd.ContributingEquipment(
            manufacturer=one_line(algorithm.manufacturer, 64) or "unknown",
            purpose_of_reference=code_table().concept("processing_equipment"),
            manufacturer_model_name=one_line(algorithm.name, 64),
            software_versions=one_line(algorithm.version, 64),
            contribution_datetime=DT(at),
            contribution_description="AI model whose output this object holds"
            + (f"; {notice}" if (notice := use_notice([algorithm])) else ""),
        )
        item.DeviceUID = algorithm.device_uid
        items.append(item)
    return items


def algorithm_parameters(algorithm: AlgorithmIdentity) -> list[str]:
    """Return ``name=value`` texts: hash of the weights first, then what the algorithm was called with."""
    notes = [f"training=phantoms only ({DEMONSTRATION_NOTICE})"] if algorithm.demonstration else []
    notes += [f"licence={RESEARCH_NOTICE}"] if algorithm.research_only else []
    return [f"weights_sha256={algorithm.weights_sha256}", *map(one_line, algorithm.parameters), *notes]


def algorithm_identification(algorithm: AlgorithmIdentity) -> sr.AlgorithmIdentification:
    """Return TID 4019 for an SR measurement group."""
    return sr.AlgorithmIdentification(
        name=one_line(algorithm.name),
        version=one_line(algorithm.version),
        parameters=algorithm_parameters(algorithm),
        family=code_table().concept("artificial_intelligence"),
        manufacturer=one_line(algorithm.manufacturer) or "unknown",
    )


def segment_algorithm(algorithm: AlgorithmIdentity) -> hd.AlgorithmIdentificationSequence:
    """Return the Segmentation Algorithm Identification Sequence of one segment (PS3.3 10.16)."""
    sequence = hd.AlgorithmIdentificationSequence(
        name=one_line(algorithm.name, 64),
        family=code_table().concept("artificial_intelligence"),
        version=one_line(algorithm.version, 64),
        source=one_line(algorithm.manufacturer, 64) or "unknown",
    )
    # One "name=value" between commas, as highdicom reads it back.
    pairs = (parameter.replace(",", ";") for parameter in algorithm_parameters(algorithm))
    sequence[0].AlgorithmParameters = text_block(",".join(pairs))[:_LT_LIMIT]
    return sequence


def device_observer(equipment: Equipment) -> sr.ObserverContext:
    """Return TID 1002 naming our product as the observer."""
    return sr.ObserverContext(
        observer_type=code_table().concept("device"),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=equipment.device_uid,
            name=one_line(equipment.station_name),
            manufacturer_name=one_line(equipment.manufacturer),
            model_name=one_line(equipment.model_name),
            serial_number=one_line(equipment.serial_number),
        ),
    )


def equipment_arguments(equipment: Equipment) -> dict[str, object]:
    """Return the General Equipment arguments that every highdicom constructor takes."""
    arguments: dict[str, object] = {
        "manufacturer": one_line(equipment.manufacturer, 64),
        "manufacturer_model_name": one_line(equipment.model_name, 64),
        "software_versions": [one_line(version, 64) for version in equipment.software_versions],
        "device_serial_number": one_line(equipment.serial_number, 64),
        "specific_character_set": "ISO_IR 192",
    }
    if equipment.institution:
        arguments["institution_name"] = one_line(equipment.institution, 64)
    return arguments


def local_time(moment: datetime, header: Dataset) -> datetime:
    """Return ``moment`` in the source's time zone, or in its own when the source states none."""
    offset = timezone_of(header)
    if offset is None:
        return moment
    sign = -1 if offset[0] == "-" else 1
    return moment.astimezone(timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))))


def stamp(
    ds: Dataset,
    header: Dataset,
    *,
    identity: DraftIdentity,
    equipment: Equipment,
    algorithms: Sequence[AlgorithmIdentity],
) -> None:
    """Write what highdicom leaves out or takes from the clock: times with their zone, product UID, qualification.

    Changes ``ds`` in place. Everything comes from the arguments, so the same input gives the same bytes.
    """
    at = local_time(identity.created_at, header).replace(microsecond=0)
    for prefix in ("InstanceCreation", "Content", "Series"):
        setattr(ds, f"{prefix}Date", DA(at.date()))
        setattr(ds, f"{prefix}Time", TM(at.time()))
    ds.TimezoneOffsetFromUTC = at.strftime("%z")[:5]
    if header.get("IssuerOfPatientID"):  # highdicom leaves it out, and an ID without its issuer may be another's
        ds.IssuerOfPatientID = header.IssuerOfPatientID
    ds.DeviceUID = equipment.device_uid
    ds.StationName = one_line(equipment.station_name, 16)
    # PS3.3 C.8.13.2.1.1: what may not be used in care says so where viewers look
    if use_notice(algorithms):
        ds.ContentQualification = "RESEARCH"
    for item in ds.get("ContributingEquipmentSequence", []):
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = DT(at)


def copy_image_context(ds: Dataset, header: Dataset) -> None:
    """Copy Body Part Examined, Patient Orientation and Laterality of the source to an image object of ours."""
    for keyword in _COPIED_TO_IMAGES:
        if header.get(keyword):
            ds.add(header[keyword])
    if "FrameOfReferenceUID" not in ds and "PatientOrientation" not in ds:
        ds.PatientOrientation = None  # type 2C of a projection image: present, unknown
