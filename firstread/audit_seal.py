"""The verbs of the seal: ``firstread audit verify | head | prove | check-proof | keys``."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from config.errors import AppError, BrokenSealError, ConfigurationError
from config.settings import Settings
from firstread.terminal import DataDir, console, refuse, start

if TYPE_CHECKING:
    from audit.verify import Terms, Verdict

Moment = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="UTC.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PublicKeys = Annotated[
    list[Path] | None, typer.Option("--public-key", help="Public key to trust (PEM); may be given more than once.")
]


def audit_verify(  # noqa: PLR0913, PLR0917 one per option
    from_position: Annotated[int, typer.Option(min=0, help="Begin at this position of the chain.")] = 0,
    since: Moment = None,
    until: Moment = None,
    heads: Annotated[
        list[Path] | None, typer.Option(help="Folder of anchored heads, or file of syslog lines; more than once.")
    ] = None,
    public_key: PublicKeys = None,
    origin_key_dir: Annotated[Path | None, typer.Option(help="Folder of the keys that mark events.")] = None,
    database_url: Annotated[str, typer.Option(help="Another account's, read-only; the settings' when empty.")] = "",
    record: Annotated[bool, typer.Option("--record", help="Write the verdict into the log as an event.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Verify the log against its chain, tree, heads and anchors; exit 1 and name the first bad record."""
    from audit.reading import source_of
    from audit.verify import verify

    settings = start("audit", data_dir)
    try:
        source = source_of(database_url or settings.database)
        terms = _terms(settings, public_key, origin_key_dir, heads)
        verdict = verify(source, _interval(terms, source, from_position, since, until))
        if record:
            _record(settings, verdict)
    except AppError as exc:
        raise refuse(exc) from exc
    if as_json:
        typer.echo(json.dumps(verdict.as_json(), indent=1))
    else:
        _print(verdict)
    raise typer.Exit(0 if verdict.holds else 1)


def _terms(settings: Settings, public: list[Path] | None, origin: Path | None, heads: list[Path] | None) -> "Terms":
    """Return what to verify by: what was given; of this system itself, what was not."""
    from audit.keys import by_name, read_public_key
    from audit.nightly import stamps_of, terms_of
    from audit.verify import Terms
    from db.origin import read_keys

    if public:
        keys = by_name(*(read_public_key(path) for path in public))
        audit = settings.audit
        terms = Terms(
            keys,
            clock_tolerance_s=audit.clock_tolerance_s,
            unsealed_alarm_s=audit.unsealed_alarm_s,
            timestamps=stamps_of(audit),
        )
    else:
        terms = terms_of(settings)
    if origin is not None:
        terms = replace(terms, origin_keys=read_keys(origin).keys)
    return replace(terms, heads=heads) if heads else terms


def _interval(terms: "Terms", source: Any, first: int, since: datetime | None, until: datetime | None) -> "Terms":
    from audit.reading import open_reader
    from audit.verify import positions_between

    if since is None and until is None:
        return replace(terms, first=first)
    reader = open_reader(source)
    try:
        low, end = positions_between(reader, since, until)
    finally:
        reader.close()
    return replace(terms, first=max(first, low), end=end)


def _record(settings: Settings, verdict: "Verdict") -> None:
    from audit.nightly import record_verdict
    from db.engine import current_sessions

    record_verdict(current_sessions(settings.database), verdict)


def _print(verdict: "Verdict") -> None:
    from audit.verify import CHECKS

    for name, meaning in CHECKS.items():
        count, why = verdict.found.get(name, 0), verdict.skipped.get(name, "")
        said = f"[red]{count:4d} [/red]" if count else ("[yellow]  - [/yellow]" if why else "[green]ok  [/green]")
        console.print(f"{said} {name}: {why or meaning}", highlight=False, soft_wrap=True)
    for one in verdict.problems[:20]:
        place = f"position {one.position}" if one.position >= 0 else "no position"
        event = f", event {one.seq}" if one.seq >= 0 else ""
        console.print(f"  {one.check}: {place}{event}: {one.what}", highlight=False, markup=False, soft_wrap=True)
    first = verdict.first_bad
    span = f"positions {verdict.first} to {verdict.end} of {verdict.size}, root {verdict.root.hex()}"
    if first is None:
        console.print(f"the log holds: {span}, {verdict.heads} heads", highlight=False, soft_wrap=True)
    else:
        what = f"the log does NOT hold; first bad record: position {first.position}, event {first.seq} ({first.check})"
        console.print(f"{what}; {span}", highlight=False, soft_wrap=True)


