"""The operator's commands: what they print, what they change, how they exit."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from datetime import timedelta
from itertools import product

import pytest

from sync.demo.commands import app
from tests.support import processes
from tests.support.commands import run_here
from tests.support.soak import covering
from tests.support.world import LONG_AGO, World

COMMANDS = [
    command.name or command.callback.__name__ for command in app.registered_commands if command.callback
]


def test_the_commands_are_those_of_the_contract() -> None:
    """Commands come and go on purpose."""
    assert sorted(COMMANDS) == sorted(
        [
            *("worker", "run", "resync", "verify", "status", "check", "schema", "rejects", "changes"),
            *("prune", "grant", "revoke", "erase", "alert", "heroku-connect", "demo", "simulator"),
        ]
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_settings(command: str, tmp_path: object) -> None:
    """`--help` works on a machine without any setting."""
    done = run_here([command, "--help"], {"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    assert f"Usage: python -m sync {command} " in done.stdout


def test_without_settings_all_are_named(tmp_path: object) -> None:
    """A command without settings names every missing one, with what to do, and exits with 3."""
    done = processes.run(["sync", "run"], {"PATH": os.environ["PATH"]})
    assert done.returncode == 3
    for name in ("DATABASE_URL", "SALESFORCE_LOGIN_URL", "SALESFORCE_CLIENT_ID", "SALESFORCE_CLIENT_SECRET"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr


# ── run, resync ──


def test_run_prints_a_line_per_object(loaded: World) -> None:
    """`run` says per object what it did, tab-separated where no person watches."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    done = loaded.command("run")

    assert done.returncode == 0, done.stderr
    header, account, contact = (line.split("\t") for line in done.stdout.splitlines())
    assert header[:4] == ["object", "read", "inserted", "updated"]
    assert account[:4] == ["Account", "0", "0", "0"]
    assert contact[:4] == ["Contact", "1", "0", "1"]


def test_run_fails_with_the_list(loaded: World) -> None:
    """When an object fails, `run` names it and why, and exits with 1."""
    loaded.sim.faults.add("insufficient_access", on="query", sobject="Contact", times=None)

    done = loaded.command("run")

    assert done.returncode == 1
    assert "error: Contact: Salesforce answered 403 INSUFFICIENT_ACCESS" in done.stderr


def stale(world: World, *ids: str) -> None:
    """Make rows differ from the org without a stamp, as if somebody had written to the replica."""
    world.sql("UPDATE salesforce.contact SET title = 'tampered' WHERE id = ANY (:ids)", ids=list(ids))


def test_resync_one_object(loaded: World) -> None:
    """`resync --object` reads the whole object again and writes only what differs."""
    stale(loaded, loaded.ann)
    cursor = loaded.cursor("Contact")

    done = loaded.command("resync", "--object", "Contact")

    assert done.returncode == 0, done.stderr
    assert loaded.row(loaded.ann)["title"] is None
    assert loaded.news(loaded.seen) == [("update", loaded.ann)]
    reached = loaded.cursor("Contact")
    assert cursor is not None
    assert reached is not None
    assert reached >= cursor
    assert "Account" not in done.stdout


def test_resync_since(loaded: World) -> None:
    """`resync --since` reads what changed since, however old, and never moves the cursor over a gap."""
    stale(loaded, loaded.ann)
    loaded.sql("UPDATE sync.cursor SET complete_through = :t", t=LONG_AGO - timedelta(days=30))

    done = loaded.command("resync", "--object", "contact", "--since", "2024-02-15T00:00:00Z")

    assert done.returncode == 0, done.stderr
    assert loaded.row(loaded.ann)["title"] is None
    assert loaded.cursor("Contact") == LONG_AGO - timedelta(days=30), "the time before --since is unread"


def test_resync_ids(loaded: World) -> None:
    """`resync --id` reads single records of any object again, by 15 or 18 characters, nothing else."""
    stale(loaded, loaded.ann, loaded.bob)
    loaded.sql("UPDATE salesforce.account SET name = 'tampered' WHERE id = :id", id=loaded.acme)

    done = loaded.command("resync", "--id", loaded.ann[:15], "--id", loaded.acme)

    assert done.returncode == 0, done.stderr
    assert loaded.row(loaded.ann)["title"] is None
    assert loaded.row(loaded.acme)["name"] == "Acme"
    assert loaded.row(loaded.bob)["title"] == "tampered"


