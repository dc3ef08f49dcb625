"""Which Experts may see a Study: the intended use each package promises, held against the images' headers."""

from worker.experts.registry import ExpertRegistry
from worker.intake import Intake, age_years
from worker.profiles import Profile
from worker.views import view_position


def unsuited(experts: ExpertRegistry, profile: Profile, intake: Intake) -> dict[str, str]:
    """Return the Experts of this modality whose intended use the Study is outside of, with the reason.

    What the images do not say is not held against them here; the gate decides whether it may be absent.
    """
    ds = intake.first
    refused: dict[str, str] = {}
    for card in experts.cards():
        if card.modality != profile.prompt_modality:
            continue
        why = experts.intended_use(card.name).refusal(
            modality=str(ds.Modality),
            body_part=str(ds.get("BodyPartExamined", "") or "")[:16],
            view=view_position(ds)[:16],
            age_years=age_years(ds),
        )
        if why:
            refused[card.name] = f"{card.name} is not meant for this study: {why}"
    return refused
