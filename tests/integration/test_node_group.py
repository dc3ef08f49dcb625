"""Group commit: what waits together is flushed and committed together, and nobody pays for another's failure."""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.uid import generate_uid

from config.errors import ConflictingInstanceError, TransientError
from db.engine import make_engine, make_sessions
from db.lifecycle import Received
from db.models import Instance
from instances.arrival import Announced, Arrival
from instances.group import GroupCommit
from instances.inbox import make_inbox
from instances.reconcile import reconcile
from tests.node_support import audit_tags, ct_slice, encoded, node_settings, rows

EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture
def inbox(tmp_path, sqlite_sessions):
    inbox = make_inbox(sqlite_sessions, node_settings(tmp_path))
    inbox.prepare()
    return inbox


def arrived(inbox, ds):
    """A finished Arrival of ``ds``, whose file waits for its name."""
    announced = Announced(EXPLICIT, str(ds.SOPClassUID), str(ds.SOPInstanceUID), "CT1", "FIRSTREAD")
    arrival = Arrival(announced, inbox.instances)
    arrival.write(memoryview(encoded(ds)))
    arrival.finish()
    return arrival


def one_series(count):
    study, series = generate_uid(), generate_uid()
    return [ct_slice(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n) for n in range(count)]


def path_of(inbox, ds):
    return inbox.instances.root / ds.StudyInstanceUID / ds.SeriesInstanceUID / f"{ds.SOPInstanceUID}.dcm"


def on_commit(sessions, note):
    """Call ``note`` with each COMMIT that SQLite runs, whoever sent it."""

    def watch(connection, *_):
        connection.set_trace_callback(lambda sql: note(sql) if sql == "COMMIT" else None)

    sa.event.listen(sessions.kw["bind"], "checkout", watch)


def test_what_waits_while_the_database_is_busy_is_one_commit(inbox, sqlite_sessions):
    arrivals = [arrived(inbox, ds) for ds in one_series(12)]
    commits = []
    engine = sqlite_sessions.kw["bind"]
    on_commit(sqlite_sessions, commits.append)
    with engine.connect() as other, ThreadPoolExecutor(12) as pool:
        other.exec_driver_sql("ROLLBACK")
        other.exec_driver_sql("BEGIN IMMEDIATE")  # somebody else writes: the first group has to wait
        waiting = [pool.submit(inbox.keep, arrival) for arrival in arrivals]
        time.sleep(0.5)
        assert not any(future.done() for future in waiting)
        other.exec_driver_sql("ROLLBACK")
        assert all(future.result(30).is_new for future in waiting)
    assert len(commits) <= 3
    assert len(rows(sqlite_sessions, Instance)) == 12


def test_alone_an_instance_is_a_group_of_one_and_waits_for_nobody(inbox, sqlite_sessions):
    commits = []
    on_commit(sqlite_sessions, commits.append)
    for ds in one_series(3):
        assert inbox.keep(arrived(inbox, ds)).is_new
    assert len(commits) == 3


