"""Who may associate."""

import pytest

from config.settings import DicomSettings
from dicom_node.policy import ADDRESS, CALLED_AE, CALLING_AE, NOT_LOOPBACK, TOO_MANY, judge_association

OPEN = DicomSettings()
CLOSED = DicomSettings(peers=[{"ae_title": "CT1", "host": "10.0.0.5"}, {"ae_title": "PACS"}], max_associations=2)


@pytest.mark.parametrize(
    ("settings", "calling", "called", "address", "active", "expected"),
    [
        (OPEN, "ANY", "FIRSTREAD", "127.0.0.1", 1, None),
        (OPEN, "ANY", "FIRSTREAD ", "::1", 1, None),
        (OPEN, "ANY", "FIRSTREAD", "::ffff:127.0.0.1", 1, None),
        (OPEN, "ANY", "FIRSTREAD", "10.0.0.5", 1, NOT_LOOPBACK),
        (OPEN, "ANY", "OTHER", "127.0.0.1", 1, CALLED_AE),
        (OPEN, "ANY", "firstread", "127.0.0.1", 1, CALLED_AE),
        (CLOSED, "CT1 ", "FIRSTREAD", "10.0.0.5", 1, None),
        (CLOSED, "CT1", "FIRSTREAD", "::ffff:10.0.0.5", 2, None),
        (CLOSED, "CT1", "FIRSTREAD", "10.0.0.6", 1, ADDRESS),
        (CLOSED, "CT1", "FIRSTREAD", "127.0.0.1", 1, ADDRESS),
        (CLOSED, "PACS", "FIRSTREAD", "192.168.7.7", 1, None),
        (CLOSED, "CT2", "FIRSTREAD", "10.0.0.5", 1, CALLING_AE),
        (CLOSED, "", "FIRSTREAD", "10.0.0.5", 1, CALLING_AE),
        (CLOSED, "PACS", "FIRSTREAD", "10.0.0.5", 3, TOO_MANY),
    ],
)
def test_judgement(settings, calling, called, address, active, expected):
    verdict = judge_association(settings, calling_ae=calling, called_ae=called, address=address, active=active)
    assert verdict == expected
