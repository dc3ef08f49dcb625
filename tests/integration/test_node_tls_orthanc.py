"""DICOM over TLS with a real PACS, both ways: Orthanc stores at the node, and the node stores at Orthanc."""

from config.settings import Destination, TlsSettings
from db.models import Instance, PeerAssociation
from dicom_node import scu
from dicom_node.probe import examine
from tests.node_support import ct_slice, node_settings, rows, running_node, write_file
from tests.orthanc import running_orthanc
from tests.tls_support import Authority


def tls_of(authority, issued):
    return {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(issued.certificate),
        "DicomTlsPrivateKey": str(issued.key),
        "DicomTlsTrustedCertificates": str(authority.file),
    }


def test_orthanc_and_the_node_store_at_each_other_over_mutual_tls(tmp_path, sqlite_sessions):
    authority = Authority(tmp_path / "ca")
    theirs = authority.issue("orthanc", subject="CN=PACS,O=Hospital")
    peers = [{"ae_title": "PACS", "host": "127.0.0.1", "certificate_subject": theirs.subject}]
    ours = authority.settings(authority.issue("node"))
    settings = node_settings(tmp_path / "node", dicom={"tls": ours, "peers": peers})
    slices = [ct_slice(), ct_slice()]
    with (
        running_orthanc(tmp_path / "pacs", DicomAet="PACS", **tls_of(authority, theirs)) as pacs,
        running_node(settings, sqlite_sessions) as node,
    ):
        pacs.register("node", "FIRSTREAD", node.tls_port, UseDicomTls=True)
        pacs.upload(slices[0])
        (held,) = pacs.rest("GET", "/instances")
        pacs.rest("POST", "/modalities/node/store", held.encode())
        pacs.rest("POST", "/modalities/node/echo", b"{}")
        destination = Destination(name="pacs", ae_title=pacs.ae_title, host="localhost", port=pacs.dicom_port, tls=True)
        path = write_file(tmp_path / "ct.dcm", slices[1])
        item = scu.Outgoing(path, str(slices[1].SOPClassUID), "1.2.840.10008.1.2.1")
        (sent,) = scu.store(scu.address_of(destination, settings), [item])
        steps = {step.name: step for step in examine(scu.address_of(destination, settings))}
        assert sent.accepted, sent.error
        assert pacs.instances() == sorted(str(ds.SOPInstanceUID) for ds in slices)
        stranger = Authority(tmp_path / "other", "Other CA").issue("node")
        untrusted = TlsSettings(certificate=stranger.certificate, key=stranger.key, authorities=authority.file)
        refused = list(examine(scu.Address("localhost", pacs.dicom_port, "PACS", "FIRSTREAD", untrusted)))[-1]
    assert [row.sop_instance_uid for row in rows(sqlite_sessions, Instance)] == [str(slices[0].SOPInstanceUID)]
    assert {row.tls_subject for row in rows(sqlite_sessions, PeerAssociation)} == {theirs.subject}
    assert "certificate of CN=PACS,O=Hospital" in steps["TLS"].note
    assert all(steps[name].is_good for name in ("association", "C-ECHO", "Segmentation Storage", "Enhanced SR Storage"))
    assert not refused.is_good
    assert refused.note.startswith("TLS: ")