def test_resync_of_an_id_that_is_not_there(loaded: World) -> None:
    """An Id that Salesforce does not show is named, exit 1; the others are read, its row stays."""
    stale(loaded, loaded.ann, loaded.bob)
    loaded.org.purge(loaded.bob)

    done = loaded.command("resync", "--id", loaded.ann, "--id", loaded.bob)

    assert done.returncode == 1
    assert loaded.bob in done.stderr
    assert loaded.row(loaded.ann)["title"] is None
    assert loaded.row(loaded.bob)["title"] == "tampered"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--id", "003"], "15 or 18"),
        (["--id", "0035g0000004ECsAAX"], "mistyped"),
        (["--id", "0zz5g0000004ECsAAM"], "belongs to no replicated object"),
        (["--id", "0015g0000004ECsAAM", "--object", "Contact"], "belong to Account"),
        (["--since", "yesterday"], "not a time"),
        (["--since", "2199-01-01"], "future"),
        (["--since", "2024-01-01", "--full"], "exclude each other"),
        (["--object", "Acount"], "Acount is not replicated"),
        (["--wait", "soon"], "duration"),
    ],
)
def test_resync_refuses_what_does_not_fit(loaded: World, arguments: list[str], word: str) -> None:
    """Arguments that do not fit are refused with 2, in words, before anything is touched."""
    loaded.sim.requests.clear()

    done = loaded.command("resync", *arguments)

    assert done.returncode == 2, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert loaded.sim.api_calls == 0 or not loaded.sim.requests


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--approve"], "--approve needs --repair"),
        (["--deep", "0"], "--deep 0: give a number of records, or all"),
        (["--deep", "x"], "--deep x: give a number of records, or all"),
        (["--deep", "-5"], "--deep -5: give a number of records, or all"),
        (["--object", "Acount"], "Acount is not replicated"),
        (["--wait", "soon"], "duration"),
    ],
)
def test_verify_refuses_what_does_not_fit(loaded: World, arguments: list[str], word: str) -> None:
    """Arguments of verify that do not fit are refused with 2, in words, before Salesforce is asked anything."""
    loaded.sim.requests.clear()

    done = loaded.command("verify", *arguments)

    assert done.returncode == 2, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert loaded.sim.requests == []


def test_dry_run_changes_nothing(loaded: World) -> None:
    """`--dry-run` says how many records and calls it would take, for two calls per object, and changes nothing."""
    stale(loaded, loaded.ann)
    before = [
        loaded.sql(f"SELECT * FROM sync.{table}")
        for table in ("run", "cursor", "progress", "lease", "change")
    ]
    loaded.sim.requests.clear()
    loaded.sim.clock.advance(600)  # the delete log is read once in five minutes

    done = loaded.command("resync", "--dry-run")

    assert done.returncode == 0, done.stderr
    # A describe, a page, and what getUpdated and getDeleted tell.
    assert "Account\t2\t4" in done.stdout
    assert "Contact\t3\t4" in done.stdout
    assert loaded.row(loaded.ann)["title"] == "tampered"
    assert before == [
        loaded.sql(f"SELECT * FROM sync.{table}")
        for table in ("run", "cursor", "progress", "lease", "change")
    ]
    assert sum(request.counted for request in loaded.sim.requests) == 4


def test_full_resync_before_the_first_load_is_the_first_load(world: World) -> None:
    """`resync --full` on an empty database loads it and moves the cursor."""
    world.org.create("Contact", {"LastName": "Ann"}, stamp=LONG_AGO)

    done = world.command("resync", "--full")

    assert done.returncode == 0, done.stderr
    assert world.cursor("Contact") is not None
    assert {op for op, _ in world.news(0)} == {"reload"}
    world.assert_equal()


def test_interrupted_resync_goes_on_where_it_stopped(loaded: World) -> None:
    """A resync that broke goes on behind its last committed page when it is asked for again."""
    loaded.sim.options.page_sizes = 1
    loaded.sim.faults.add("gone", on="page", after=1, sobject="Contact", times=None)
    assert loaded.command("resync", "--object", "Contact").returncode == 1
    loaded.sim.faults.clear()

    done = loaded.command("resync", "--object", "Contact")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split("\t")[:2] == ["Contact", "1"]


def test_a_signal_ends_a_run_between_pages(loaded: World) -> None:
    """Ctrl-C on a run keeps the committed pages, says so, and exits with 1."""
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(200)])
    loaded.sim.options.page_sizes = 1
    loaded.sim.options.latency = 0.05
    process = loaded.start("sync", "run")
    while len(loaded.rows("Contact")) < 6:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "the next run resumes" in output
    assert "Traceback" not in output


