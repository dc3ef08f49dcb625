"""Content negotiation: RFC 9110 section 12.5.1 with DICOM's parameters (PS3.18 section 8.7)."""

import pytest
from werkzeug.exceptions import NotAcceptable

from dashboard.dicomweb.accept import Offer, choose, dicom_offers, parse_accept

EXPLICIT, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"
COMPRESSED = dicom_offers(J2K, decodable=True)
JSON = (Offer("application/dicom+json"), Offer("application/json"))
DICOM = 'multipart/related; type="application/dicom"'


@pytest.mark.parametrize(
    ("accept", "sent"),
    [
        ("", (J2K, True)),
        ("*/*", (J2K, True)),
        (DICOM, (EXPLICIT, True)),  # application/dicom alone means Explicit VR Little Endian
        (f"{DICOM}; transfer-syntax=*", (J2K, True)),
        (f'{DICOM}; transfer-syntax="*"', (J2K, True)),
        (f"{DICOM}; transfer-syntax={J2K}", (J2K, True)),
        (f"{DICOM};transfer-syntax={EXPLICIT}", (EXPLICIT, True)),
        ("multipart/related;type=application/dicom;transfer-syntax=*", (J2K, True)),
        ('MULTIPART/Related; TYPE="Application/DICOM"; Transfer-Syntax=*', (J2K, True)),
        ("application/dicom; transfer-syntax=*", (J2K, False)),
        ("application/dicom", (EXPLICIT, False)),
        (f"{DICOM}; transfer-syntax={J2K}; q=0.4, {DICOM}; transfer-syntax={EXPLICIT}; q=0.9", (EXPLICIT, True)),
        (f"{DICOM}; transfer-syntax=*;q=0.1, application/dicom;q=0.9", (EXPLICIT, False)),
        (f"text/html, {DICOM}; transfer-syntax=*, image/png", (J2K, True)),
        (f"*/*;q=0.1, {DICOM};transfer-syntax={EXPLICIT}", (EXPLICIT, True)),
    ],
)
def test_the_best_acceptable_form_is_sent(accept, sent):
    offer = choose(accept, COMPRESSED)
    assert (offer.transfer_syntax, offer.is_multipart) == sent


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        'multipart/related; type="image/jpeg"',
        f"{DICOM}; transfer-syntax=1.2.840.10008.1.2.4.50",
        "application/zip",
        "*/*;q=0",
        "nonsense",
    ],
)
def test_what_cannot_be_sent_is_not_acceptable(accept):
    with pytest.raises(NotAcceptable):
        choose(accept, COMPRESSED)


def test_a_type_excluded_by_q_0_is_not_sent_because_of_a_wildcard():
    assert choose("*/*, application/dicom+json;q=0", JSON).media_type == "application/json"


def test_what_cannot_be_decoded_is_only_offered_as_it_is():
    video = dicom_offers("1.2.840.10008.1.2.4.102", decodable=False)
    assert choose(f"{DICOM}; transfer-syntax=*", video).transfer_syntax.endswith("4.102")
    with pytest.raises(NotAcceptable):
        choose(DICOM, video)


def test_commas_and_semicolons_inside_quotes_separate_nothing():
    ranges = parse_accept('multipart/related; type="a/b;c,d"; q=0.5, x/y')
    assert [(one.media_type, one.q) for one in ranges] == [("multipart/related", 0.5), ("x/y", 1.0)]
    assert ranges[0].parameters["type"] == "a/b;c,d"
