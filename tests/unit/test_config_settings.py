"""A bad setting stops the process before anything is opened; the environment outranks the file."""

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from config.errors import ConfigurationError
from config.settings import Settings, settings
from firstread.cli import app


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith("FIRSTREAD_")]:
        monkeypatch.delenv(name)


@pytest.mark.requirement("REQ-ACCESS-10")
@pytest.mark.parametrize(
    "given",
    [
        {"FIRSTREAD_DICOM__PORT": "70000"},
        {"FIRSTREAD_DICOM__AE_TITLE": "A_TITLE_OF_MORE_THAN_16_CHARACTERS"},
        {"FIRSTREAD_DICOM__AE_TITLE": "BACK\\SLASH"},
        {"FIRSTREAD_DICOM__HOST": "0.0.0.0"},
        {"FIRSTREAD_WEB__HOST": "0.0.0.0"},
        {"FIRSTREAD_WORKER__LEASE_S": "10", "FIRSTREAD_WORKER__HEARTBEAT_S": "9"},
        {"FIRSTREAD_WORKER__TIME_LIMIT_S": "5", "FIRSTREAD_WORKER__SOFT_TIME_LIMIT_S": "5"},
        {"FIRSTREAD_DESTINATIONS": '[{"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104, "prot": 1}]'},
        {"FIRSTREAD_DESTINATIONS": '[{"name": "p", "ae_title": "P", "host": "h", "port": 104, "tls": true}]'},
        {"FIRSTREAD_DICOM__PEERS": '[{"ae_title": "CT1", "host": "10.1.2.3/24"}]'},
        {"FIRSTREAD_DICOM__PEERS": '[{"ae_title": "CT1", "certificate_subject": "CT1"}]'},
        {"FIRSTREAD_DICOM__PEERS": '[{"ae_title": "CT1", "called_ae": ["NOT_OURS"]}]'},
        {"FIRSTREAD_DICOM__PEERS": '[{"ae_title": "CT1", "passcode_file": "/etc/passcode"}]'},
        {"FIRSTREAD_DICOM__PROFILES": '[{"ae_title": "ER"}, {"ae_title": "ER"}]'},
        {"FIRSTREAD_DICOM__TLS": '{"certificate": "/etc/node.pem"}'},
        {"FIRSTREAD_LOG_LEVEL": "LOUD"},
    ],
)
def test_a_bad_value_is_refused(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="settings cannot be used"):
        settings()


def test_an_unknown_field_in_the_file_is_refused(monkeypatch, tmp_path):
    file = tmp_path / "site.yaml"
    file.write_text("dicom: {prot: 104}")
    monkeypatch.setenv("FIRSTREAD_SETTINGS_FILE", str(file))
    with pytest.raises(ConfigurationError, match=r"dicom\.prot"):
        settings()


@pytest.mark.parametrize("content", [None, b"web: {port", b"- 1\n", b"\xff\xfe\x00"])
def test_a_settings_file_that_cannot_be_read_is_not_passed_over(monkeypatch, tmp_path, content):
    file = tmp_path / "site.yaml"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("FIRSTREAD_SETTINGS_FILE", str(file))
    with pytest.raises(ConfigurationError, match=r"site\.yaml"):
        settings()


@pytest.mark.requirement("REQ-CONF-1")
@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("FIRSTREAD_WEB__PORT", "tiger-in-the-wrong-place", "web.port"),
        ("FIRSTREAD_DESTINATIONS", '[{"name": "tiger-in-the-wrong-place"', "destinations"),
        ("FIRSTREAD_DESTINATIONS", '[{"name": "ehr", "protocol": "tiger-in-the-wrong-place"}]', "destinations.0"),
    ],
)
def test_a_refused_setting_is_named_in_one_line_without_its_value(monkeypatch, name, value, field):
    monkeypatch.setenv(name, value)
    said = CliRunner().invoke(app, ["doctor"])
    assert said.exit_code == 2
    assert said.output.startswith("error: settings cannot be used: ")
    assert field in said.output
    assert len(said.output.splitlines()) == 1
    assert "tiger" not in said.output


def test_the_environment_outranks_the_file_which_outranks_the_default(monkeypatch, tmp_path):
    file = tmp_path / "site.yaml"
    file.write_text("dicom: {port: 104, ae_title: SITE_AE}\norganization: General Hospital\n")
    monkeypatch.setenv("FIRSTREAD_SETTINGS_FILE", str(file))
    monkeypatch.setenv("FIRSTREAD_DICOM__PORT", "4242")
    got = settings()
    assert (got.dicom.port, got.dicom.ae_title, got.organization, got.web.port) == (
        4242,
        "SITE_AE",
        "General Hospital",
        8042,
    )


def test_off_loopback_the_dashboard_needs_tls(tmp_path):
    pair = {"tls_certificate": tmp_path / "c.pem", "tls_key": tmp_path / "k.pem"}
    assert Settings(web={"host": "0.0.0.0", **pair}).web.host == "0.0.0.0"


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().data_dir = "/elsewhere"


def test_a_child_process_gets_exactly_these_settings(monkeypatch, tmp_path):
    from firstread.up import environment

    given = Settings(
        data_dir=tmp_path,
        organization="Städtische Klinik",
        dicom={"port": 1104, "peers": [{"ae_title": "CT1", "host": "10.0.0.1"}]},
        destinations=[{"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104, "drafts": True}],
        models={"allow_demonstration": False},
    )
    for name, value in environment(given).items():
        monkeypatch.setenv(name, value)
    assert settings() == given.model_copy(update={"data_dir": tmp_path.resolve()})