# ── status, check, schema, rejects, changes ──


def test_status_for_programs(loaded: World) -> None:
    """`status --json` carries the headline, freshness and the journal."""
    loaded.sql(
        "INSERT INTO sync.incident (kind, object, what, opened_at) VALUES ('stale', 'Contact', 'why', now())"
    )
    found = json.loads(loaded.command("status", "--json").stdout)
    assert next(iter(found)) == "version"
    assert found["version"] == 1
    assert [(one["kind"], one["object"], one["closed_at"]) for one in found["incidents"]] == [
        ("stale", "Contact", None)
    ]
    shown = loaded.command("status").stdout.splitlines()
    assert shown[0].startswith("OK: ")
    assert shown[1].startswith("incident: OPEN Contact stale since ")
    assert shown[1].endswith("why; type: python -m sync status; see docs/operating.md#stale")

    assert found["headline"].startswith("OK: Account and Contact hold every change up to ")
    assert [one["object"] for one in found["objects"]] == ["Account", "Contact"]
    assert found["objects"][1]["rows"] == 3
    assert {run["outcome"] for run in found["runs"]} == {"succeeded"}
    assert found["stale"] == []


def test_status_exits_by_lag(loaded: World) -> None:
    """`status` exits with 1 when the first line says STALE or NOT LOADED, else with 0; `--max-lag` moves the limit."""
    assert loaded.command("status").returncode == 0
    loaded.sql(
        "UPDATE sync.cursor SET complete_through = now() - interval '3 hours' WHERE object = 'Contact'"
    )

    late = loaded.command("status")

    assert late.returncode == 1
    assert late.stdout.startswith("STALE: Contact is complete through ")
    assert "type: python -m sync check" in late.stdout.splitlines()[0]
    assert loaded.command("status", "--max-lag", "4h").returncode == 0
    loaded.sql("UPDATE sync.cursor SET complete_through = NULL WHERE object = 'Contact'")
    unloaded = loaded.command("status", "--json", "--max-lag", "30d")
    assert unloaded.returncode == 1
    assert json.loads(unloaded.stdout)["headline"].startswith("NOT LOADED: Contact ")


def test_status_needs_only_the_database(loaded: World) -> None:
    """At three in the morning `status` works with nothing but DATABASE_URL."""
    del loaded.environment["SYNC_OBJECTS"]
    loaded.run()  # what else is in the catalogue
    loaded.environment = {"DATABASE_URL": loaded.database}

    assert loaded.command("status").returncode == 0


def test_status_before_the_migrations(world: World, empty_database: str) -> None:
    """On a database without our tables every command says what to type."""
    for command in ("status", "run", "rejects", "changes"):
        done = world.command(command, DATABASE_URL=empty_database)
        assert done.returncode == 1
        assert "alembic upgrade head" in done.stderr
        assert "Traceback" not in done.stderr


def test_database_that_is_not_there(world: World) -> None:
    """An unreachable database is one clear line without its password."""
    done = world.command("status", DATABASE_URL="postgres://me:hunter2secret@127.0.0.1:9/none")

    assert done.returncode == 1
    assert "Postgres is not available" in done.stderr
    assert "hunter2secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_check_when_all_is_well(loaded: World) -> None:
    """`check` names flow, org, user, every object's records and hidden fields, budget, database, migrations."""
    done = loaded.command("check", "--json")

    assert done.returncode == 0, done.stderr
    found = {one["subject"]: one for one in json.loads(done.stdout)}
    assert set(found) >= {
        "settings",
        "database",
        "migrations",
        "login",
        "org",
        "Account",
        "Contact",
        "API budget",
    }
    assert found["Contact"]["detail"].startswith("3 records")
    assert re.match(r"\d+ of the catalogue's have never been visible", found["Contact fields"]["detail"])
    assert found["Contact fields"]["state"] == "ok"
    assert "client_credentials" in found["settings"]["detail"]


