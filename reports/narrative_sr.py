"""The report as people read it: an Enhanced SR after TID 2000, as AI draft, as preliminary and as signed report."""

from collections.abc import Sequence
from copy import deepcopy

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, EnhancedSRStorage

from config.errors import RefusedInputError
from reports.codes import code_table
from reports.document import Addendum
from reports.equipment import (
    building,
    contributing_equipment,
    device_observer,
    draft_description,
    draft_notice,
    equipment_arguments,
    local_time,
    stamp,
    use_notice,
)
from reports.source import study_header
from reports.sr_common import (
    Evidence,
    comment,
    person_observer,
    reference_dataset,
    write_author,
    write_predecessors,
    write_request,
    write_sign_off,
)
from reports.text import one_line, person_name, text_block
from reports.values import (
    SERIES_NUMBERS,
    AlgorithmIdentity,
    DraftIdentity,
    Equipment,
    ObjectKind,
    Predecessor,
    Section,
    Signer,
    SignOff,
)

_CONTAINS = sr.RelationshipTypeValues.CONTAINS


def build_narrative_sr(
    sections: Sequence[Section],
    evidence: Evidence,
    *,
    identity: DraftIdentity,
    equipment: Equipment,
    algorithms: Sequence[AlgorithmIdentity],
    sign_off: SignOff | None = None,
    not_assessed: Sequence[str] = (),
    addenda: Sequence[Addendum] = (),
) -> Dataset:
    """Return the narrative: an AI draft without ``sign_off``, else a person's report.

    =============  ==========  ============  ===========  ===================
    state          Completion  Verification  Preliminary  author
    =============  ==========  ============  ===========  ===================
    draft          COMPLETE¹   UNVERIFIED    PRELIMINARY  our product
    preliminary    COMPLETE    UNVERIFIED    PRELIMINARY  the resident
    signed         COMPLETE    VERIFIED      FINAL        the signer²
    =============  ==========  ============  ===========  ===================

    ¹ PARTIAL when something was not assessed.
    ² Of a report with an addendum: who signed its text, and who signed the addendum. Each addendum is a section of
    its own with its own observer (TID 2000 row 7), for the document's observer is the author of the text.

    The product stays named as participant (SOURCE) and contributing
    equipment of a signed report, so that the AI's share is visible for ever. Where no model had a part, it is neither:
    a person alone wrote the text.

    Args:
        sections: at least one with text; written in reading order, blank ones left out.
        evidence: the images and other objects behind the text.
        identity: fixes UIDs and times; a signed report has another identity than its draft.
        equipment: our product.
        algorithms: every model that had a part in the text.
        sign_off: who signed, as what, following which documents.
        not_assessed: words for what failed or did not run; only for a draft.
        addenda: oldest first; only in a report that was signed before.

    Returns:
        An Enhanced SR Storage Instance with file meta information, ready to write.

    Raises:
        RefusedInputError: no text, a section given twice, a draft without an algorithm, or no valid object.
    """
    texts = _texts(sections)
    if sign_off is None and not algorithms:
        raise RefusedInputError("a draft needs the algorithms that wrote it")
    header = study_header(evidence.source)
    kind = _kind(sign_off)
    signed = kind == "signed_sr"
    device = equipment if sign_off is None or algorithms else None
    with building("narrative SR"):
        document = sr.EnhancedSR(
            evidence=evidence.datasets(header),
            content=_content(texts, _notices(sign_off, algorithms, not_assessed), device, sign_off, addenda),
            series_instance_uid=identity.series_instance_uid(kind),
            series_number=SERIES_NUMBERS[kind],
            sop_instance_uid=identity.sop_instance_uid(kind),
            instance_number=1,
            is_complete=sign_off is not None or not not_assessed,
            is_final=signed,
            is_verified=signed,
            previous_versions=_predecessors(sign_off),
            series_description=_description(sign_off, algorithms),
            contributing_equipment=contributing_equipment(algorithms, local_time(identity.created_at, header)),
            **_verifier_arguments(sign_off),
            **equipment_arguments(equipment),
        )
        if sign_off is None:
            write_author(document, equipment)
        else:
            write_sign_off(document, sign_off, device)
    if sign_off is None and not_assessed:
        document.CompletionFlagDescription = one_line("Not assessed: " + ", ".join(not_assessed), 64)
    write_request(document, header)
    stamp(document, header, identity=identity, equipment=equipment, algorithms=algorithms)
    return document


def basic_text(narrative: Dataset, *, identity: DraftIdentity, predecessors: Sequence[Predecessor] = ()) -> Dataset:
    """Return a finished narrative as Basic Text SR, which more archives and viewers show (PS3.3 A.35.1).

    The content tree is the same: it holds no value type that this IOD forbids.

    Args:
        narrative: from `build_narrative_sr`; it stays as it is.
        identity: the one the narrative was built with; Series and SOP Instance UID are other than the narrative's.
        predecessors: earlier documents in this form; without any, the ones that the narrative names stay named.

    Raises:
        RefusedInputError: ``narrative`` is no Enhanced SR.
    """
    if narrative.SOPClassUID != EnhancedSRStorage:
        raise RefusedInputError(f"only an Enhanced SR becomes a Basic Text SR, not {narrative.SOPClassUID}")
    ds = deepcopy(narrative)
    ds.SOPClassUID = BasicTextSRStorage
    ds.SOPInstanceUID = identity.sop_instance_uid("text_sr")
    ds.SeriesInstanceUID = identity.series_instance_uid("text_sr")
    ds.SeriesNumber = SERIES_NUMBERS["text_sr"]
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    if predecessors:
        write_predecessors(ds, predecessors)
    return ds


