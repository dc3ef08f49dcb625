"""The narrative: a draft is marked as one in every section; only a signer makes it a report."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from config.errors import RefusedInputError
from reports.document import Addendum
from reports.narrative_sr import basic_text, build_narrative_sr
from reports.sr_common import Evidence
from reports.values import AlgorithmIdentity, InstanceReference, Predecessor, Section, SignOff
from tests.reports_sources import (
    ALGORITHM,
    DEMONSTRATION,
    EQUIPMENT,
    SIGNER,
    identity_of,
    items,
    radiograph,
    written,
)

SECTIONS = [
    Section("impression", "No acute finding."),
    Section("findings", "Heart: normal.\nLungs: clear – größer \\ 5 mm."),
    Section("technique", "Chest radiograph, PA view."),
    Section("comparison", "   \n"),
]


@pytest.fixture
def source():
    return radiograph()


def build(source, sections=SECTIONS, algorithms=(ALGORITHM,), sign_off=None, **options):
    return build_narrative_sr(
        sections,
        Evidence(source, [InstanceReference.of(source)]),
        identity=identity_of(source, "sign-off-1" if sign_off else "reading-1"),
        equipment=EQUIPMENT,
        algorithms=algorithms,
        sign_off=sign_off,
        **options,
    )


def texts(document):
    return [str(element.value) for element in document.iterall() if element.keyword == "TextValue"]


def observers(document):
    """Codes of the observers of the document itself, not of its sections."""
    named = [item for item in document.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121005"]
    return [item.ConceptCodeSequence[0].CodeValue for item in named]


def flags(document):
    return document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag


def test_sections_come_in_reading_order_with_heading_and_element(source):
    document = build(source)
    containers = [item for item in document.ContentSequence if item.ValueType == "CONTAINER"]
    assert [item.ConceptNameCodeSequence[0].CodeValue for item in containers] == ["55111-9", "59776-5", "19005-8"]
    (text,) = items(document, "Finding")
    assert text.TextValue == "Heart: normal.\r\nLungs: clear – größer \\ 5 mm."
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "2000"


@pytest.mark.requirement("REQ-LABEL-3")
@pytest.mark.parametrize(
    ("algorithm", "notice"),
    [
        (ALGORITHM, "AI-generated draft, not verified"),
        (DEMONSTRATION, "AI-generated draft, not verified – DEMONSTRATION MODEL, not for clinical use"),
    ],
)
def test_a_draft_says_so_above_the_text_of_every_section(source, algorithm, notice):
    document = build(source, algorithms=[algorithm])
    containers = [item for item in document.ContentSequence if item.ValueType == "CONTAINER"]
    assert [item.ContentSequence[0].TextValue for item in containers] == [notice] * 3
    assert flags(document) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert document.SeriesDescription.startswith("AI DRAFT – not verified: ")
    assert ("DEMONSTRATION MODEL" in document.SeriesDescription) == algorithm.demonstration
    assert document.get("ContentQualification") == ("RESEARCH" if algorithm.demonstration else None)
    assert [item.ObserverType for item in document.AuthorObserverSequence] == ["DEV"]
    for keyword in ("VerifyingObserverSequence", "PredecessorDocumentsSequence"):
        assert keyword not in document


@pytest.mark.requirement("REQ-FAIL-2")
def test_what_was_not_assessed_is_said_in_full_and_makes_the_draft_partial(source):
    missing = ["pneumothorax detector did not run", "rib fractures were not looked for by any expert"]
    document = build(source, not_assessed=missing)
    assert document.CompletionFlag == "PARTIAL"
    for container in items(document, "Findings"):
        assert container.ContentSequence[1].TextValue == "Not assessed: " + ", ".join(missing)


@pytest.mark.requirement("REQ-SIGN-6")
def test_a_signed_report_is_verified_by_its_signer_and_follows_the_draft(source):
    draft = build(source)
    zone = timezone(timedelta(hours=5, minutes=45))
    signer = replace(SIGNER, signed_at=datetime(2026, 11, 22, 13, 5, 6, 789, tzinfo=zone))
    sign_off = SignOff(signer, (Predecessor(InstanceReference.of(draft)),))
    report = build(source, sign_off=sign_off)
    assert flags(report) == ("COMPLETE", "VERIFIED", "FINAL")
    (observer,) = report.VerifyingObserverSequence
    assert str(observer.VerifyingObserverName) == "Räd^Iola"
    assert (observer.VerifyingOrganization, str(observer.VerificationDateTime)) == (
        "General Hospital",
        "20261122130506+0545",
    )
    (code,) = observer.VerifyingObserverIdentificationCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("ST-4711", "99FRSTAFF", "Dr. Iola Räd")
    (author,) = report.AuthorObserverSequence
    assert (author.ObserverType, str(author.PersonName)) == ("PSN", "Räd^Iola")
    (participant,) = report.ParticipantSequence
    assert (participant.ParticipationType, participant.ObserverType) == ("SOURCE", "DEV")
    (series,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    (item,) = series.ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == draft.SOPInstanceUID
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121362"
    assert report.SeriesDescription == "Radiology report (signed)"
    assert observers(report) == ["121006", "121007"]


def test_weights_for_research_only_say_so_wherever_people_look(source):
    """Safety rule 20: Content Qualification RESEARCH, the notice above the text and in the description."""
    algorithm = AlgorithmIdentity("VISTA3D", "0.5.4", "see model licence", "ab" * 32, research_only=True)
    draft = build(source, algorithms=[algorithm])
    assert draft.ContentQualification == "RESEARCH"
    assert "RESEARCH USE ONLY" in draft.SeriesDescription
    assert any("RESEARCH USE ONLY, not for clinical use" in text for text in texts(draft))
    free = build(source, algorithms=[replace(algorithm, research_only=False)])
    assert "ContentQualification" not in free
    assert not any("RESEARCH" in text for text in (*texts(free), free.SeriesDescription))


@pytest.mark.requirement("REQ-LABEL-6")
def test_signing_makes_a_new_instance_and_removes_the_draft_notice(source):
    draft = build(source)
    report = build(source, sign_off=SignOff(SIGNER, (Predecessor(InstanceReference.of(draft)),)))
    assert {draft.SOPInstanceUID, draft.SeriesInstanceUID}.isdisjoint({report.SOPInstanceUID, report.SeriesInstanceUID})
    assert items(report, "Comment") == []
    assert (draft.SeriesNumber, report.SeriesNumber) == (903, 905)


def test_a_residents_report_is_preliminary_and_unverified(source):
    report = build(source, sign_off=SignOff(SIGNER, preliminary=True))
    assert flags(report) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert "VerifyingObserverSequence" not in report
    assert [str(item.PersonName) for item in report.AuthorObserverSequence] == ["Räd^Iola"]
    notices = {item.TextValue for item in items(report, "Comment")}
    assert notices == {"Preliminary report by Dr. Iola Räd, not verified"}
    kinds = [(item.ParticipationType, item.ObserverType) for item in report.ParticipantSequence]
    assert kinds == [("SOURCE", "DEV"), ("ENT", "PSN")]
    assert observers(report) == ["121007", "121006"]
    assert (report.SeriesDescription, report.SeriesNumber) == ("Preliminary report, not verified", 904)


@pytest.mark.requirement("REQ-SIGN-10")
def test_an_attested_report_names_both_people(source):
    resident = replace(SIGNER, family="Young", given="Res", staff_id="ST-9")
    report = build(source, sign_off=SignOff(SIGNER, attested_author=resident))
    assert [str(item.PersonName) for item in report.AuthorObserverSequence] == ["Young^Res", "Räd^Iola"]
    kinds = [(item.ParticipationType, item.ObserverType) for item in report.ParticipantSequence]
    assert kinds == [("SOURCE", "DEV"), ("ATTEST", "PSN")]
    assert [str(item.VerifyingObserverName) for item in report.VerifyingObserverSequence] == ["Räd^Iola"]


@pytest.mark.parametrize(
    ("purpose", "code", "description"),
    [("addended", "121361", "Report addendum (signed)"), ("replaced", "121360", "Corrected report (signed)")],
)
def test_an_addendum_or_correction_names_the_report_it_follows(source, purpose, code, description):
    first = build(source, sign_off=SignOff(SIGNER))
    follows = Predecessor(InstanceReference.of(first), purpose)
    report = build(source, [Section("addendum", "Late images.")], sign_off=SignOff(SIGNER, (follows,)))
    (item,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == code
    assert report.SeriesDescription == description


@pytest.mark.requirement("REQ-MODEL-9")
def test_a_report_made_with_a_demonstration_model_says_so_even_when_signed(source):
    report = build(source, algorithms=[DEMONSTRATION], sign_off=SignOff(SIGNER))
    assert "DEMONSTRATION MODEL" in report.SeriesDescription
    assert report.ContentQualification == "RESEARCH"
    assert DEMONSTRATION.device_uid in [item.get("DeviceUID") for item in report.ContributingEquipmentSequence]


def test_a_retry_writes_the_same_bytes(source):
    sign_off = SignOff(SIGNER)
    assert written(build(source)) == written(build(source))
    assert written(build(source, sign_off=sign_off)) == written(build(source, sign_off=sign_off))


@pytest.mark.parametrize(
    ("message", "sections", "options"),
    [
        ("without any text", [Section("findings", " \x00\n")], {}),
        ("given twice", [Section("findings", "a"), Section("findings", "b")], {}),
        ("unknown sections", [Section("billing", "a")], {}),
        ("needs the algorithms", SECTIONS, {"algorithms": ()}),
    ],
)
def test_a_text_that_is_no_report_is_refused(source, message, sections, options):
    with pytest.raises(RefusedInputError, match=message):
        build(source, sections, **options)


def signed_as(source, sections=SECTIONS, **sign_off):
    return build(source, sections, sign_off=SignOff(**({"signer": SIGNER} | sign_off)))


def test_each_addendum_is_a_section_with_its_own_author_below_a_text_that_keeps_its_own(source):
    first = signed_as(source)
    later = replace(SIGNER, printed_name="Dr. Add Endum", family="Endum", given="Add", staff_id="ST-8")
    follows = Predecessor(InstanceReference.of(first), "addended")
    addenda = [Addendum(1, "Late images seen.", SIGNER), Addendum(2, "Called the ward.\n\x0bDone.", later)]
    sign_off = SignOff(later, (follows,), report_author=SIGNER)
    report = build(source, sign_off=sign_off, addenda=addenda)
    assert flags(report) == ("COMPLETE", "VERIFIED", "FINAL")
    sections = [item for item in report.ContentSequence if item.ValueType == "CONTAINER"]
    assert [item.ConceptNameCodeSequence[0].CodeValue for item in sections[-2:]] == ["55107-7", "55107-7"]
    originals = [item for item in first.ContentSequence if item.ValueType == "CONTAINER"]
    assert [part.to_json() for part in sections[:-2]] == [part.to_json() for part in originals]
    heads = [
        [item.TextValue for item in part.ContentSequence if item.RelationshipType == "CONTAINS"]
        for part in sections[-2:]
    ]
    at = SIGNER.signed_at.isoformat(sep=" ", timespec="minutes")
    assert heads == [
        [f"Addendum 1 by Dr. Iola Räd, {at}", "Late images seen."],
        [f"Addendum 2 by Dr. Add Endum, {at}", "Called the ward.\r\n\r\nDone."],
    ]
    names = [str(item.PersonName) for part in sections[-2:] for item in part.ContentSequence if "PersonName" in item]
    assert names == ["Räd^Iola", "Endum^Add"]
    assert observers(report) == ["121006"]
    assert [str(item.PersonName) for item in report.AuthorObserverSequence] == ["Räd^Iola", "Endum^Add"]
    assert [str(item.VerifyingObserverName) for item in report.VerifyingObserverSequence] == ["Endum^Add"]


def test_a_correction_says_why_it_replaces_the_report(source):
    follows = Predecessor(InstanceReference.of(signed_as(source)), "replaced")
    report = signed_as(source, predecessors=(follows,), correction="Wrong side.")
    notes = [item.TextValue for item in items(report, "Comment")]
    assert notes == ["Corrected report: Wrong side."]
    assert observers(report) == ["121006"]


@pytest.mark.parametrize("sign_off", [None, SignOff(SIGNER)], ids=["draft", "signed"])
def test_the_basic_text_form_says_the_same_under_its_own_uids(source, sign_off):
    narrative = build(source, sign_off=sign_off)
    before = written(narrative)
    made = basic_text(narrative, identity=identity_of(source, "sign-off-1" if sign_off else "reading-1"))
    assert made.SOPClassUID == made.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.88.11"
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    own = {made.SOPInstanceUID, made.SeriesInstanceUID}
    assert own.isdisjoint({narrative.SOPInstanceUID, narrative.SeriesInstanceUID})
    assert made.SeriesNumber == 911
    assert texts(made) == texts(narrative)
    assert flags(made) == flags(narrative)
    assert written(narrative) == before


def test_the_basic_text_form_follows_its_own_kind(source):
    draft = build(source)
    text_draft = basic_text(draft, identity=identity_of(source, "reading-1"))
    report = signed_as(source, predecessors=(Predecessor(InstanceReference.of(draft)),))
    follows = Predecessor(InstanceReference.of(text_draft))
    made = basic_text(report, identity=identity_of(source, "sign-off-1"), predecessors=[follows])
    (study,) = made.PredecessorDocumentsSequence
    (item,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == text_draft.SOPInstanceUID
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121362"


def test_only_a_narrative_becomes_basic_text(source):
    text = basic_text(build(source), identity=identity_of(source, "reading-1"))
    with pytest.raises(RefusedInputError, match="only an Enhanced SR"):
        basic_text(text, identity=identity_of(source, "reading-1"))
