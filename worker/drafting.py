"""From what the gate let through to a draft, top to bottom: VLM and Experts, findings, sections, checks.

Arrays in, values out: no database, no Celery, no files. The model answers one question per finding over
one shared prefix (``composition.ROUTE``); the sentences are composed from its answers, and the
provenance says so.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from config.errors import ExpertError, GenerationBudgetError, ModelOutputError, OutsideIntendedUseError
from db.models import ImagingOrder
from db.queries.priors import ComparedPrior
from reports.codes import code_table
from worker import checks
from worker.comparison import comparison_section, priors_record
from worker.composition import ROUTE, FindingAnswer, compose
from worker.conversation import Bench, Dialogue, Question, open_dialogues
from worker.experts.base import Classification, ExpertResult, SegmentationResult
from worker.intake import Intake
from worker.measuring import LesionMeasure, label_counts, measure
from worker.pictures import first_pictures
from worker.profiles import LesionQuestion, Profile
from worker.rounds import answer_on_slice, explore, overlay_slices, settle
from worker.selection import Region
from worker.vlm.backends import Answer
from worker.vlm.prompts import finding_question, predictions
from worker.vlm.templates import plain_name

_UNANSWERED = (ExpertError, GenerationBudgetError, ModelOutputError)
"""A question that ends in one of these is "not assessed", with the reason; the rest of the draft stands."""


@dataclass(frozen=True)
class DraftFinding:
    """One observation with the Expert result it rests on.

    Attributes:
        label: as the Expert names it.
        is_present: what the model answered after reading the Expert's feedback.
        expert_positive: what the Expert itself says.
        score: the Expert's uncalibrated probability, for a classifier.
        margin: log-probability margin of the model's answer.
        result_key: (expert, argument) of the result, into ``DraftContent.results``.
        segments: label values that show it.
        measured: measurements of those labels, None when no voxel has them.
    """

    label: str
    is_present: bool
    expert_positive: bool
    score: float | None
    margin: float
    result_key: tuple[str, str]
    segments: frozenset[int] = frozenset()
    measured: LesionMeasure | None = None


@dataclass
class DraftContent:
    """What one run of the pipeline found, before it becomes rows and DICOM objects."""

    findings: list[DraftFinding] = field(default_factory=list)
    results: dict[tuple[str, str], ExpertResult] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)
    not_assessed: list[dict[str, str]] = field(default_factory=list)
    marks: list[checks.Mark] = field(default_factory=list)
    priors_used: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)


def draft_study(intake: Intake, profile: Profile, bench: Bench, prior: ComparedPrior | None = None) -> DraftContent:
    """Read one Study; ``prior`` is named and quoted in the Comparison section, and no model reads it.

    Raises:
        OutsideIntendedUseError: nothing could be assessed, so there is no draft; with the reason.
        ModelError: a model broke its contract in a way that no part of the draft survives.
    """
    content = DraftContent()
    if bench.card(profile.expert) is None:
        raise OutsideIntendedUseError(f"nothing could be assessed: no expert {profile.expert} is available here")
    if profile.name == "chest-xray":
        _read_radiograph(profile, bench, content)
    else:
        _read_volumes(profile, bench, content)
    if not content.findings:
        why = dict.fromkeys(item["why"] for item in content.not_assessed)
        raise OutsideIntendedUseError(f"nothing could be assessed: {'; '.join(why)}")
    content.results = dict(bench.results)
    content.sections = _sections(intake, profile, content) | {"comparison": comparison_section(prior)}
    content.priors_used = priors_record(prior)
    content.marks = [*bench.marks, *content.marks, *_check(content), *_beside_the_questions(content)]
    content.provenance = {
        "route": ROUTE,
        "profile": profile.name,
        "conversations": bench.transcript,
        "excluded_series": [{"series": uid, "why": why} for uid, why in intake.excluded],
        "unchecked_gates": intake.unchecked,
        "experts_failed": [{"expert": e, "argument": a, "why": w} for (e, a), w in bench.failures.items()],
    }
    return content


# --- chest radiographs -------------------------------------------------------------------------------------


def _read_radiograph(profile: Profile, bench: Bench, content: DraftContent) -> None:
    """Ask for a description, run the triggered classifier, then ask finding by finding."""
    pictures = first_pictures(bench.study, "body")
    (dialogue,) = open_dialogues(bench, [Question(profile.overview_question, pictures, profile.expert, "")])
    try:
        result = bench.run(profile.expert, "") if not dialogue.failure else None
        calls = predictions(result) if isinstance(result, Classification) else {}
        answers = settle(bench, dialogue, [finding_question(label) for label in calls], prompt="")
        if not isinstance(result, Classification):
            raise ExpertError(f"{profile.expert} is no classifier")
    except _UNANSWERED as exc:
        content.not_assessed.append({"what": "all chest findings", "why": str(exc)})
        return
    dialogue.record["answers"] = dict(zip(calls, (asdict(a) for a in answers), strict=True))
    for (label, positive), answer in zip(calls.items(), answers, strict=True):
        score = result.probabilities[label]
        content.findings.append(DraftFinding(label, answer.text == "yes", positive, score, answer.margin, dialogue.key))
    silent = [label for label, probability in result.probabilities.items() if probability is None]
    content.not_assessed += [
        {"what": label.lower().replace("_", " "), "why": f"{profile.expert} has no output for it"} for label in silent
    ]


# --- volumes -----------------------------------------------------------------------------------------------


def _read_volumes(profile: Profile, bench: Bench, content: DraftContent) -> None:
    """Open all conversations of the Study at once: one for each kind of lesion, and on CT one about the anatomy."""
    card = bench.card(profile.expert)
    arguments = card.arguments if card else ()
    regions: dict[Region, None] = dict.fromkeys(("body", *(lesion.region for lesion in profile.lesions)))
    pictures = {region: first_pictures(bench.study, region) for region in regions}
    asked: list[tuple[LesionQuestion | None, Question]] = []
    for lesion in profile.lesions:
        argument = lesion.finding if arguments else ""
        if arguments and argument not in arguments:
            content.not_assessed.append({"what": lesion.finding, "why": f"{profile.expert} does not offer it"})
            continue
        wanted = frozenset({lesion.segment} if lesion.segment else ())
        asked.append((lesion, Question(lesion.question, pictures[lesion.region], profile.expert, argument, wanted)))
    anatomy = next((argument for argument in ("organs", "everything") if argument in arguments), None)
    if anatomy and profile.name == "ct-torso":
        asked.append((None, Question(profile.overview_question, pictures["body"], profile.expert, anatomy)))
    dialogues = open_dialogues(bench, [question for _, question in asked])
    for (about, _), dialogue in zip(asked, dialogues, strict=True):
        try:
            if about is None:
                explore(bench, dialogue)
            else:
                content.findings.append(_read_lesion(about, profile, bench, dialogue, content))
        except _UNANSWERED as exc:
            content.not_assessed.append({"what": about.finding if about else "anatomy", "why": str(exc)})


def _read_lesion(
    lesion: LesionQuestion, profile: Profile, bench: Bench, dialogue: Dialogue, content: DraftContent
) -> DraftFinding:
    """Answer one question about one kind of lesion: segmentation, overlay and legend, yes or no.

    A lesion the Expert found is asked about on each of its widest slices. It is reported as present when the model
    says so on any of them, with the largest margin of those answers; as absent when it does so on none, with the
    smallest margin. Answers that differ are marked.

    Raises:
        ExpertError: the Expert failed, or what it drew is not believed.
        ModelOutputError, GenerationBudgetError: the model gave no answer.
    """
    if dialogue.failure:
        raise ModelOutputError(dialogue.failure)
    result = bench.run(*dialogue.key)
    if not isinstance(result, SegmentationResult):
        raise ExpertError(f"{profile.expert} returned no segmentation")
    wanted = dialogue.question.wanted or frozenset(result.names)
    measured = measure(result, wanted)
    if measured is not None and measured.volume_ml > profile.largest_lesion_ml:
        raise bench.disbelieve(
            dialogue.key,
            f"{profile.expert} segmented {measured.volume_ml:.0f} ml of {lesion.finding}, "
            f"more than {profile.largest_lesion_ml:.0f} ml: not believed",
        )
    answers = settle(bench, dialogue, [""], prompt=lesion.question)
    if measured is not None:
        answers += [
            answer_on_slice(bench, dialogue, index, prompt=lesion.question)
            for index in overlay_slices(result, wanted)[1:]
        ]
    is_present, margin = any_yes(answers)
    if len({answer.text for answer in answers}) > 1:
        said = ", ".join(answer.text for answer in answers)
        text = f"The model's answers about {lesion.finding} differ between slices, the widest first: {said}."
        content.marks.append(checks.Mark("contradiction", lesion.finding, text))
    dialogue.record["answers"] = {lesion.finding: asdict(answers[0])}
    return DraftFinding(
        label=lesion.finding,
        is_present=is_present,
        expert_positive=measured is not None,
        score=None,
        margin=margin,
        result_key=dialogue.key,
        segments=wanted,
        measured=measured,
    )


def any_yes(answers: Sequence[Answer]) -> tuple[bool, float]:
    """Return what several answers to one question, on several slices, amount to, and its margin."""
    yes = [answer.margin for answer in answers if answer.text == "yes"]
    return (True, max(yes)) if yes else (False, min(answer.margin for answer in answers))


# --- text --------------------------------------------------------------------------------------------------


def _sections(intake: Intake, profile: Profile, content: DraftContent) -> dict[str, str]:
    """Compose the sections; history is the order's to say, technique states known facts only."""
    answers = [FindingAnswer(f.label, f.is_present) for f in content.findings]
    composition = compose(answers)
    findings = [composition.findings_text]
    findings += [sentence for f in content.findings if (sentence := measured_sentence(f))]
    if content.not_assessed:
        findings.append(f"Not assessed: {', '.join(item['what'] for item in content.not_assessed)}.")
    return {
        "technique": _technique(intake, profile),
        "findings": "\n".join(findings),
        "impression": composition.impression_text,
    }


