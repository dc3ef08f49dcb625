"""No patient data can reach a log: only listed fields pass, of our own and of libraries' messages."""

import io
import json
import logging

import pytest
import structlog
from pydicom import Dataset

from config.logs import configure_logs

SECRET = "DOE^JANE"


@pytest.fixture
def lines():
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logs(level="DEBUG", json=True, process="test", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)
    structlog.contextvars.clear_contextvars()


@pytest.mark.requirement("REQ-PRIV-1")
def test_a_listed_field_passes_and_an_unlisted_one_leaves_only_its_name(lines):
    structlog.get_logger("x").info("study.read", count=3, patient_name=SECRET)
    (line,) = lines()
    assert line["count"] == 3
    assert line["process"] == "test"
    assert line["dropped"] == "patient_name"
    assert SECRET not in json.dumps(line)


def test_a_dataset_or_an_error_passed_by_mistake_does_not_get_out(lines):
    ds = Dataset()
    ds.PatientName = SECRET
    structlog.get_logger("x").warning("study.read", dataset=ds, error=ValueError(SECRET), state="FAILED")
    (line,) = lines()
    assert line["error"] == "ValueError"
    assert SECRET not in json.dumps(line)


def test_an_event_that_is_a_sentence_is_dropped_whoever_wrote_it(lines):
    logging.getLogger("pydicom.reader").error("Invalid value for PN: %s", SECRET)
    structlog.get_logger("x").info(f"read {SECRET}")
    assert [line["event"] for line in lines()] == ["library.message"] * 2
    assert SECRET not in json.dumps(lines())


def test_a_traceback_leaves_files_and_lines_but_no_values(lines):
    try:
        raise KeyError(SECRET)
    except KeyError:
        structlog.get_logger("x").exception("study.crashed")
        logging.getLogger("lib").exception("crashed on %s", SECRET)
    ours, theirs = lines()
    assert ours["error"] == "KeyError"
    assert ours["where"].startswith("test_config_logs.py:")
    assert theirs["event"] == "library.message"
    assert SECRET not in json.dumps([ours, theirs])


def test_a_name_smuggled_in_a_field_name_is_defused(lines):
    structlog.get_logger("x").info("study.read", **{"doe jane^1": 1})
    assert lines()[0]["dropped"] == "doe_jane_1" or "^" not in lines()[0]["dropped"]


def test_a_librarys_warning_does_not_quote_values(lines):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(f"Invalid value for VR PN: {SECRET}", stacklevel=1)
    assert SECRET not in json.dumps(lines())
