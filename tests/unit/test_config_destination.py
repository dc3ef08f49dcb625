"""Which destination gets what: every kind of result has an order, an option and, where it is an object, a class."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from config.destination import Destination
from config.results import DRAFT_TEXTS, EVIDENCE, MESSAGES, SENDING_ORDER, ResultKind, receivers, wants
from dicom_node.sop_classes import OPTION, SOP_CLASS, advice, sent_to, suits
from dicom_node.transfer_syntaxes import supported_contexts

K = ResultKind
WHERE = {
    "c-store": {"ae_title": "PACS", "host": "pacs.example"},
    "stow-rs": {"url": "https://pacs.example/rs"},
    "mllp": {"host": "ris.example"},
    "fhir": {"url": "https://ehr.example/fhir"},
}


def destination(protocol: str = "c-store", **options: Any) -> Destination:
    return Destination.model_validate({"name": "one", "protocol": protocol, **WHERE[protocol], **options})


def taken(one: Destination) -> set[ResultKind]:
    return {kind for kind in ResultKind if wants(one, kind)}


def test_every_kind_has_one_place_in_the_order_of_sending() -> None:
    assert sorted(SENDING_ORDER) == sorted(ResultKind)
    place = {kind: index for index, kind in enumerate(SENDING_ORDER)}
    for evidence in (K.SEG, K.SEG_LABELMAP, K.HEAT_MAP):  # what a findings SR and a narrative refer to
        assert place[evidence] < place[K.FINDINGS_SR] < place[K.DRAFT_SR]
        assert place[evidence] < place[K.SIGNED_FINDINGS_SR] < place[K.SIGNED_SR]
    assert place[K.REJECTION_NOTE] == len(SENDING_ORDER) - 1


def test_every_object_has_a_class_an_option_and_advice_and_no_message_has() -> None:
    objects = set(ResultKind) - MESSAGES
    assert set(SOP_CLASS) == objects == set(OPTION)
    for kind in ResultKind:
        assert bool(advice(kind)) is (kind in objects)
    assert advice("SOMETHING_OLD") == ""


@pytest.mark.parametrize("kind", sorted(SOP_CLASS))
def test_the_option_lets_it_be_sent_and_the_advice_stops_it(kind: ResultKind) -> None:
    for protocol in ("c-store", "stow-rs"):
        assert wants(destination(protocol, **yaml.safe_load(OPTION[kind])), kind)
        assert not wants(destination(protocol, **yaml.safe_load(advice(kind))), kind)


def test_the_usual_destination_takes_what_every_viewer_reads() -> None:
    assert taken(destination()) == {
        K.SEG, K.HEAT_MAP, K.FINDINGS_SR, K.SIGNED_FINDINGS_SR, K.KEY_IMAGES, K.DRAFT_SR, K.PRELIMINARY_SR, K.SIGNED_SR,
        K.REJECTION_NOTE,
    }  # fmt: skip


def test_messages_go_by_their_protocol_and_nothing_else_does() -> None:
    assert taken(destination("mllp")) == {K.DRAFT_ORU, K.REPORT_ORU, K.RETRACTION_ORU}
    assert taken(destination("fhir")) == {K.DRAFT_FHIR, K.REPORT_FHIR, K.RETRACTION_FHIR}
    for kind in ResultKind:
        assert suits(destination("mllp"), kind) is (kind in {K.DRAFT_ORU, K.REPORT_ORU, K.RETRACTION_ORU})
        assert suits(destination("fhir"), kind) is (kind in {K.DRAFT_FHIR, K.REPORT_FHIR, K.RETRACTION_FHIR})
        assert suits(destination("stow-rs"), kind) is (kind not in MESSAGES)


@pytest.mark.requirement("REQ-LABEL-7")
def test_drafts_go_only_where_they_are_asked_for() -> None:
    plain, eager = destination(), destination().model_copy(update={"name": "two", "drafts": True})
    for kind in DRAFT_TEXTS - MESSAGES - {K.DRAFT_TEXT_SR, K.DRAFT_PDF}:
        assert receivers([plain, eager], kind, is_signed=False) == ("two",)
    assert receivers([plain, eager], K.SIGNED_SR, is_signed=True) == ("one", "two")
    assert DRAFT_TEXTS.isdisjoint(EVIDENCE)


def test_the_classes_a_destination_has_to_take_are_those_of_its_options() -> None:
    def names(**options: Any) -> set[str]:
        return {uid.name or "label map" for uid in sent_to(destination(**options))}

    usual = {"Segmentation Storage", "Comprehensive 3D SR Storage", "Enhanced SR Storage",
             "Key Object Selection Document Storage"}  # fmt: skip
    assert names() == usual
    assert names(report="basic-text", pdf=True, segmentation="none", heat_maps=False) == (
        usual - {"Enhanced SR Storage", "Segmentation Storage"} | {"Basic Text SR Storage", "Encapsulated PDF Storage"}
    )
    everything = {str(one.abstract_syntax) for one in supported_contexts(SOP_CLASS.values())}
    assert {str(uid) for uid in SOP_CLASS.values()} <= everything  # our own node and archive take them too


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "c-store", "host": "h"}, "needs ae_title"),
        ({"protocol": "stow-rs"}, "needs url"),
        ({"protocol": "mllp"}, "needs host"),
        ({"protocol": "fhir", "url": "ftp://x"}, "url"),
        ({"protocol": "stow-rs", "url": "https://x", "commitment": True}, "c-store destinations only"),
        ({"protocol": "mllp", "host": "h", "count": True}, "only c-store and stow-rs"),
        ({"protocol": "c-store", "ae_title": "A", "host": "h", "segmentation": "fractional"}, "segmentation"),
        ({"protocol": "c-store", "ae_title": "A", "host": "h", "unknown": 1}, "unknown"),
        ({"protocol": "fhir", "url": "https://user:secret@ehr.example/fhir"}, "belongs into a token_file"),
        ({"protocol": "stow-rs", "url": "http://pacs.example/rs", "token_file": "t"}, "by https only"),
    ],
)
def test_a_destination_that_cannot_work_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Destination.model_validate({"name": "one", **options})


def test_the_example_for_administrators_is_valid_and_names_every_option() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    example = re.search(r"## Destinations\n.*?```yaml\n(.*?)```", page, re.DOTALL)
    assert example is not None
    shown = yaml.safe_load(example[1])["destinations"]
    assert {Destination.model_validate(one).protocol for one in shown} == set(WHERE)
    assert {option for one in shown for option in one} == set(Destination.model_fields)