def flushes(monkeypatch, sessions):
    """The flushes of files and folders and the commits from now on, as they happen."""
    steps, flush = [], os.fsync

    def watched(handle):
        steps.append("folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "file")
        flush(handle)

    monkeypatch.setattr(os, "fsync", watched)
    on_commit(sessions, lambda _: steps.append("commit"))
    return steps


@pytest.mark.requirement("REQ-RECV-1")
def test_bytes_name_and_row_are_flushed_in_this_order(inbox, sqlite_sessions, monkeypatch):
    first, second, third = one_series(3)
    steps = flushes(monkeypatch, sqlite_sessions)
    inbox.keep(arrived(inbox, first))
    # a new series: the folders above it are flushed as well, once
    assert steps == ["file", "folder", "folder", "folder", "commit"]
    steps.clear()
    for ds in (second, third):
        inbox.keep(arrived(inbox, ds))
    assert steps == ["file", "folder", "commit"] * 2


def test_what_has_no_name_yet_is_placed_with_its_group_and_a_folder_flushed_once(inbox, sqlite_sessions, monkeypatch):
    slices = one_series(8)
    inbox.keep(arrived(inbox, slices[0]))  # its folders are new and flushed as well
    steps = flushes(monkeypatch, sqlite_sessions)
    arrivals = [arrived(inbox, ds) for ds in slices[1:]]
    inbox.keep_together([arrival.landed for arrival in arrivals])
    assert steps == ["file"] * 7 + ["folder", "commit"]


def test_one_that_conflicts_fails_alone(inbox, sqlite_sessions):
    first, second, third = one_series(3)
    inbox.keep(arrived(inbox, first))
    other_bytes = arrived(inbox, replace_pixels(first))
    group = [arrived(inbox, second), other_bytes, arrived(inbox, third)]
    outcomes = inbox.keep_together([arrival.landed for arrival in group])
    assert [type(o) for o in outcomes] == [Received, ConflictingInstanceError, Received]
    assert path_of(inbox, first).read_bytes().endswith(encoded(first))
    assert len(rows(sqlite_sessions, Instance)) == 3


def replace_pixels(ds):
    changed = ct_slice(**{element.keyword: element.value for element in ds})
    changed.PixelData = bytes(512)
    return changed


def test_one_whose_file_is_gone_fails_alone_and_leaves_no_row(inbox, sqlite_sessions):
    slices = one_series(4)
    group = [arrived(inbox, ds) for ds in slices]
    Path(group[2].path).unlink()
    outcomes = inbox.keep_together([arrival.landed for arrival in group])
    assert [type(o) for o in outcomes] == [Received, Received, TransientError, Received]
    assert {row.sop_instance_uid for row in rows(sqlite_sessions, Instance)} == {
        slices[n].SOPInstanceUID for n in (0, 1, 3)
    }
    assert all(path_of(inbox, slices[n]).exists() for n in (0, 1, 3))
    assert not path_of(inbox, slices[2]).exists()


def test_one_that_the_database_cannot_hold_fails_alone(inbox, sqlite_sessions):
    landed = [arrived(inbox, ds).landed for ds in one_series(3)]
    landed[1] = replace(landed[1], size=2**70)
    outcomes = inbox.keep_together(landed)
    assert [isinstance(o, Received) for o in outcomes] == [True, False, True]
    assert len(rows(sqlite_sessions, Instance)) == 2


def test_the_same_instance_twice_in_a_group_is_held_once(inbox, sqlite_sessions):
    (ds,) = one_series(1)
    outcomes = inbox.keep_together([arrived(inbox, ds).landed, arrived(inbox, ds).landed])
    assert [o.is_new for o in outcomes] == [True, False]
    assert audit_tags(sqlite_sessions) == ["study:received", "instance:duplicate"]


def test_without_a_database_a_group_fails_together_and_nothing_is_visible(tmp_path, inbox):
    blocked = tmp_path / "a-folder-in-its-place.db"
    blocked.mkdir()
    inbox.sessions = make_sessions(make_engine(f"sqlite:///{blocked}"))
    outcomes = inbox.keep_together([arrived(inbox, ds).landed for ds in one_series(3)])
    assert [type(o) for o in outcomes] == [TransientError] * 3
    assert list(inbox.instances.root.glob("[0-9]*")) == []


def test_a_commit_that_fails_leaves_no_row_and_the_resend_finds_its_file(inbox, sqlite_sessions):
    (ds,) = one_series(1)

    def fail(_connection):
        raise sa.exc.OperationalError("COMMIT", {}, OSError("disk I/O error"))

    engine = sqlite_sessions.kw["bind"]
    sa.event.listen(engine, "commit", fail)
    with pytest.raises(TransientError):
        inbox.keep(arrived(inbox, ds))
    sa.event.remove(engine, "commit", fail)
    assert rows(sqlite_sessions, Instance) == []
    assert inbox.keep(arrived(inbox, ds)).is_new
    assert path_of(inbox, ds).read_bytes().endswith(encoded(ds))


def test_groups_grow_while_one_is_being_done_and_each_caller_gets_its_own_outcome():
    groups, gate = [], threading.Event()

    def work(items):
        groups.append(list(items))
        gate.wait(10)
        return [ValueError(item) if item % 2 else item * 10 for item in items]

    commit = GroupCommit(work)
    futures = [commit.submit(0)]
    while not groups:
        time.sleep(0.001)
    futures += [commit.submit(number) for number in range(1, 100)]
    gate.set()
    assert [f.exception(10) is None for f in futures] == [number % 2 == 0 for number in range(100)]
    assert futures[8].result() == 80
    assert [len(group) for group in groups] == [1, 64, 35]
    assert all(a < b for a, b in pairwise(number for group in groups for number in group))


def test_a_defect_in_the_work_is_told_to_whoever_waits_and_the_next_group_is_done():
    def work(items):
        if "bad" in items:
            raise KeyError("bad")
        return items

    commit = GroupCommit(work)
    with pytest.raises(KeyError):
        commit.submit("bad").result(10)
    assert commit.submit("good").result(10) == "good"


def test_of_two_that_come_at_once_under_one_uid_the_first_in_the_database_stays(inbox, sqlite_sessions):
    (ds,) = one_series(1)
    right, wrong = arrived(inbox, ds), arrived(inbox, replace_pixels(ds))
    inbox.name(wrong)  # it has the name before the database was asked
    inbox.name(right)
    assert path_of(inbox, ds).samefile(wrong.path)
    outcomes = inbox.keep_together([right.landed, wrong.landed])
    assert [type(o) for o in outcomes] == [Received, ConflictingInstanceError]
    assert path_of(inbox, ds).read_bytes().endswith(encoded(ds))
    (displaced,) = inbox.quarantined.root.glob("displaced-*")
    assert displaced.read_bytes().endswith(encoded(replace_pixels(ds)))


def test_one_whose_name_was_given_to_others_meanwhile_gets_it_back_with_its_row(inbox, sqlite_sessions):
    """Another process moved the file aside for other bytes, and then could not commit them."""
    first, second = one_series(2)
    inbox.keep(arrived(inbox, first))
    landed = named(inbox, second)
    path_of(inbox, second).unlink()
    path_of(inbox, second).write_bytes(b"other bytes")
    (outcome,) = inbox.keep_together([landed])
    assert isinstance(outcome, Received)
    assert path_of(inbox, second).read_bytes().endswith(encoded(second))


def test_one_that_is_refused_does_not_keep_a_name_it_found_free(inbox, sqlite_sessions):
    first, second = one_series(2)
    inbox.keep(arrived(inbox, first))
    path_of(inbox, first).unlink()  # as retention does, or a fault of the disk
    other = arrived(inbox, replace_pixels(first))
    inbox.name(other)
    assert path_of(inbox, first).samefile(other.path)
    outcomes = inbox.keep_together([other.landed, named(inbox, second)])
    assert [type(o) for o in outcomes] == [ConflictingInstanceError, Received]
    assert not path_of(inbox, first).exists()
    assert Path(other.path).exists()  # its bytes go to the quarantine
    assert path_of(inbox, second).exists()


def named(inbox, ds):
    arrival = arrived(inbox, ds)
    inbox.name(arrival)
    return arrival.landed


def test_a_name_without_a_row_is_taken_over_when_its_instance_comes_again(inbox, sqlite_sessions):
    (ds,) = one_series(1)
    first = arrived(inbox, ds)
    inbox.name(first)
    first.close()  # the database could not be reached
    assert path_of(inbox, ds).exists()
    assert rows(sqlite_sessions, Instance) == []
    assert inbox.keep(arrived(inbox, ds)).is_new
    assert path_of(inbox, ds).read_bytes().endswith(encoded(ds))


def test_a_file_system_without_links_keeps_as_well(inbox, sqlite_sessions, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    slices = one_series(3)
    assert all(inbox.keep(arrived(inbox, ds)).is_new for ds in slices)
    assert all(path_of(inbox, ds).read_bytes().endswith(encoded(ds)) for ds in slices)


def test_what_is_named_but_never_was_answered_is_indexed_at_the_next_start(inbox, sqlite_sessions):
    (ds,) = one_series(1)
    named(inbox, ds)  # the node dies here
    found = reconcile(inbox, called_ae="FIRSTREAD")
    assert (found.orphans_indexed, found.orphans_quarantined) == (1, 0)
    (row,) = rows(sqlite_sessions, Instance)
    assert row.sop_instance_uid == ds.SOPInstanceUID
    assert list(inbox.instances.incoming.iterdir()) == []