def _kind(sign_off: SignOff | None) -> ObjectKind:
    if sign_off is None:
        return "draft_sr"
    return "preliminary_sr" if sign_off.preliminary else "signed_sr"


def _texts(sections: Sequence[Section]) -> dict[str, str]:
    """Return section key → text in reading order, blank ones left out."""
    keys = [section.key for section in sections]
    if len(set(keys)) != len(keys):
        raise RefusedInputError(f"a section is given twice: {sorted(keys)}")
    texts: dict[str, str] = {section.key: text_block(section.text) for section in sections}
    unknown = set(texts) - set(code_table().sections)
    if unknown:
        raise RefusedInputError(f"unknown sections {sorted(unknown)}, known: {list(code_table().sections)}")
    ordered = {key: texts[key] for key in code_table().sections if texts.get(key)}
    if not ordered:
        raise RefusedInputError("a report without any text cannot be written")
    return ordered


def _description(sign_off: SignOff | None, algorithms: Sequence[AlgorithmIdentity]) -> str:
    if sign_off is None:
        return draft_description(algorithms)
    mark = f", AI: {notice}" if (notice := use_notice(algorithms)) else ""
    return one_line(_state(sign_off) + mark, 64)


def _state(sign_off: SignOff) -> str:
    if sign_off.preliminary:
        return "Preliminary report, not verified"
    purposes = {predecessor.purpose for predecessor in sign_off.predecessors}
    if "addended" in purposes:
        return "Report addendum (signed)"
    return "Corrected report (signed)" if "replaced" in purposes else "Radiology report (signed)"


def _notices(
    sign_off: SignOff | None, algorithms: Sequence[AlgorithmIdentity], not_assessed: Sequence[str]
) -> list[str]:
    """Return what stands above the text of every section; nothing in a verified report."""
    if sign_off is not None:
        return [f"Preliminary report by {_shown(sign_off.signer)}, not verified"] if sign_off.preliminary else []
    missing = [one_line("Not assessed: " + ", ".join(not_assessed))] if not_assessed else []
    return [draft_notice(algorithms), *missing]


def _shown(signer: Signer) -> str:
    return one_line(signer.printed_name) or person_name(signer.family, signer.given).replace("^", ", ")


def _content(
    texts: dict[str, str],
    notices: Sequence[str],
    equipment: Equipment | None,
    sign_off: SignOff | None,
    addenda: Sequence[Addendum],
) -> sr.ContainerContentItem:
    """Return the content tree: language, observers, then one CONTAINER per section (TID 2000)."""
    table = code_table()
    root = sr.ContainerContentItem(
        name=table.concept("imaging_report"), is_content_continuous=False, template_id="2000"
    )
    items = sr.ContentSequence()
    items.extend(sr.LanguageOfContentItemAndDescendants(sr.CodedConcept("en-US", "RFC5646", "English (US)")))
    for observer in _observers(sign_off, equipment):
        items.extend(observer)
    correction = [text_block(f"Corrected report: {sign_off.correction}")] if sign_off and sign_off.correction else []
    for number, (key, text) in enumerate(texts.items()):
        items.append(_section(key, text, [*(correction if number == 0 else []), *notices]))
    items.extend(map(_addendum, addenda))
    root.ContentSequence = items
    return root


def _section(
    key: str, text: str, notices: Sequence[str], observer: sr.ObserverContext | None = None
) -> sr.ContainerContentItem:
    codes = code_table().section(key)
    container = sr.ContainerContentItem(
        name=codes.heading.coded(), is_content_continuous=False, relationship_type=_CONTAINS
    )
    container.ContentSequence = sr.ContentSequence([*(observer or []), *map(comment, notices)])
    container.ContentSequence.append(
        sr.TextContentItem(name=codes.element.coded(), value=text, relationship_type=_CONTAINS)
    )
    return container


def _addendum(addendum: Addendum) -> sr.ContainerContentItem:
    """Return one addendum: whose it is, its number and moment for people, its text."""
    signer = addendum.signer
    moment = signer.signed_at.isoformat(sep=" ", timespec="minutes")
    head = f"Addendum {addendum.number} by {_shown(signer)}, {moment}"
    return _section("addendum", text_block(addendum.text), [head], person_observer(signer))


def _observers(sign_off: SignOff | None, equipment: Equipment | None) -> list[sr.ObserverContext]:
    """Return the document's observers: a draft's is the device, an amendment's is who wrote the text.

    A report that was written without AI (``equipment`` None) has no device among them.
    """
    device = [device_observer(equipment)] if equipment else []
    if sign_off is None:
        return device
    author = person_observer(sign_off.report_author or sign_off.signer)
    if sign_off.amends:
        return [author]
    return [*device, author] if sign_off.preliminary else [author, *device]


def _predecessors(sign_off: SignOff | None) -> list[Dataset] | None:
    if sign_off is None or not sign_off.predecessors:
        return None
    return [reference_dataset(predecessor.reference) for predecessor in sign_off.predecessors]


def _verifier_arguments(sign_off: SignOff | None) -> dict[str, str]:
    if sign_off is None or sign_off.preliminary:
        return {}
    signer = sign_off.signer
    return {
        "verifying_observer_name": person_name(signer.family, signer.given),
        "verifying_organization": one_line(signer.organization, 64),
    }
