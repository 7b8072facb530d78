-- A copy of customers within this database, kept by a role of its own that may read schema crm:
-- run this file once as that role, then `SELECT shop.follow()` every few seconds (pg_cron: `'5 seconds'`).
-- Each call is one transaction: the copy and the acknowledgement are committed together, or not at all.
CREATE SCHEMA shop;
CREATE VIEW shop.source AS  -- named columns: views gain others at their end
SELECT contact_id, full_name, email_normalized, account_id, account_name, parent_account_id, parent_account_name
  FROM crm.customer;
CREATE TABLE shop.customer AS SELECT * FROM shop.source WITH NO DATA;
ALTER TABLE shop.customer ADD PRIMARY KEY (contact_id);
CREATE INDEX ON shop.customer (account_id);
CREATE INDEX ON shop.customer (parent_account_id);

CREATE FUNCTION shop.follow() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    entry record;
    worked integer := 0;
    last bigint;
BEGIN
    FOR entry IN SELECT * FROM crm.poll('shop.customer', 1000) LOOP
        IF entry.record_id IS NULL THEN  -- reload
            DELETE FROM shop.customer;
            INSERT INTO shop.customer SELECT * FROM shop.source;
        ELSIF entry.object = 'Contact' THEN
            DELETE FROM shop.customer WHERE contact_id = entry.record_id;
            INSERT INTO shop.customer SELECT * FROM shop.source WHERE contact_id = entry.record_id;
        ELSE  -- an account: its customers, and those of the accounts below it
            DELETE FROM shop.customer WHERE account_id = entry.record_id OR parent_account_id = entry.record_id;
            INSERT INTO shop.customer
            SELECT * FROM shop.source WHERE account_id = entry.record_id
             UNION SELECT * FROM shop.source WHERE parent_account_id = entry.record_id
                ON CONFLICT (contact_id) DO NOTHING;  -- its contact has moved here: an entry of its own says so
        END IF;
        worked := worked + 1;
        last := entry.seq;
    END LOOP;
    IF worked > 0 THEN
        PERFORM crm.ack('shop.customer', last);
    END IF;
    RETURN worked;
END
$$;

BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT crm.subscribe('shop.customer', ARRAY['Account', 'Contact']);
INSERT INTO shop.customer SELECT * FROM shop.source;
COMMIT;
