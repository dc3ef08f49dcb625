"""What a test process has compiled once serves all its tests: SQL statements and URL rules.

Every test has an engine and an application of its own, and each of them would compile the same again. What is
compiled depends on the statement and the kind of database, or on the rule; on no engine, application or test.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache
from werkzeug.routing import Rule

import db.engine

_STATEMENTS = 2000  # of both dialects
_TRAIT = "server_version_info"  # what a dialect learns of its server when it first connects


def share_compiled() -> None:
    """Let engines and applications that are made from now on share what they compile."""
    for dialect in (SQLiteDialect_pysqlite, PGDialect_psycopg):
        dialect.__eq__ = _are_alike
        dialect.__hash__ = _kind
    db.engine.create_engine = _sharing(LRUCache(_STATEMENTS))
    Rule._compile_builder = _remembered(Rule._compile_builder)


def _are_alike(one: Any, other: object) -> bool:
    """Whether two dialects write the same SQL: the keys of compiled statements begin with their dialect."""
    return type(one) is type(other) and getattr(one, _TRAIT, None) == getattr(other, _TRAIT, None)


def _kind(dialect: Any) -> int:
    return hash(type(dialect))


def _sharing(statements: "LRUCache[Any, Any]") -> Callable[..., Engine]:
    def create_engine(*args: Any, **options: Any) -> Engine:
        engine = sa.create_engine(*args, **options)
        engine.update_execution_options(compiled_cache=statements)
        return engine

    return create_engine


def _remembered(build: Callable[..., Any]) -> Callable[..., Any]:
    """The function that writes a rule's URLs; it is given the rule, so equal rules can have the same."""
    made: dict[Any, Any] = {}

    def remembered(rule: Rule, append_unknown: bool = True) -> Any:
        if rule.defaults:
            return build(rule, append_unknown)
        key = (rule.rule, tuple(rule._trace), append_unknown)
        if key not in made:
            made[key] = build(rule, append_unknown)
        return made[key]

    return remembered
