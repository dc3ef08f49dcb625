"""A draft made anew at a reader's wish: the pipeline of every draft, with what is to be different."""

from sqlalchemy.orm import Session, sessionmaker

from config.settings import Settings
from db.asking_models import Redraft
from db.lifecycle import Claim, NewDraft, redrafting
from db.lifecycle.redrafting import RedraftClaim
from worker.errands import Duty, Runner
from worker.pipeline import StudyPipeline
from worker.rewording import Rewording, style_of


class Redrafting:
    """Callable that turns a claimed redraft into a draft; uses the models of a pipeline."""

    def __init__(self, pipeline: StudyPipeline) -> None:
        """Open nothing yet."""
        self._pipeline = pipeline

    def __call__(self, claim: RedraftClaim) -> NewDraft:
        """Draft one Study anew; the database is only read.

        Raises:
            RefusedInputError: the gates of drafting refuse the Study or the models.
            ModelError: a model broke its contract.
            TransientError: another attempt may succeed.
        """
        held, wanted = claim.held, claim.wanted
        run = Claim(
            reading_id=held.errand_id,
            study_id=held.study_id,
            revision=held.revision,
            profile=held.profile,
            fencing_token=held.fencing_token,
            attempts=held.attempts,
            owner=held.owner,
            priority=held.priority,
            image_set_sha256=held.image_set_sha256,
            use=held.use,
        )
        return self._pipeline.redraft(
            run,
            of=held.reading_id,
            asked_at=held.asked_at,
            reworded=Rewording(wanted.instruction, style_of(wanted.style), claim.folder),
            note={
                "instead_of_reading": str(held.reading_id),
                "instruction": wanted.instruction,
                "style": wanted.style,
                "package": str(wanted.package_id or ""),
            },
        )


def make_drafts_anew(
    pipeline: StudyPipeline, sessions: sessionmaker[Session], settings: Settings
) -> Runner[RedraftClaim, NewDraft]:
    """Return what makes drafts anew in this process."""
    duty = Duty(
        kind=Redraft,
        take=lambda uow, key, owner, lease_s: redrafting.claim_redraft(uow, key, owner=owner, lease_s=lease_s),
        held=lambda claim: claim.held,
        work=Redrafting(pipeline),
        keep=redrafting.offered,
    )
    return Runner(sessions, settings, duty)
