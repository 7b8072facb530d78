"""A shop keeps a copy of customers: `python consumer.py CRM_URL SHOP_URL`. It may be killed at any time.
CRM_URL is of a role that may read schema crm, SHOP_URL of the shop's own database; it needs psycopg2."""

import sys
import time

import psycopg2

OWN = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.customer (
    contact_id text PRIMARY KEY, account_id text, parent_account_id text, doc jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS shop.purchase (number serial PRIMARY KEY, contact_id text NOT NULL);
CREATE TABLE IF NOT EXISTS shop.position (single boolean PRIMARY KEY DEFAULT true CHECK (single), seq bigint);
INSERT INTO shop.position (seq) VALUES (NULL) ON CONFLICT DO NOTHING;
"""
READ = "SELECT contact_id, account_id, parent_account_id, to_jsonb(c)::text FROM crm.customer AS c"
STORE = "INSERT INTO shop.customer VALUES (%s, %s, %s, %s)"


def ask(connection, statement, *values):
    """The rows of a statement in the transaction that is open."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def copy_all(crm, shop):
    """Read every customer again; purchases of a contact that is gone become those of who survived a merge."""
    ask(shop, "DELETE FROM shop.customer")
    for row in ask(crm, READ):
        ask(shop, STORE, *row)
    lost = "SELECT contact_id FROM shop.purchase EXCEPT SELECT contact_id FROM shop.customer"
    for (gone,) in ask(shop, lost):
        move_purchases(shop, gone, ask(crm, "SELECT crm.resolve_id(%s)", gone)[0][0])


def copy_one(crm, shop, contact):
    """Read a customer again; one that is not there any more is removed."""
    ask(shop, "DELETE FROM shop.customer WHERE contact_id = %s", contact)
    for row in ask(crm, READ + " WHERE contact_id = %s", contact):
        ask(shop, STORE, *row)


def customers_of(crm, shop, account):
    """The customers that show an account, or did: its entries name no contact."""
    found = "SELECT contact_id FROM {0}.customer WHERE account_id = %s UNION "
    found += "SELECT contact_id FROM {0}.customer WHERE parent_account_id = %s"
    ids = (account, account)
    return {*ask(crm, found.format("crm"), *ids), *ask(shop, found.format("shop"), *ids)}


def move_purchases(shop, contact, survivor):
    """Purchases of a merged contact become the survivor's."""
    if survivor is not None:
        ask(shop, "UPDATE shop.purchase SET contact_id = %s WHERE contact_id = %s", survivor, contact)


def work(crm, shop, entries):
    """Bring the copy to what the views hold now of what the entries name, and remember the last of them."""
    [(position,)], last = ask(shop, "SELECT seq FROM shop.position FOR UPDATE"), entries[-1][0]
    reload = any(op == "reload" for _, _, _, op, _ in entries)
    for seq, name, record, op, survivor in entries:
        print(seq, name, record, op, flush=True)
        if reload or seq <= position:  # worked already, before this process or the one before was killed
            continue
        if op == "merge":
            move_purchases(shop, record, survivor)
        for (contact,) in [(record,)] if name == "Contact" else customers_of(crm, shop, record):
            copy_one(crm, shop, contact)
    if reload:
        copy_all(crm, shop)
    ask(shop, "UPDATE shop.position SET seq = %s", last if reload else max(last, position))


def main():
    crm, shop = map(psycopg2.connect, sys.argv[1:3])
    with crm:  # committed before the views are read: nothing falls between
        [(seq,)] = ask(crm, "SELECT seq FROM crm.subscribe('shop', ARRAY['Account', 'Contact'])")
    with crm, shop:
        ask(shop, OWN)
        [(position,)] = ask(shop, "SELECT seq FROM shop.position FOR UPDATE")
        if position is None or position < seq:  # new here, or subscribed anew
            copy_all(crm, shop)
            ask(shop, "UPDATE shop.position SET seq = %s", seq)
    while True:
        with crm:  # locks the consumer: a second process waits here
            entries = ask(crm, "SELECT seq, object, record_id, op, survivor_id FROM crm.poll('shop', 100)")
            if entries:
                with shop:  # committed before the acknowledgement: what comes twice is skipped
                    work(crm, shop, entries)
                ask(crm, "SELECT crm.ack('shop', %s)", entries[-1][0])
        if not entries:
            time.sleep(1)


if __name__ == "__main__":
    main()