def history_section(order: ImagingOrder | None) -> dict[str, str]:
    """Return the history, which only an order may say: text of the images' headers is nobody's statement to us.

    No model reads it.
    """
    said = order.indication.strip() if order is not None and not order.cancelled else ""
    return {"history": f"Indication (from the order): {said}"} if said else {}


def measured_sentence(finding: DraftFinding) -> str:
    """Return one sentence of measurements for a lesion that is reported and was segmented, else ``""``."""
    m = finding.measured
    if m is None or not finding.is_present:
        return ""
    side = f", {m.laterality} side" if m.laterality else ""
    parts = f"{m.count} separate parts, " if m.count > 1 else ""
    first, last = m.slice_numbers
    where = f"slice {first}" if first == last else f"slices {first} to {last}"
    return (
        f"Segmented {finding.label}{side}: {parts}{m.volume_ml:.1f} ml in total, longest axial diameter "
        f"{m.diameter_mm:.0f} mm, on {where} ({m.extent_mm:.0f} mm along the slice normal)."
    )


def _technique(intake: Intake, profile: Profile) -> str:
    study = intake.study
    if study.radiograph is not None:
        view = study.radiograph.view_position or "unknown"
        return f"Chest radiograph, {view} view."
    if study.brain_mr is not None:
        roles = ", ".join(f"{role} ({v.array.shape[0]} slices)" for role, v in study.brain_mr.items())
        return f"MR of the brain: {roles}."
    assert study.volume is not None
    return f"{profile.prompt_modality}, {study.volume.array.shape[0]} slices {study.volume.spacing_mm[0]:.1f} mm apart."


