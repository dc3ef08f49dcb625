"""What others are shown of our results once there are many kinds: DICOMweb clients, and who reads the next study."""

from sqlalchemy import select

from db.models import ResultObject
from db.queries.dicomweb import shown_results
from db.queries.priors import signed_report
from tests.db_support import Journey, addend, an_object, decide_all, open_review, person, received, sign


def drafted(sessions) -> Journey:
    """A draft with an object of every sort: text, evidence, coded findings, a message."""
    message = an_object("DRAFT_ORU", sop_class_uid="")
    kinds = ("SEG", "FINDINGS_SR", "DRAFT_SR", "DRAFT_TEXT_SR", "DRAFT_PDF")
    return received(sessions).queued().running().drafted(objects=[*map(an_object, kinds), message])


def signed(sessions) -> Journey:
    """The same, signed, with everything a signature makes; the report itself is not the first of it."""
    journey = drafted(sessions)
    reader = person(sessions)
    message = an_object("REPORT_ORU", sop_class_uid="")
    objects = [an_object("SIGNED_FINDINGS_SR"), message, an_object("REPORT_PDF"), an_object("SIGNED_SR")]
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)), objects=objects)
    return journey


def shown(sessions, journey: Journey) -> set[str]:
    with sessions() as session:
        return {one.kind for one in shown_results(session, [journey.study_id])[journey.study_id]}


def test_a_message_is_no_dicom_object(sessions):
    assert shown(sessions, drafted(sessions)) == {"SEG", "FINDINGS_SR", "DRAFT_SR", "DRAFT_TEXT_SR", "DRAFT_PDF"}


def test_what_was_signed_takes_the_place_of_every_text_of_the_draft_and_of_its_findings(sessions):
    assert shown(sessions, signed(sessions)) == {"SEG", "SIGNED_FINDINGS_SR", "SIGNED_SR", "REPORT_PDF"}


def test_key_images_of_a_signature_take_the_place_of_those_of_the_draft(sessions):
    journey = received(sessions).queued().running().drafted(objects=[an_object("KEY_IMAGES"), an_object("SEG")])
    reader = person(sessions)
    chosen = an_object("KEY_IMAGES")
    version = decide_all(journey, reader, open_review(journey, reader))
    sign(journey, reader, version, objects=[an_object("SIGNED_SR"), chosen])
    with sessions() as session:
        held = shown_results(session, [journey.study_id])[journey.study_id]
    assert sorted(one.kind for one in held) == ["KEY_IMAGES", "SEG", "SIGNED_SR"]
    assert chosen.sop_instance_uid in {one.sop_instance_uid for one in held}


def test_the_report_of_an_earlier_study_is_its_narrative_with_its_addenda(sessions):
    journey = signed(sessions)
    addend(journey, person(sessions, "second"), "Seen again.", objects=[an_object("REPORT_PDF"), an_object()])
    with sessions() as session:
        report = signed_report(session, journey.study_id)
        narratives = session.scalars(select(ResultObject.sop_instance_uid).where(ResultObject.kind == "SIGNED_SR"))
        assert report.sop_instance_uid in set(narratives)
    assert report.sections == {
        "findings": "A nodule.",
        "impression": "Nodule.",
        "addendum": "Addendum 1:\nSeen again.",
    }
    assert report.author == "Dr second"
