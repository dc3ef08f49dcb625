"""``firstread audit erase`` and ``firstread audit roles``: the patient's right, and the database's."""

from typing import Annotated

import typer

from config.errors import AppError
from firstread.terminal import DataDir, console, refuse, start


def audit_erase(
    reason: Annotated[str, typer.Option("--reason", help="Why; only a keyed digest of it is kept.")],
    authority: Annotated[str, typer.Option("--authority", help="By what law and whose decision; kept in the open.")],
    patient: Annotated[str, typer.Option("--patient", help="Patient ID.")] = "",
    issuer: Annotated[str, typer.Option("--issuer", help="Its issuer, exactly as received; empty: none.")] = "",
    study: Annotated[str, typer.Option("--study", help="Study Instance UID, instead of a patient.")] = "",
    identities: Annotated[
        bool, typer.Option("--identities", help="Also blank the identity columns of studies and orders.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Erase what the audit log says about one patient or study; the chain stays whole, the erasure is an event."""
    from db.engine import current_sessions
    from db.lifecycle.erasing import Erasing, erase
    from db.uow import unit_of_work
    from firstread.people import actor

    if not yes:
        typer.confirm("This cannot be undone. Erase?", abort=True)
    wanted = Erasing(reason, authority, patient.strip(), issuer.strip(), study.strip(), identities)
    try:
        with unit_of_work(current_sessions(start("audit", data_dir).database), actor()) as uow:
            done = erase(uow, wanted)
    except AppError as exc:
        raise refuse(exc) from exc
    console.print(
        f"erased: the values kept apart of {done.events} events; {done.studies} studies, {done.orders} orders\n"
        f"erasure {done.erasure_id}\nreceipt key {done.key} (kept nowhere: note it to show later whose erasure it was)",
        highlight=False,
        soft_wrap=True,
    )
    if done.left:
        console.print(f"not erased: {done.left} studies with this Patient ID of another issuer", highlight=False)


def audit_roles(
    app: Annotated[str, typer.Option("--app", help="The program's role, in FIRSTREAD_DATABASE_URL.")],
    verifier: Annotated[str, typer.Option("--verifier", help="The role of who verifies: reads the audit log only.")],
    owner: Annotated[str, typer.Option("--owner", help="Owns the tables; migrates, erases and archives.")] = (
        "firstread_owner"
    ),
    sealer: Annotated[str, typer.Option("--sealer", help="A role of the sealer's own; the program's without.")] = "",
    apply: Annotated[
        bool, typer.Option("--apply", help="Run it here, as a superuser, instead of printing it.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Print the SQL that gives each role of PostgreSQL its rights: nobody who works can change what is written once."""
    from db.engine import make_engine
    from db.roles import Roles, apply_roles, role_statements

    try:
        roles = Roles(app, verifier, owner, sealer)
        if apply:
            apply_roles(make_engine(start("audit", data_dir).database), roles)
            console.print("the roles have their rights; run this again after each migration", highlight=False)
            return
    except AppError as exc:
        raise refuse(exc) from exc
    typer.echo("BEGIN;\n" + "".join(f"{statement};\n" for statement in role_statements(roles)) + "COMMIT;")