@pytest.mark.parametrize(
    ("fault", "code", "subject"),
    [
        ("token_wrong_secret", 3, "login"),
        ("insufficient_access", 1, "Contact"),
        ("request_limit", 4, "Contact"),
    ],
)
def test_check_when_something_is_wrong(loaded: World, fault: str, code: int, subject: str) -> None:
    """`check` goes on after a failure where it can, and exits with the failure's code."""
    on = "token" if fault.startswith("token") else "describe"
    loaded.sim.faults.add(fault, on=on, sobject=None if on == "token" else "Contact", times=None)

    done = loaded.command("check", "--json")

    assert done.returncode == code
    failed = [one["subject"] for one in json.loads(done.stdout) if one["state"] == "failed"]
    assert failed == [subject]


ALL = ("ok", "sees all records", "")
SHARED = (
    "warning",
    "sees only records that are shared with it: View All is not granted",
    "grant View All (or the system permission View All Data) in its permission set; "
    "without it records that sharing hides look vanished",
)


def checked(world: World) -> tuple[int, dict[str, tuple[str, str, str]]]:
    """The exit code of `check`, and its findings by subject: state, detail, remedy."""
    done = world.command("check", "--json")
    found = json.loads(done.stdout)
    assert len({(one["subject"], one["detail"]) for one in found}) == len(found), "something is said twice"
    return done.returncode, {one["subject"]: (one["state"], one["detail"], one["remedy"]) for one in found}


def sharing(world: World) -> list[tuple[str, str, str]]:
    """What `check` finds of Account and Contact: whether the user sees all records. It never fails for that."""
    code, found = checked(world)
    assert code == 0
    return [found[f"{name} sharing"] for name in ("Account", "Contact")]


def object_permissions(world: World) -> dict[str, str]:
    """The Id of the record that permits the integration user each object."""
    return {one["SobjectType"]: str(one["Id"]) for one in world.org.records("ObjectPermissions")}


def test_check_asks_once_who_sees_all(loaded: World) -> None:
    """`check` says per object that the user sees all records, for three queries and one userinfo in all."""
    loaded.sim.requests.clear()

    assert sharing(loaded) == [ALL, ALL]

    asked = [request.sobject for request in loaded.sim.requests if request.kind == "query"]
    permissions = ["PermissionSetAssignment", "PermissionSet", "ObjectPermissions"]
    assert asked == [*permissions, "Account", "Account", "Contact", "Contact"]
    assert [request.kind for request in loaded.sim.requests].count("userinfo") == 1


def test_check_warns_of_records_that_sharing_hides(loaded: World) -> None:
    """Without View All on any object `check` warns of each, with what to grant."""
    loaded.sim.options.view_all = False

    assert sharing(loaded) == [SHARED, SHARED]


def test_check_tells_who_sees_all_by_object(loaded: World) -> None:
    """View All on one object says nothing of the other."""
    loaded.org.update(object_permissions(loaded)["Contact"], {"PermissionsViewAllRecords": False})

    assert sharing(loaded) == [ALL, SHARED]


def test_permission_sets_add_up(loaded: World) -> None:
    """What one permission set does not grant another does; those of others grant nothing."""
    loaded.org.update(object_permissions(loaded)["Contact"], {"PermissionsViewAllRecords": False})
    other = loaded.org.create(
        "PermissionSet", {"Name": "All", "Label": "All", "PermissionsViewAllData": True}
    )
    more = loaded.org.create("PermissionSet", {"Name": "More", "Label": "More"})
    granted = {"SobjectType": "Contact", "PermissionsRead": True, "PermissionsViewAllRecords": True}
    loaded.org.create("ObjectPermissions", {"ParentId": more, **granted})
    colleague = loaded.org.staff[1]
    loaded.org.create("PermissionSetAssignment", {"PermissionSetId": other, "AssigneeId": colleague})
    assert sharing(loaded) == [ALL, SHARED]

    loaded.org.create("PermissionSetAssignment", {"PermissionSetId": more, "AssigneeId": loaded.org.user_id})

    assert sharing(loaded) == [ALL, ALL]


@pytest.mark.parametrize("permission", ["PermissionsViewAllData", "PermissionsModifyAllData"])
def test_all_data_is_all_records(loaded: World, permission: str) -> None:
    """A system permission for all data stands for View All on every object."""
    loaded.sim.options.view_all = False
    loaded.org.update(loaded.org.permission_set_id, {permission: True})

    assert sharing(loaded) == [ALL, ALL]


