"""Nonsense for associations: recorded ones that are changed here and there, and inventions."""

import shutil
import socket
import struct
import subprocess
import threading
from contextlib import contextmanager, suppress

from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep, StorageCommitmentPushModel, Verification

from tests.association_support import (
    RELEASE,
    association_request,
    command_set,
    data_pdu,
    split_pdus,
)
from tests.node_support import ct_slice, write_file

# Recorded associations


def known_slice(number):
    """A CT Instance that is the same in every run."""
    arc = "1.2.826.0.1.3680043.8.498.77"
    return ct_slice(
        StudyInstanceUID=f"{arc}.1",
        SeriesInstanceUID=f"{arc}.2",
        SOPInstanceUID=f"{arc}.3.{number}",
        InstanceNumber=number,
    )


def relay(server, port, taken):
    """Pass one connection on to ``port`` and keep what the client sends."""
    client, _ = server.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as node:

        def back():
            with suppress(OSError):
                while data := node.recv(65536):
                    client.sendall(data)
                client.shutdown(socket.SHUT_WR)

        answering = threading.Thread(target=back)
        answering.start()
        while data := client.recv(65536):
            taken.append(data)
            node.sendall(data)
        with suppress(OSError):
            node.shutdown(socket.SHUT_WR)
        answering.join()


@contextmanager
def recorder(port, taken):
    """Give a port that passes what is sent to ``port`` on, and keep it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        relaying = threading.Thread(target=relay, args=(server, port, taken))
        relaying.start()
        yield server.getsockname()[1]
        relaying.join()


def record_pynetdicom(port):
    """The bytes pynetdicom sends for C-ECHO, N-CREATE and N-ACTION."""
    taken = []
    ae = AE("MODALITY")
    for sop_class in (CTImageStorage, Verification, ModalityPerformedProcedureStep, StorageCommitmentPushModel):
        ae.add_requested_context(sop_class)
    referenced = Dataset()
    referenced.TransactionUID = "1.2.3.4.5"
    with recorder(port, taken) as through:
        assoc = ae.associate("127.0.0.1", through, ae_title="FIRSTREAD")
        assoc.send_c_echo()
        assoc.send_n_create(known_slice(7), ModalityPerformedProcedureStep, "1.2.3.4")
        assoc.send_n_action(referenced, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
        assoc.release()
    return b"".join(taken)


def record_storescu(port, folder):
    """The bytes DCMTK sends for three C-STORE, if it is installed."""
    if shutil.which("storescu") is None:
        return b""
    taken = []
    files = [str(write_file(folder / f"{number}.dcm", known_slice(number))) for number in range(3)]
    with recorder(port, taken) as through:
        command = ["storescu", "-R", "-aec", "FIRSTREAD", "127.0.0.1", str(through), *files]
        subprocess.run(command, check=True, timeout=60)
    return b"".join(taken)


# Mutations


def flip(rng, data):
    """Turn one bit."""
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def cut(rng, data):
    """End early."""
    return data[: rng.randrange(len(data))]


def drop(rng, data):
    """Leave some bytes out."""
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 40) :]


def repeat(rng, data):
    """Send some bytes twice."""
    at, size = rng.randrange(len(data)), rng.randint(1, 400)
    return data[: at + size] + data[at:]


def insert(rng, data):
    """Put some bytes in."""
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 12)) + data[at:]


def measure(rng, data):
    """Put a length where perhaps one was."""
    at = rng.randrange(len(data))
    length = rng.choice((0, 1, 2, 5, 6, 255, 4096, 65536, 131073, 0x7FFFFFFF, 0xFFFFFFFF))
    return data[:at] + length.to_bytes(4, rng.choice(("big", "little"))) + data[at + 4 :]


ON_BYTES = (flip, flip, flip, cut, drop, repeat, insert, measure, measure)


def on_pdus(rng, pdus, others):
    """Drop, repeat, swap, splice, or change one PDU or its header."""
    at, how = rng.randrange(len(pdus)), rng.randrange(6)
    one, rest = pdus[at], [*pdus[:at], *pdus[at + 1 :]]
    if how == 0:
        return rest or pdus
    if how == 1:
        return [*pdus[:at], one, *pdus[at:]]
    if how == 2:
        return [*rest, one]
    if how == 3:
        return [*pdus[:at], *rng.choice(others)[1:]]
    if how == 4:
        return [*pdus[:at], bytes((rng.randrange(9),)) + one[1:], *pdus[at + 1 :]]
    return [*pdus[:at], rng.choice(ON_BYTES)(rng, one) or one, *pdus[at + 1 :]]


def mutated(rng, recordings):
    """A recorded association, changed here and there; in most the request stays as it was."""
    others = [split_pdus(recording) for recording in recordings]
    first, *pdus = rng.choice(others)
    for _ in range(rng.randint(0, 3)):
        pdus = on_pdus(rng, pdus, others)
    rest = b"".join(pdus)
    for _ in range(rng.randint(0, 2)):
        rest = rng.choice(ON_BYTES)(rng, rest) or rest
    if rng.random() < 0.2:
        first = rng.choice(ON_BYTES)(rng, first)
    return first + rest


# Inventions

COMMANDS = st.fixed_dictionaries(
    {},
    optional={
        "_0002": st.sampled_from((CTImageStorage, Verification, "1.2.3", "", "no UID", "9" * 70)),
        "_0003": st.sampled_from((str(ModalityPerformedProcedureStep), "1.2.3")),
        "_0100": st.sampled_from(
            (0x0001, 0x0001, 0x0001, 0x0020, 0x0030, 0x0100, 0x0120, 0x0130, 0x0140, 0x0FFF, 0x8001)
        ),
        "_0110": st.integers(0, 0xFFFF),
        "_0120": st.integers(0, 0xFFFF),
        "_0700": st.integers(0, 3),
        "_0800": st.sampled_from((0x0000, 0x0001, 0x0101)),
        "_0900": st.integers(0, 0xFFFF),
        "_1000": st.sampled_from(("1.2.3", "1.2.840.10008.1.20.1.1", "../../x", "")),
        "_1001": st.sampled_from(("1.2.3", "1.2.840.10008.1.20.1.1")),
        "_1008": st.integers(0, 9),
        "_1030": st.text("ABC \\", max_size=20),
    },
).map(lambda values: command_set(**values))
PDVS = st.tuples(
    st.sampled_from((1, 1, 1, 1, 3, 5, 0, 2, 255)),
    st.sampled_from((0, 1, 2, 2, 3, 3, 3, 255)),
    st.one_of(COMMANDS, COMMANDS, st.binary(max_size=300)),
)
PDUS = st.one_of(
    st.lists(PDVS, max_size=4).map(lambda pdvs: data_pdu(*pdvs)),
    st.lists(PDVS, min_size=1, max_size=4).map(lambda pdvs: data_pdu(*pdvs)),
    st.tuples(st.integers(0, 255), st.integers(0, 0xFFFFFFFF), st.binary(max_size=60)).map(
        lambda parts: struct.pack(">BxL", *parts[:2]) + parts[2]
    ),
    st.just(RELEASE),
)
STREAMS = st.one_of(
    st.binary(max_size=200),
    st.tuples(
        st.sampled_from((0, 1, 7, 8, 16, 128, 16384, 0xFFFFFFFF)).map(
            lambda maximum: association_request(maximum=maximum)
        ),
        st.lists(PDUS, max_size=8).map(b"".join),
    ).map(b"".join),
)
