"""The knobs of the reading room: signing, and what keeps a reader from nodding drafts through."""

from pydantic import BaseModel, Field


class ReviewSettings(BaseModel, frozen=True, extra="forbid"):
    """How reports are edited and signed."""

    hold_s: float = Field(
        default=60.0, ge=0, le=3600, description="A signed report waits this long before it is sent; it can be stopped."
    )
    autosave_s: float = Field(default=4.0, ge=1, le=60, description="Text is saved this long after the last key.")
    hide_impression: bool = Field(
        default=False, description="The AI's impression is hidden until the reader has opened the images."
    )
    min_view_s: float = Field(
        default=0.0, ge=0, le=600, description="Seconds on the images without which nothing can be signed; 0 for none."
    )
    resolve_absent: bool = Field(
        default=False, description="Findings that the AI calls absent have to be decided too before a signature."
    )
    blocking_rules: tuple[str, ...] = Field(
        default=("placeholder", "critical_open", "rejected_asserted"),
        description="Rules of the safety linter that stop a signature; any other is signed with a reason.",
    )
    max_questions: int = Field(
        default=20, ge=0, le=200, description="Questions about one draft that readers may put to the model; 0 for none."
    )
    max_redrafts: int = Field(
        default=5, ge=0, le=50, description="Drafts made anew of the same images that readers may ask for; 0 for none."
    )