def audit_head(data_dir: DataDir = None) -> None:
    """Seal what waits, sign a tree head now and print it."""
    from audit.process import seal_keys
    from audit.sealing import Sealer
    from db.engine import current_sessions

    settings = start("audit", data_dir)
    try:
        head = Sealer(current_sessions(settings.database), seal_keys(settings), settings.audit).head()
    except AppError as exc:
        raise refuse(exc) from exc
    if head is None:
        raise refuse(ConfigurationError("there is no event to seal yet"))
    typer.echo(head.note, nl=False)


def audit_prove(
    seq: Annotated[int | None, typer.Argument(help="Number of the event that is to be proved.")] = None,
    old: Annotated[int | None, typer.Option("--from", help="Instead: size of the earlier head.")] = None,
    size: Annotated[int | None, typer.Option("--to", help="Size of the head; the newest when not given.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Print the proof that an event is in the log, or that the log only grew (--from), as JSON."""
    from audit.proofs import prove_consistency, prove_inclusion
    from db.engine import current_sessions

    settings = start("audit", data_dir)
    try:
        if (seq is None) == (old is None):
            raise ConfigurationError("name either an event, or an earlier head with --from")
        with current_sessions(settings.database)() as session:
            proof = (
                prove_inclusion(session, seq, size) if seq is not None else prove_consistency(session, old or 0, size)
            )
    except AppError as exc:
        raise refuse(exc) from exc
    typer.echo(json.dumps(proof, indent=1, ensure_ascii=False))


def audit_check_proof(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON that `audit prove` printed.")],
    public_key: PublicKeys = None,
    data_dir: DataDir = None,
) -> None:
    """Check a proof with nothing but the public key; exit 1 when it shows nothing."""
    from audit.keys import SealKeys, by_name, read_public_key
    from audit.proofs import check_proof

    settings = start("audit", data_dir)
    try:
        keys = by_name(*map(read_public_key, public_key)) if public_key else SealKeys(settings.key_dir).public()
        console.print(check_proof(json.loads(file.read_text("utf-8")), keys), highlight=False, soft_wrap=True)
    except (BrokenSealError, ValueError) as exc:
        console.print(f"[red]not proved:[/red] {exc}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from exc
    except AppError as exc:
        raise refuse(exc) from exc


def audit_keys(
    rotate: Annotated[str, typer.Option(help="Let a new key take over: seal or origin.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Make the keys that mark events and sign heads where there are none; or let a new one take over."""
    from audit.keys import SealKeys
    from audit.process import seal_keys
    from audit.rotation import rotate_origin
    from audit.sealing import Sealer
    from db.engine import current_sessions
    from db.origin import read_keys

    settings = start("audit", data_dir)
    try:
        if rotate == "seal":
            Sealer(current_sessions(settings.database), seal_keys(settings), settings.audit).rotate()
        elif rotate == "origin":
            rotate_origin(current_sessions(settings.database), settings.key_dir)
        elif rotate:
            raise ConfigurationError("--rotate takes seal or origin")
        marks = read_keys(settings.key_dir, create=True)
        signs = SealKeys(settings.key_dir, create=True).current()
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(f"keys in {settings.key_dir.resolve()}", highlight=False, soft_wrap=True)
    console.print(f"  marks events: {marks.current} ({len(marks.keys)} known)", highlight=False)
    console.print(f"  signs heads:  {signs.public.name}", highlight=False)
    typer.echo(signs.public.pem().decode("ascii"), nl=False)