@pytest.mark.parametrize("refused", ["PermissionSetAssignment", "PermissionSet", "ObjectPermissions"])
@pytest.mark.parametrize("fault", ["insufficient_access", "unavailable_html"])
def test_check_cannot_tell_who_sees_all(loaded: World, refused: str, fault: str) -> None:
    """Where Salesforce refuses the question `check` says why it cannot tell, and exits with 0."""
    loaded.sim.faults.add(fault, on="query", sobject=refused, times=None)

    for state, detail, _ in sharing(loaded):
        assert state == "warning"
        assert detail.startswith("cannot tell whether it sees all records: Salesforce answered ")


@pytest.mark.parametrize("absent", ["PermissionSetAssignment", "PermissionSet", "ObjectPermissions"])
def test_an_api_without_permissions(loaded: World, absent: str) -> None:
    """An implementation of the API that does not have these objects is no reason to fail."""
    loaded.org.hide_object(absent)

    for state, detail, _ in sharing(loaded):
        assert state == "warning"
        assert detail.startswith(
            "cannot tell whether it sees all records: Salesforce answered 400 INVALID_TYPE"
        )


def test_check_cannot_tell_from_what_is_not_shown(loaded: World) -> None:
    """No rows are no answer: neither of permissions, nor of permission sets, nor without a user to ask for."""
    unknown = "cannot tell whether it sees all records: "
    loaded.org.purge(object_permissions(loaded)["Contact"])
    of_account, of_contact = sharing(loaded)
    loaded.org.purge(loaded.org.ids("PermissionSetAssignment")[0])
    of_sets = sharing(loaded)[0]
    loaded.sim.faults.add("insufficient_access", on="userinfo", times=None)
    of_user = sharing(loaded)[0]

    assert of_account == ALL
    assert of_contact == ("warning", unknown + "Salesforce shows no permission on the object", "")
    assert of_sets == ("warning", unknown + "Salesforce shows none of its permission sets", "")
    assert of_user == ("warning", unknown + "the org does not tell which user is logged in", "")


def test_check_names_fields_that_vanished(loaded: World) -> None:
    """`check` names replicated fields that are not shown any more, with their times, until they are back."""
    loaded.org.hide_field("Contact", "Title")
    loaded.org.remove_field("Contact", "Nickname__c")
    loaded.run()
    loaded.sql(
        "UPDATE sync.field SET at = '2026-11-20 11:00+01' WHERE field = 'Title' AND change = 'vanished'"
    )
    loaded.sql(
        "UPDATE sync.field SET at = '2026-11-21 10:30Z' WHERE field = 'Nickname__c' AND change = 'vanished'"
    )

    found = json.loads(loaded.command("check", "--json").stdout)
    loaded.org.show_field("Contact", "Title")
    again = json.loads(loaded.command("check", "--json").stdout)

    since = "Nickname__c (since 2026-11-21 10:30 UTC)"
    told, never = [one for one in found if one["subject"] == "Contact fields"]
    assert (told["state"], told["code"]) == ("warning", 0)
    assert told["detail"] == f"not shown any more: {since}, Title (since 2026-11-20 10:00 UTC)"
    assert told["remedy"] == (
        "removed, or hidden from the integration user; "
        "columns keep their last values: grant read access if it was not on purpose"
    )
    assert never["state"] == "ok", "what an edition never has does not hide what was lost"
    still = next(one for one in again if one["subject"] == "Contact fields")
    assert still["detail"] == f"not shown any more: {since}"


def test_check_before_the_ledger(loaded: World) -> None:
    """Without the newest migration `check` fails for that alone, and looks at everything else."""
    loaded.org.hide_field("Contact", "Title")
    loaded.run()
    loaded.sql("DROP TABLE sync.field")
    loaded.sql("UPDATE sync.alembic_version SET version_num = '0003'")

    done = loaded.command("check", "--json")

    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert [one["subject"] for one in found if one["state"] == "failed"] == ["migrations"]
    assert {one["subject"] for one in found} >= {"Account", "Contact", "Contact sharing", "API budget"}
    assert {"Account fields", "Contact fields"} <= {one["subject"] for one in found}


def test_check_changes_nothing(loaded: World) -> None:
    """The doctor looks and does not touch."""
    before = loaded.sql("SELECT * FROM sync.run"), loaded.sql("SELECT * FROM sync.cursor")

    loaded.command("check")

    assert before == (loaded.sql("SELECT * FROM sync.run"), loaded.sql("SELECT * FROM sync.cursor"))


