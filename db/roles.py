"""Who may do what in PostgreSQL: an owner that nobody works as, and roles that can only add to the record.

The program's role reads and writes what changes, and can add to what is written once, but not change, delete or
truncate it; it owns nothing, so it can drop no trigger and no table. Every statement may be run again, and is after
each migration, so that new tables get their rights.
"""

import re
from dataclasses import dataclass

from sqlalchemy import Engine, text

from config.errors import ConfigurationError, RefusedInputError

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# of the seal: the program reads them, the sealer adds to them
_SEALING = ("audit_seal", "audit_node", "audit_head", "audit_anchor")
_KEPT = ("audit_pending", "audit_forwarding")  # what only the sealer changes
# of erasing and archiving: the operator does both, as the owner
_OPERATOR = ("audit_erasure", "audit_archive")
_TABLES = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = current_schema()"


@dataclass(frozen=True)
class Roles:
    """Names of the roles; without a sealer's the program's role seals too.

    Raises:
        RefusedInputError: a name PostgreSQL would have to quote, or one name for two roles.
    """

    app: str
    verifier: str
    owner: str
    sealer: str = ""

    def __post_init__(self) -> None:
        named = [self.app, self.verifier, self.owner, *([self.sealer] if self.sealer else [])]
        if not all(_NAME.fullmatch(one) for one in named):
            raise RefusedInputError("a role's name is of a-z, 0-9 and _ (63 at most), and begins with no digit")
        if len(set(named)) < len(named):
            raise RefusedInputError("owner, program, sealer and verifier are different roles")

    @property
    def sealing(self) -> str:
        """The role that seals."""
        return self.sealer or self.app


def role_statements(roles: Roles) -> list[str]:
    """Return the SQL that makes the roles and gives them their rights, for a superuser in the database's schema."""
    working = [roles.app, *([roles.sealer] if roles.sealer else [])]
    everyone = [*working, roles.verifier]
    return [
        *(_role(one) for one in [roles.owner, *everyone]),
        *_owned_by(roles.owner),
        *(statement for one in everyone for statement in _nothing(one)),
        *_working(roles.app),
        *(_sealing_alone(roles.sealer) if roles.sealer else []),
        *(f"REVOKE INSERT, UPDATE, DELETE ON {table} FROM {roles.app}" for table in (*_SEALING, *_KEPT)),
        *(f"GRANT INSERT ON {table} TO {roles.sealing}" for table in _SEALING),
        f"GRANT DELETE, UPDATE ON audit_pending TO {roles.sealing}",  # UPDATE: it locks the rows it seals
        f"GRANT INSERT, UPDATE ON audit_forwarding TO {roles.sealing}",
        *(f"REVOKE INSERT, UPDATE, DELETE ON {table} FROM {roles.app}" for table in _OPERATOR),
        _each("GRANT SELECT ON %I TO " + roles.verifier, "c.relkind IN ('r', 'p') AND c.relname LIKE 'audit\\_%'"),
        f"GRANT SELECT ON alembic_version TO {roles.verifier}",
        "REVOKE EXECUTE ON FUNCTION audit_partition(date) FROM PUBLIC",
        f"GRANT EXECUTE ON FUNCTION audit_partition(date) TO {', '.join(working)}",
    ]


def apply_roles(engine: Engine, roles: Roles) -> None:
    """Run them, in one transaction.

    Raises:
        ConfigurationError: the database is SQLite, whose files the operating system guards.
    """
    if engine.dialect.name != "postgresql":
        raise ConfigurationError("SQLite has no roles: guard its file by the operating system's")
    with engine.begin() as connection:
        for statement in role_statements(roles):
            connection.execute(text(statement.replace(":", "\\:")))


def _role(name: str) -> str:
    return (
        f"DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{name}') THEN "  # noqa: S608 checked
        f"CREATE ROLE {name} LOGIN; END IF; END $$"
    )


def _each(statement: str, condition: str) -> str:
    """Return a block that runs ``statement`` for each relation of the schema that fits, in place of ``%I``."""
    return (
        "DO $$ DECLARE one name; BEGIN "  # noqa: S608 all of it is ours
        f"FOR one IN SELECT c.relname FROM {_TABLES} AND {condition} ORDER BY 1 LOOP "
        f"EXECUTE format('{statement}', one); END LOOP; END $$"
    )


def _owned_by(owner: str) -> list[str]:
    functions = (
        "DO $$ DECLARE one regprocedure; BEGIN "  # noqa: S608 the owner's name is checked
        "FOR one IN SELECT p.oid FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = current_schema() "
        f"AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e') LOOP "
        f"EXECUTE format('ALTER FUNCTION %s OWNER TO {owner}', one); END LOOP; END $$"
    )
    # a sequence that belongs to a column follows its table
    free = (
        "c.relkind = 'S' AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i'))"
    )
    return [
        f"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO {owner}', current_database()); END $$",
        f"DO $$ BEGIN EXECUTE format('ALTER SCHEMA %I OWNER TO {owner}', current_schema()); END $$",
        "DO $$ BEGIN EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema()); END $$",
        _each(f"ALTER TABLE %I OWNER TO {owner}", "c.relkind IN ('r', 'p', 'v')"),
        _each(f"ALTER SEQUENCE %I OWNER TO {owner}", free),
        functions,
    ]


def _nothing(role: str) -> list[str]:
    """Take every right from a role; what it may comes after."""
    schema = f"DO $$ BEGIN EXECUTE format('{{}} %I {{}} {role}', current_schema()); END $$"
    return [
        schema.format("REVOKE ALL ON SCHEMA", "FROM"),
        schema.format("GRANT USAGE ON SCHEMA", "TO"),
        schema.format("REVOKE ALL ON ALL TABLES IN SCHEMA", "FROM"),
        schema.format("REVOKE ALL ON ALL SEQUENCES IN SCHEMA", "FROM"),
    ]


def _working(role: str) -> list[str]:
    """Give a role what the program needs: partitions are reached through their table only."""
    return [
        _each(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO {role}", "c.relkind IN ('r', 'p') AND NOT c.relispartition"
        ),
        _each(
            f"REVOKE UPDATE, DELETE ON %I FROM {role}",
            "EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'append_only')",
        ),
        _each(f"REVOKE INSERT, UPDATE, DELETE ON %I FROM {role}", "c.relname = 'alembic_version'"),
        _each(f"GRANT USAGE ON SEQUENCE %I TO {role}", "c.relkind = 'S'"),
    ]


def _sealing_alone(role: str) -> list[str]:
    """Give the sealer what it reads, and the tables around the log that its duties keep."""
    kept = "c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname LIKE 'audit\\_%'"
    once = "EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'append_only')"
    return [
        _each(f"GRANT SELECT ON %I TO {role}", "c.relkind IN ('r', 'p') AND NOT c.relispartition"),
        _each(f"GRANT INSERT, UPDATE, DELETE ON %I TO {role}", f"{kept} AND NOT {once}"),
        f"GRANT INSERT ON audit_event, audit_private TO {role}",
        _each(f"GRANT USAGE ON SEQUENCE %I TO {role}", "c.relkind = 'S'"),
    ]
