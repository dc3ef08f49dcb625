"""Completeness rules and the rules of each AE: typed, checked at start, the first that matches counts."""

import pytest
from pydantic import ValidationError

from config.errors import ConfigurationError
from config.node_settings import AeProfile
from config.quiet import quiet_seconds
from config.routing import RequiredSeries, Rules, SeriesFacts, StudyFacts, load_rule_book, load_rules
from config.settings import ROOT, DicomSettings, PriorSettings, Settings

GLIOMA = {
    "name": "glioma-protocol",
    "when": {"modality": ["MR"], "procedure": r"glioma|tumou?r"},
    "required": [{"modality": "MR", "description": r"t1.*(gd|ce)", "at_least": 20}, {"description": "flair"}],
    "wait_s": 900,
    "then": "hold",
}
ANY_MR = {"name": "any-mr", "when": {"modality": ["MR"]}, "wait_s": 60}
RULES = Rules.model_validate({"rules": [], "completeness": [GLIOMA, ANY_MR]})


def facts(procedure):
    return StudyFacts(modalities=frozenset({"MR"}), procedure=procedure)


def series(description, instances=30, modality="MR"):
    return SeriesFacts(modality, description, instances)


def test_the_first_completeness_rule_that_matches_counts():
    assert RULES.completeness_of(facts("MR Brain tumor")).name == "glioma-protocol"
    assert RULES.completeness_of(facts("MR knee")).name == "any-mr"
    assert RULES.completeness_of(StudyFacts(modalities=frozenset({"CT"}))) is None


@pytest.mark.parametrize(
    ("held", "lacking"),
    [
        ([series("T1 ax GD"), series("t2 FLAIR tra", 1)], []),
        ([series("T1 ax GD", 19), series("FLAIR")], ["T1"]),
        ([series("T1 ax"), series("FLAIR")], ["T1"]),
        ([series("T1 ax GD", modality="OT"), series("FLAIR")], ["T1"]),
        ([series("T1 ax GD")], ["FLAIR"]),
        # ten Instances each in two Series are no Series of twenty
        ([series("T1 GD a", 10), series("T1 GD b", 10), series("FLAIR")], ["T1"]),
        ([], ["T1", "FLAIR"]),
    ],
)
def test_a_required_series_is_one_series_that_meets_every_condition(held, lacking):
    words = {
        "T1": "MR series described like 't1.*(gd|ce)' of at least 20 Instances",
        "FLAIR": "series described like 'flair' of at least 1 Instance",
    }
    assert list(RULES.completeness[0].lacking(held)) == [words[one] for one in lacking]


def test_a_requirement_without_conditions_is_met_by_any_series():
    assert RequiredSeries().is_met([series("", 1)])
    assert not RequiredSeries().is_met([])


@pytest.mark.parametrize(
    "rule",
    [
        "{name: a}",  # no wait
        "{name: a, wait_s: 0}",
        "{name: a, wait_s: -1}",
        "{name: 'A b', wait_s: 1}",
        "{name: a, wait_s: 1, then: discard}",
        "{name: a, wait_s: 1, required: [{description: '('}]}",
        "{name: a, wait_s: 1, required: [{at_least: 0}]}",
        "{name: a, wait_s: 1, required: [{descr: flair}]}",
        "{name: a, wait_s: 1, when: {procedure: '('}}",
        "{name: a, wait_s: soon}",
    ],
)
def test_a_completeness_rule_nobody_can_work_with_stops_the_process(tmp_path, rule):
    path = tmp_path / "routing.yaml"
    path.write_text(f"rules: []\ncompleteness: [{rule}]")
    with pytest.raises(ConfigurationError, match=r"routing\.yaml"):
        load_rules(path)


def test_the_rules_that_ship_ask_for_nothing():
    assert load_rules(ROOT / "config" / "routing.yaml").completeness == ()


def test_each_called_ae_has_its_own_rules_or_ours(tmp_path):
    own = tmp_path / "research.yaml"
    own.write_text("rules: [{name: all, profile: ct-torso, use: research}]")
    profiles = [{"ae_title": "RESEARCH", "routing": own}, {"ae_title": "NIGHT"}]
    book = load_rule_book(Settings(data_dir=tmp_path, dicom={"profiles": profiles}), profiles={
        "ct-torso": 1, "chest-xray": 1, "brain-mr": 1,
    })  # fmt: skip
    assert [rule.name for rule in book.of("RESEARCH").rules] == ["all"]
    assert book.of("NIGHT") is book.of("FIRSTREAD") is book.default


def test_rules_of_an_ae_that_cannot_be_read_stop_the_process(tmp_path):
    profiles = [AeProfile(ae_title="RESEARCH", routing=tmp_path / "missing.yaml")]
    with pytest.raises(ConfigurationError, match=r"missing\.yaml"):
        load_rule_book(Settings(data_dir=tmp_path, dicom={"profiles": profiles}))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("rules: [{name: a, profile: nonsense}]")
    profiles = [AeProfile(ae_title="RESEARCH", routing=wrong)]
    with pytest.raises(ConfigurationError, match="nonsense"):
        load_rule_book(Settings(data_dir=tmp_path, dicom={"profiles": profiles}), profiles={
            "ct-torso": 1, "chest-xray": 1, "brain-mr": 1,
        })  # fmt: skip


QUIET = DicomSettings(
    quiet_s=10,
    quiet_by_modality={"MR": 90},
    peers=[{"ae_title": "SLOW", "quiet_s": 300}, {"ae_title": "PLAIN"}],
    profiles=[
        {"ae_title": "NIGHT", "quiet_s": 20, "quiet_by_modality": {"CT": 40}},
        {"ae_title": "BARE"},
    ],
)


@pytest.mark.parametrize(
    ("calling", "called", "modality", "seconds"),
    [
        ("SLOW", "NIGHT", "CT", 300),  # the source knows best
        ("PLAIN", "NIGHT", "CT", 40),
        ("PLAIN", "NIGHT", "MR", 20),  # the profile speaks before the site
        ("PLAIN", "BARE", "MR", 90),
        ("PLAIN", "BARE", "CT", 10),
        ("ANYONE", "FIRSTREAD", "MR", 90),
        ("ANYONE", "FIRSTREAD", "", 10),
    ],
)
def test_the_quiet_time_is_the_sources_the_profiles_or_ours(calling, called, modality, seconds):
    assert quiet_seconds(QUIET, calling_ae=calling, called_ae=called, modality=modality) == seconds


@pytest.mark.parametrize("sources", [[], [{"name": "web", "method": "dicomweb", "url": "https://pacs/dicom-web"}]])
def test_a_count_that_nobody_can_be_asked_for_is_refused(sources):
    with pytest.raises(ValidationError, match="needs a source"):
        PriorSettings(expected_count=True, sources=sources)


def test_a_quiet_time_is_longer_than_nothing():
    with pytest.raises(ValidationError, match="greater than 0"):
        DicomSettings(quiet_by_modality={"CT": 0})