# --- checks ------------------------------------------------------------------------------------------------


def _check(content: DraftContent) -> list[checks.Mark]:
    """Compare the finished text with the Experts' structured output."""
    asserted = "\n".join(
        line
        for key in ("findings", "impression")
        for line in content.sections[key].splitlines()
        if not line.startswith("Not assessed:")
    )
    marks: list[checks.Mark] = []
    for expert in dict.fromkeys(f.result_key[0] for f in content.findings):
        calls = {f.label: f.expert_positive for f in content.findings if f.result_key[0] == expert}
        marks += checks.check_findings(asserted, expert, calls)
    marks += checks.check_unfounded(asserted, [f.label for f in content.findings])
    sides = {f.label: f.measured.laterality if f.measured else "" for f in content.findings}
    marks += checks.check_sides(asserted, sides)
    marks += checks.check_comparison(asserted, has_prior=bool(content.priors_used))
    return marks + checks.check_numbers(asserted, _measured_numbers(content.findings))


def _measured_numbers(findings: Sequence[DraftFinding]) -> list[float]:
    measures = [f.measured for f in findings if f.measured]
    return [number for m in measures for number in (m.volume_ml, m.diameter_mm, m.extent_mm, m.count, *m.slice_numbers)]


def _beside_the_questions(content: DraftContent) -> list[checks.Mark]:
    """Mark what Experts said that no question covers, and what they had to do differently."""
    marks: list[checks.Mark] = []
    for (expert, argument), result in content.results.items():
        run = f"{expert}({argument})"
        marks += [checks.Mark("resources", "", f"{run}: {note}") for note in result.notes]
        resting = {f.label: f for f in content.findings}
        shown = _abnormal(result)
        beside = ", ".join(plain_name(name) for name in shown if name not in resting)
        if beside:
            marks.append(
                checks.Mark("not_asked", "", f"{run} shows {beside}, which no question of this draft answers.")
            )
        for finding in (resting[name] for name in shown if name in resting):
            if finding.result_key != (expert, argument) and not finding.expert_positive:
                own = "{}({})".format(*finding.result_key)
                text = f"{run} shows {plain_name(finding.label)}; {own} does not."
                marks.append(checks.Mark("contradiction", finding.label, text))
    return marks


def _abnormal(result: ExpertResult) -> list[str]:
    """Return what a result shows beyond coded anatomy: a classifier's positives, lesions, uncoded structures."""
    if isinstance(result, Classification):
        return [label for label, positive in predictions(result).items() if positive]
    counts = label_counts(result.labels)
    family = result.card.code_family
    if family == "brats":
        return []  # parts of the one finding this Expert is asked about
    found = []
    for value, name in result.names.items():
        key = code_table().key_for_index(family, value)
        if counts[value] and (key is None or code_table().label(key).category != "anatomy"):
            found.append(name)
    return found
