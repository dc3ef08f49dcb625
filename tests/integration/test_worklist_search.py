"""The worklist's search on PostgreSQL reads its index where the extension can be had, and works where it cannot."""

import pytest
import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.engine import make_engine, migrate
from db.models import Study
from db.queries.worklist_lists import Narrowing, Wanted
from db.types import utcnow

pytestmark = pytest.mark.postgres


def _study(number: int, name: str) -> Study:
    return Study(
        study_instance_uid=f"1.2.{number}",
        patient_name=name,
        patient_id=f"P-{number}",
        accession_number=f"ACC{number}",
        first_received_at=utcnow(),
        last_received_at=utcnow(),
    )


def _found(session: Session, words: str) -> set[str]:
    query = select(Study.patient_name).where(*Narrowing(session, Wanted(search=words)).on_study)
    return set(session.scalars(query))


def test_a_search_reads_the_index(empty_postgres_url):
    migrate(empty_postgres_url)
    engine = make_engine(empty_postgres_url)
    with Session(engine) as session:
        session.add_all([_study(1, "OLSEN^KARI"), _study(2, "Hansen^Ola"), _study(3, "100%^SURE")])
        session.flush()
        session.execute(sa.text("SET LOCAL enable_seqscan = off"))
        for words, names in (
            ("olsen", {"OLSEN^KARI"}),
            ("hansen, o", {"Hansen^Ola"}),
            ("acc3", {"100%^SURE"}),
            ("0%", {"100%^SURE"}),
        ):
            assert _found(session, words) == names
        query = select(Study.id).where(*Narrowing(session, Wanted(search="olsen")).on_study)
        plan = session.scalars(sa.text("EXPLAIN " + str(query.compile(engine, compile_kwargs={"literal_binds": True}))))
        assert "ix_study_search" in "\n".join(plan)
    engine.dispose()


def test_a_database_whose_owner_may_not_have_the_extension_is_migrated_without_the_index(empty_postgres_url):
    engine = make_engine(empty_postgres_url)
    with engine.begin() as connection:
        name = sa.make_url(empty_postgres_url).database
        connection.exec_driver_sql("DROP ROLE IF EXISTS plain")
        connection.exec_driver_sql("CREATE ROLE plain LOGIN")
        connection.exec_driver_sql("GRANT ALL ON SCHEMA public TO plain")
        connection.exec_driver_sql(f'REVOKE CREATE ON DATABASE "{name}" FROM plain')
    plain = sa.make_url(empty_postgres_url).set(username="plain").render_as_string(hide_password=False)
    migrate(plain)
    with Session(make_engine(plain)) as session:
        session.add_all([_study(1, "OLSEN^KARI"), _study(2, "Hansen^Ola")])
        session.flush()
        assert _found(session, "hansen") == {"Hansen^Ola"}
        assert not session.scalar(sa.text("SELECT count(*) FROM pg_indexes WHERE indexname = 'ix_study_search'"))
        session.get_bind().dispose()
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP OWNED BY plain CASCADE")
        connection.exec_driver_sql("DROP ROLE plain")
    engine.dispose()
