"""What other systems rely on: look-ups through indexes, rights on one schema, columns that stay."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import NullPool

from tests.support.world import World

CONTACTS = """
INSERT INTO salesforce.contact (id, is_deleted, system_modstamp, account_id, last_name, email_normalized,
                                phone_e164, mobile_phone_e164)
SELECT '003' || lpad(n::text, 15, '0'), false, now(), '001' || lpad((n / 5)::text, 15, '0'), 'n' || n,
       'n' || n || '@x.example', '+1415' || lpad(n::text, 7, '0'), '+1628' || lpad(n::text, 7, '0')
  FROM generate_series(1, 20000) AS n
"""
ACCOUNTS = """
INSERT INTO salesforce.account (id, is_deleted, system_modstamp, name, parent_id)
SELECT '001' || lpad(n::text, 15, '0'), false, now(), 'a' || n, '001' || lpad((n / 10)::text, 15, '0')
  FROM generate_series(0, 4000) AS n
"""


@pytest.fixture
def filled(world: World) -> World:
    """Enough rows that the planner would not read a table whole without reason."""
    world.sql(CONTACTS)
    world.sql(ACCOUNTS)
    world.sql("ANALYZE salesforce.contact")
    world.sql("ANALYZE salesforce.account")
    return world


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("contact_id = '003000000000000777'", "contact_pkey"),
        ("account_id = '001000000000000077'", "contact_account_id_idx"),
        ("email_normalized = 'n777@x.example'", "contact_email_normalized_idx"),
        ("phone_e164 = '+14150000777'", "contact_phone_e164_idx"),
        ("mobile_phone_e164 = '+16280000777'", "contact_mobile_phone_e164_idx"),
    ],
)
def test_customers_are_found_through_indexes(filled: World, condition: str, index: str) -> None:
    """A look-up in `crm.customer` touches a handful of rows: no table is read whole."""
    plan = "\n".join(row[0] for row in filled.sql(f"EXPLAIN SELECT * FROM crm.customer WHERE {condition}"))

    assert index in plan
    assert "Seq Scan" not in plan
    assert filled.sql(f"SELECT count(*) FROM crm.customer WHERE {condition}")[0][0] in (1, 5)


def test_an_accounts_contacts_are_found_through_the_index(filled: World) -> None:
    """Joins from account to contact use the index on account_id: Ids compare the same way on both sides."""
    plan = filled.sql(
        "EXPLAIN SELECT c.id FROM crm.account AS a JOIN crm.contact AS c ON c.account_id = a.id "
        "WHERE a.parent_id = '001000000000000077'"
    )

    text_of_plan = "\n".join(row[0] for row in plan)
    assert "contact_account_id_idx" in text_of_plan
    assert "Seq Scan" not in text_of_plan


def test_rights_on_crm_are_enough(loaded: World) -> None:
    """A consumer's role with the three grants that earlier releases named reads everything in `crm`, and nothing else."""
    role = f"consumer_{loaded.database.rsplit('/', 1)[-1].split('?')[0]}"
    loaded.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'")
    for grant in (
        "USAGE ON SCHEMA crm",
        "SELECT ON ALL TABLES IN SCHEMA crm",
        "EXECUTE ON ALL FUNCTIONS IN SCHEMA crm",
    ):
        loaded.sql(f"GRANT {grant} TO {role}")
    url = make_url(loaded.database).set(username=role, password="reader", drivername="postgresql+psycopg2")
    engine = create_engine(url, poolclass=NullPool)

    with engine.connect() as consumer:
        counted = {
            schema: consumer.execute(text(f"SELECT count(*) FROM crm.{schema}")).scalar()
            for schema in ("account", "contact", "customer", "freshness", "changes(0)")
        }
        assert consumer.execute(text("SELECT crm.resolve_id(:id)"), {"id": loaded.ann}).scalar() == loaded.ann
        with pytest.raises(ProgrammingError, match="permission denied"):
            consumer.execute(text("SELECT * FROM salesforce.contact"))
    loaded.sql(f"DROP OWNED BY {role}")
    loaded.sql(f"DROP ROLE {role}")

    assert counted == {"account": 2, "contact": 3, "customer": 3, "freshness": 2, "changes(0)": 2}


def test_freshness_counts(loaded: World) -> None:
    """`crm.freshness` tells rows, tombstones, rejects and the last outcome beside complete_through."""
    loaded.org.delete(loaded.ann)
    loaded.run()

    [row] = loaded.sql("SELECT * FROM crm.freshness WHERE object = 'Contact'")

    assert (row.rows, row.tombstones, row.rejects, row.last_outcome) == (2, 1, 0, "succeeded")
    assert row.complete_through == loaded.cursor("Contact")
    assert 0 <= row.lag.total_seconds() < 120


@pytest.mark.parametrize("length", [15, 18])
def test_both_forms_of_an_id_are_resolved(loaded: World, length: int) -> None:
    """`crm.resolve_id` takes an Id of 15 or 18 characters, follows merges, and resolves nothing else."""
    loaded.org.merge(loaded.bob, [loaded.ann])
    loaded.run()

    def resolved(id_: str) -> str | None:
        found: str | None = loaded.sql("SELECT crm.resolve_id(:id)", id=id_)[0][0]
        return found

    assert resolved(loaded.cid[:length]) == loaded.cid
    assert resolved(loaded.ann[:length]) == loaded.bob
    assert resolved(loaded.cid[:length].swapcase()) is None
    assert resolved(loaded.cid[:14]) is None


def test_a_short_id_is_resolved_through_the_index(filled: World) -> None:
    """Of either form the record is found by its key."""
    statement = """
        EXPLAIN SELECT k.id FROM salesforce.contact AS k
         WHERE k.id >= '003000000000000' COLLATE "C" AND k.id <= rpad('003000000000000', 18, 'z') COLLATE "C"
    """
    assert "Seq Scan" not in "\n".join(row[0] for row in filled.sql(statement))
