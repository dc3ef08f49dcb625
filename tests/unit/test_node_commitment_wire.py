"""Storage commitment on the wire: what is written says everything once, and what is read is either sound or refused."""

import warnings
from io import BytesIO

from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.dsutils import decode, encode

from config.errors import RefusedInputError
from dicom_node.commitment_wire import Report, Request, read_report, read_request, write_report, write_request

UIDS = st.integers(1, 10**20).map(lambda number: f"2.25.{number}")
REFERENCES = st.lists(st.tuples(UIDS, UIDS), min_size=1, max_size=8, unique_by=lambda pair: pair[1])


def sent(ds, *, implicit):
    """The Data Set as the other side decodes it."""
    return decode(BytesIO(encode(ds, implicit, True)), implicit, True)


@given(UIDS, REFERENCES, st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_request_is_read_as_it_was_written(transaction, references, implicit):
    ds = sent(write_request(transaction, references), implicit=implicit)
    assert read_request(lambda: ds) == Request(transaction, tuple(references))


@given(UIDS, REFERENCES, st.sets(st.integers(0, 7)), st.sampled_from([0x0110, 0x0112, 0x0119, 0x0131]), st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_report_holds_every_instance_once(transaction, references, positions, reason, implicit):
    failed = {references[n][1]: reason for n in positions if n < len(references)}
    event_type, ds = write_report(Request(transaction, tuple(references)), failed)
    assert event_type == (2 if failed else 1)
    assert ("FailedSOPSequence" in ds) is bool(failed)
    assert ("ReferencedSOPSequence" in ds) is (len(failed) < len(references))
    kept = frozenset(pair for pair in references if pair[1] not in failed)
    read = sent(ds, implicit=implicit)
    assert read_report(lambda: read) == Report(transaction, kept, failed)


GOOD = encode(write_request("2.25.1", [("1.2.840.10008.5.1.4.1.1.2", "2.25.2"), ("1.2.3", "2.25.3")]), False, True)


@given(st.data(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_bytes_come_they_are_read_or_refused(data, implicit):
    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(0, len(mutated)))])
    for read in (read_request, read_report):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = read(lambda: decode(BytesIO(cut), implicit, True))
            except RefusedInputError as exc:
                assert len(str(exc)) <= 64  # noqa: PT017 it becomes an Error Comment
            else:
                assert found.transaction_uid


def test_an_instance_named_twice_alike_is_asked_for_once():
    pair = ("1.2.3", "2.25.3")
    assert read_request(lambda: write_request("2.25.1", [pair, pair])).references == (pair,)