def test_schema_shows_the_mapping(loaded: World) -> None:
    """`schema` lists mapped, derived, custom, hidden, retyped and unmapped fields."""
    loaded.org.hide_field("Contact", "Title")
    loaded.org.retype_field("Contact", "Department", type="double", length=0, precision=18, scale=2)

    lines = json.loads(loaded.command("schema", "--object", "Contact", "--json").stdout)

    by_field = {line["field"]: line for line in lines}
    assert by_field["Email"]["column"] == "email, email_normalized"
    assert by_field["Title"]["state"] == "hidden"
    assert by_field["Department"]["state"] == "retyped"
    assert by_field["Tier__c"]["state"] == "custom"
    assert by_field["LastViewedDate"]["state"] == "unmapped"
    assert {line["object"] for line in lines} == {"Contact"}


def test_rejects_are_listed(loaded: World) -> None:
    """`rejects` says which records could not be stored, and why; nothing else is in the way."""
    assert "no record is rejected" in loaded.command("rejects").stdout
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    loaded.org.update(loaded.ann, {"Birthdate": "in spring"})
    loaded.run()

    plain = loaded.command("rejects", "--all", "--object", "Contact").stdout
    [rejected] = json.loads(loaded.command("rejects", "--all", "--json").stdout)

    assert loaded.ann in plain
    assert "Birthdate: not a date" in plain
    assert rejected["record"]["LastName"] == "Ann"
    assert "1 record is rejected" in loaded.command("status").stdout


def test_changes_are_listed(loaded: World) -> None:
    """`changes --after` prints the entries after a number, for people and for programs."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.run()

    plain = loaded.command("changes", "--after", str(loaded.seen)).stdout
    [change] = [
        json.loads(line)
        for line in loaded.command("changes", "--after", str(loaded.seen), "--json").stdout.splitlines()
    ]

    assert re.fullmatch(rf"{loaded.seen + 1} \S+ Contact {loaded.ann} update \(title, .*\)\n", plain)
    assert (change["seq"], change["op"], change["record_id"]) == (loaded.seen + 1, "update", loaded.ann)


def test_changes_follow(loaded: World) -> None:
    """`changes --follow` prints entries as they come, until it is asked to stop."""
    process = loaded.start("sync", "changes", "--follow", "--after", str(loaded.seen))
    time.sleep(1.5)
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.run()
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)

    assert process.returncode == 0
    assert loaded.ann in output


# ── secrets ──


def test_no_secret_in_any_output(loaded: World) -> None:
    """Whatever goes wrong, at whatever log level, no secret setting and no token is printed."""
    outputs = []
    faults = {
        "token_wrong_secret": "token",
        "token_unavailable_html": "token",
        "session_expired": "query",
        "unknown_exception": "query",
        "html_ok": "describe",
    }
    for fault, form in covering([*product(faults, ("logfmt", "json", "pretty"))], enumerate):
        loaded.sim.faults.add(fault, on=faults[fault], times=2)
        done = loaded.command("run", LOG_LEVEL="debug", LOG_FORMAT=form)
        outputs.append(done.stdout + done.stderr)
        loaded.sim.faults.clear()
    outputs.append(loaded.command("check").stdout)
    outputs.append(loaded.command("run", DATABASE_URL="postgres://me:hunter2secret@127.0.0.1:9/none").stderr)
    outputs.append(loaded.command("run", SALESFORCE_PRIVATE_KEY="hunter2secret-key").stderr)
    outputs.append(loaded.command("run", SALESFORCE_LOGIN_URL="http://hunter2secret@x").stderr)

    for output in outputs:
        loaded.assert_no_secret(output)
        assert "hunter2secret" not in output


@pytest.mark.parametrize("flow", ["jwt", "password"])
def test_no_secret_of_the_other_flows(loaded: World, flow: str) -> None:
    """Private key, password and security token stay unsaid, too, by a real process."""
    loaded.environment = {"DATABASE_URL": loaded.database, **loaded.sim.environment(flow)}
    loaded.sim.faults.add("token_inactive_user", on="token", times=1)

    failed = loaded.process("run", LOG_LEVEL="debug")
    good = loaded.process("run", LOG_LEVEL="debug")

    assert (failed.returncode, good.returncode) == (3, 0), good.stderr
    for name, value in loaded.environment.items():
        if name in ("SALESFORCE_PRIVATE_KEY", "SALESFORCE_PASSWORD", "SALESFORCE_SECURITY_TOKEN"):
            for line in value.replace("\\n", "\n").splitlines():
                if len(line) > 8 and "PRIVATE KEY" not in line:
                    assert line not in failed.stdout + failed.stderr + good.stdout + good.stderr
