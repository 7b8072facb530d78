"""Bugs to be planted, each with the tests that fail where it is: what the suite is worth, as a table.

`make mutations` plants them one at a time (tests/mutate.py). Each rule of the guarantees has one; tests/project/test_mutations.py
holds that the texts and the tests are there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """A bug in one module: `before`, which is there once, becomes `after`, and the tests fail.

    `name` begins with the part of the product that the rule is of. `tests` are pytest's node ids.
    """

    name: str
    module: str
    before: str
    after: str
    tests: tuple[str, ...]


def bug(name: str, module: str, before: str, after: str, *tests: str) -> Mutation:
    return Mutation(name, module, before, after, tuple(f"tests/{test}" for test in tests))


CURSORS = "sync/postgres/state/cursors.py"
PLANS = "sync/postgres/state/plans.py"
OPENING = "sync/replication/opening.py"
TOGETHER = "sync/salesforce/extract/together.py"
LEASES = "sync/postgres/state/leases.py"
SQL = "sync/postgres/load/sql.py"
LOAD = "sync/postgres/load/merge.py"
PERSONAL = "sync/postgres/load/personal.py"
DEPENDANTS = "sync/postgres/load/dependants.py"
APPLY = "sync/replication/apply.py"
WINDOWS = "sync/replication/windows.py"
DELETES = "sync/replication/deletes.py"
REST = "sync/salesforce/extract/rest.py"
BULK = "sync/salesforce/extract/bulk.py"
RESULTS = "sync/salesforce/extract/results.py"
EXTRACT = "sync/salesforce/extract/extraction.py"
PARTS = "sync/salesforce/extract/parts.py"
SESSION = "sync/salesforce/session/session.py"
CONNECTION = "sync/salesforce/session/connection.py"
LOGIN = "sync/salesforce/session/login.py"
HOSTS = "sync/salesforce/session/addresses.py"
HTTP = "sync/salesforce/session/http.py"
LEARNED = "sync/salesforce/learned.py"
LEDGER = "sync/postgres/ledger.py"
REFRESH = "sync/replication/refresh.py"
BUDGET = "sync/replication/budget/plan.py"
CALLS = "sync/postgres/state/calls.py"
SLOTS = "sync/salesforce/slots.py"
REQUESTS = "sync/replication/requests.py"
REQUESTED = "sync/postgres/state/requests.py"
REQUESTS_CONTRACT = "migrations/versions/0020_requests.py"
RECOMPUTE = "sync/replication/recompute.py"
VERIFY = "sync/replication/verify/comparison.py"
BUCKETS = "sync/replication/verify/buckets.py"
LISTING = "sync/replication/verify/listing.py"
SCHEDULE = "sync/operations/worker.py"
REPORT = "sync/operations/status.py"
CLI = "sync/cli/commands.py"
INCIDENTS = "sync/operations/alerts/incidents.py"
KEEPER = "sync/operations/alerts/keeper.py"
FEED_CONTRACT = "migrations/versions/0017_named_consumers.py"
DELIVERY = "sync/operations/alerts/delivery.py"
SEND = "sync/operations/alerts/send.py"
REJECTS = "sync/replication/rejects.py"
TABLES = "sync/postgres/tables.py"
RETENTION = "sync/replication/retention.py"
PRUNING = "sync/postgres/pruning.py"

MUTATIONS = (
    # ── the cursor ──────────────────────────────────────────────────────────────────────────────────────
    bug(
        "cursor: the overlap is claimed, too",
        CURSORS,
        "until - overlap if covered is None else min(until, covered)",
        "until if covered is None else min(until, covered)",
        "replication/test_coverage.py::test_reach",
    ),
    bug(
        "cursor: a claim without asking for the coverage",
        WINDOWS,
        "        covered = context.session.updated_through(schema.name, end - timedelta(minutes=1), end)\n",
        "        covered = end\n",
        "replication/test_coverage.py::test_resumed_window_keeps_the_coverage_of_its_beginning",
    ),
    bug(
        "opening: what is covered is not taken from the call",
        TOGETHER,
        'value("updated", lambda found: latest_covered(answer(found.body))),',
        'value("updated", lambda _: together.at),',
        "replication/test_coverage.py::test_the_lag_counts_up_to_a_day",
    ),
    bug(
        "cursor: the overlap is not read again",
        PLANS,
        "None if complete_through is None else complete_through - overlap",
        "complete_through",
        "replication/test_stories.py::test_late_commit_inside_the_overlap[rest]",
    ),
    bug(
        "cursor: it may go backwards",
        CURSORS,
        "ELSE greatest(c.complete_through, excluded.complete_through) END",
        "ELSE excluded.complete_through END",
        "replication/test_coverage.py::test_never_backwards",
    ),
    bug(
        "cursor: it goes beyond what getUpdated covers",
        CURSORS,
        "claimable(progress.until, plan.window.overlap, progress.covered, deleted)",
        "claimable(progress.until, plan.window.overlap, deleted)",
        "replication/test_coverage.py::test_first_load_is_covered_too",
    ),
    bug(
        "cursor: it goes beyond what getDeleted covers",
        CURSORS,
        "claimable(progress.until, plan.window.overlap, progress.covered, deleted)",
        "claimable(progress.until, plan.window.overlap, progress.covered, None)",
        "replication/test_delete_log.py::test_a_log_that_lags_holds_complete_through_back",
    ),
    bug(
        "cursor: a hanging transaction holds it back without a limit",
        CURSORS,
        "LONGEST_LAG = timedelta(hours=24)",
        "LONGEST_LAG = timedelta(days=9999)",
        "replication/test_coverage.py::test_the_lag_counts_up_to_a_day[lag5-counted5]",
    ),
    bug(
        "cursor: it moves before the last page",
        APPLY,
        "            plans.save_progress(connection, schema.name, plan, page.progress, page.at)\n",
        "            plans.save_progress(connection, schema.name, plan, page.progress, page.at)\n"
        "            given = {'at': plan.window.settled, 'name': schema.name}\n"
        "            move = 'UPDATE sync.cursor SET complete_through = :at WHERE object = :name'\n"
        "            connection.execute(text(move), given)\n",
        "postgres/test_leases.py::test_a_stale_owner_cannot_move_the_cursor",
    ),
    bug(
        "cursor: the latest clock of a window counts, not the earliest",
        PLANS,
        "until = least(until, :until),",
        "until = greatest(until, :until),",
        "replication/test_borders.py::test_the_earliest_clock_of_all_answers_ends_the_window[rest]",
    ),
    bug(
        "cursor: a window ends where it was planned, whatever the clocks of its answers",
        PLANS,
        "       until = least(until, :until),\n",
        "",
        "replication/test_borders.py::test_the_earliest_clock_of_all_answers_ends_the_window[rest]",
    ),
    bug(
        "cursor: a resumed window's end is taken as now",
        PLANS,
        "window = replace(wanted, until=stored.until)",
        "window = wanted; connection.execute(text('UPDATE sync.progress SET until = :u WHERE object = :o'), "
        "{'u': wanted.until, 'o': sobject})",
        "replication/test_borders.py::test_a_resumed_window_ends_where_it_was_begun[bulk]",
    ),
    bug(
        "cursor: one that lies in the future is believed",
        PLANS,
        "    if complete_through is not None and complete_through > until + overlap:\n",
        "    if False:\n",
        "replication/test_faults.py::test_a_cursor_in_the_future_is_refused_and_mended",
    ),
    bug(
        "cursor: a resync that leaves a gap moves it",
        PLANS,
        "gapless = since is None or (complete_through is not None and since <= complete_through)",
        "gapless = True",
        "cli/test_commands.py::test_resync_since",
    ),
    bug(
        "cursor: it moves by a clock that is wrong",
        WINDOWS,
        "    if plan.advances and schema.clock_error:\n",
        "    if False:\n",
        "salesforce/test_clock.py::test_a_wrong_clock_claims_nothing[2592000-rest]",
    ),
    bug(
        "cursor: a window does not include the moment of its beginning",
        "sync/salesforce/soql.py",
        'f"SystemModstamp >= {datetime_literal(scope.since)}"',
        'f"SystemModstamp > {datetime_literal(scope.since)}"',
        "salesforce/test_soql.py::test_window_includes_its_beginning",
    ),
    bug(
        "cursor: what was read of a Bulk job is continued, whatever was committed since",
        PLANS,
        "current = stored.job is None or stored.undisturbed",
        "current = True",
        "replication/test_resumed.py::test_values_read_since_are_kept[bulk]",
    ),
    bug(
        "cursor: commits are not counted, so no Bulk job is ever too old",
        APPLY,
        "        if page.batch.ids or page.batch.rejects:\n            plans.count_commit(connection, schema.name)\n",
        "",
        "replication/test_resumed.py::test_values_read_since_are_kept[bulk]",
    ),
    # ── the merge ───────────────────────────────────────────────────────────────────────────────────────
    bug(
        "merge: an equal stamp is taken for equal values",
        SQL,
        "(latest.system_modstamp >= old.system_modstamp AND {differs})",
        "(latest.system_modstamp > old.system_modstamp AND {differs})",
        "replication/test_stories.py::test_two_changes_within_one_second[rest]",
    ),
    bug(
        "merge: an older version replaces a newer one",
        SQL,
        '"old.id IS NULL OR (latest.system_modstamp >= old.system_modstamp AND {differs})"',
        '"old.id IS NULL OR {differs}"',
        "replication/test_stories.py::test_an_older_version_never_replaces_a_newer_one[rest]",
    ),
    bug(
        "merge: of equal stamps in one page the earlier wins",
        SQL,
        "ORDER BY id, system_modstamp DESC, ctid DESC",
        "ORDER BY id, system_modstamp DESC, ctid",
        "replication/test_borders.py::test_of_equal_stamps_in_one_page_the_later_wins[True]",
    ),
    bug(
        "merge: an unchanged row is written",
        SQL,
        "(latest.system_modstamp >= old.system_modstamp AND {differs})",
        "(latest.system_modstamp >= old.system_modstamp)",
        "replication/test_stories.py::test_overlap_is_read_again_and_writes_nothing[rest]",
    ),
    bug(
        "merge: a deleted record stays live",
        SQL,
        "CASE WHEN latest.is_deleted THEN coalesce(old.deleted_at, latest.deleted_at) END AS tombstone",
        "CAST(NULL AS timestamptz) AS tombstone",
        "replication/test_stories.py::test_soft_delete_leaves_a_tombstone_with_the_last_values[rest]",
    ),
    bug(
        "merge: an undeleted record is told as an update",
        SQL,
        "WHEN old.deleted_at IS NOT NULL AND NOT latest.is_deleted THEN 'undelete'",
        "WHEN false THEN 'undelete'",
        "replication/test_stories.py::test_undelete_brings_the_row_back[rest]",
    ),
    bug(
        "merge: the feed does not name the survivor",
        SQL,
        "CASE WHEN op = 'merge' THEN {survivor} END",
        "CASE WHEN op = 'merged' THEN {survivor} END",
        "replication/test_deletes.py::test_merges_in_a_chain[False]",
    ),
    bug(
        "merge: a hidden custom field loses its values",
        SQL,
        "coalesce(old.custom, '{{}}') || latest.custom AS whole_custom",
        "latest.custom AS whole_custom",
        "postgres/test_fields.py::test_a_vanished_field_keeps_its_values[Title-Boss-rest]",
    ),
    bug(
        "merge: columns of another version of a record are written into a row",
        SQL,
        '"old.id IS NOT NULL AND latest.system_modstamp = old.system_modstamp "',
        '"old.id IS NOT NULL "',
        "replication/test_refresh.py::test_a_record_that_changed_between_is_not_half_written[rest]",
    ),
    bug(
        "merge: a record that fits again stays among the rejected",
        LOAD,
        "connection.execute(MAY_HEAL if mode is Mode.PARTIAL else HEAL, parameters)",
        "pass",
        "replication/test_stories.py::test_reject_and_its_healing[rest]",
    ),
    bug(
        "merge: a record that Postgres refuses is dropped",
        LOAD,
        "return {}, [reject(projection, records[0], reject_reason(error))]",
        "return {}, []",
        "replication/test_stories.py::test_record_that_only_postgres_refuses[rest]",
    ),
    bug(
        "transform: a record that does not fit is dropped",
        "sync/catalogue/transform.py",
        "return Batch(rejects=[rejected], ids=[rejected.id])",
        "return Batch()",
        "catalogue/test_transform.py::test_every_record_is_a_row_or_a_reject",
    ),
    bug(
        "transform: numbers of custom fields lose digits",
        "sync/catalogue/transform.py",
        'return [number(value) if value else "null" for value in column]',
        'return [repr(float(value)) if value else "null" for value in column]',
        "catalogue/test_transform.py::test_custom_numbers_keep_every_digit[1.10-1.10]",
    ),
    bug(
        "queries: deleted records are not read",
        SESSION,
        'f"/services/data/v{self.version}/queryAll/"',
        'f"/services/data/v{self.version}/query/"',
        "replication/test_stories.py::test_soft_delete_leaves_a_tombstone_with_the_last_values[rest]",
    ),
    # ── leases and fences ───────────────────────────────────────────────────────────────────────────────
    bug(
        "fence: nobody looks at it",
        LEASES,
        'if connection.execute(FENCE, asdict(held) | {"seconds": LEASE_SECONDS}).scalar() is None:',
        "if False:",
        "postgres/test_leases.py::test_a_stale_owner_cannot_commit",
    ),
    bug(
        "fence: the cursor moves without it",
        WINDOWS,
        "        with leases.fenced_transaction(context.engine, held) as connection:\n",
        "        with transaction(context.engine) as connection:\n",
        "replication/test_mutants.py::test_the_cursor_moves_under_the_fence",
    ),
    bug(
        "fence: it is looked at without a lock",
        LEASES,
        "UPDATE sync.lease SET expires_at = clock_timestamp() + make_interval(secs => :seconds)\n"
        " WHERE object = :object AND owner = :owner AND fence = :fence\n"
        "RETURNING fence",
        "SELECT fence FROM sync.lease WHERE object = :object AND owner = :owner AND fence = :fence",
        "postgres/test_leases.py::test_takeover_waits_for_a_commit_under_way",
    ),
    bug(
        "lease: it is renewed later than it expires",
        LEASES,
        "LEASE_SECONDS, RENEW_SECONDS, POLL_SECONDS = 30, 8, 0.5",
        "LEASE_SECONDS, RENEW_SECONDS, POLL_SECONDS = 30, 31, 0.5",
        "replication/test_borders.py::test_a_lease_never_expires_while_its_holder_lives",
    ),
    bug(
        "lease: nothing renews it",
        LEASES,
        'connection.execute(RENEW, asdict(held) | {"seconds": LEASE_SECONDS})',
        "pass",
        "replication/test_borders.py::test_a_lease_never_expires_while_its_holder_lives",
    ),
    bug(
        "lease: a long transaction does not renew it at its end",
        LEASES,
        "        if time.monotonic() - began > RENEW_SECONDS:\n",
        "        if False:\n",
        "replication/test_borders.py::test_a_transaction_longer_than_the_lease_keeps_it",
    ),
    bug(
        "lease: another process takes one that is held",
        LEASES,
        "WHERE object = :object AND (owner IS NULL OR expires_at < clock_timestamp())",
        "WHERE object = :object",
        "replication/test_borders.py::test_a_lease_never_expires_while_its_holder_lives",
    ),
    # ── the call for all objects ────────────────────────────────────────────────────────────────────────
    bug(
        "opening: an object is asked about whose lease another process holds",
        LEASES,
        "AND owner IS NULL ORDER BY object",
        "ORDER BY object",
        "replication/test_opening.py::test_a_held_lease_stays_out",
    ),
    bug(
        "opening: the cursor moves although another process has worked meanwhile",
        LEASES,
        "SET fence = fence + 1 WHERE object = :object AND fence = :fence\n",
        "SET fence = fence + 1 WHERE object = :object\n",
        "replication/test_opening.py::test_work_of_others_during_the_call_writes_nothing",
    ),
    bug(
        "opening: a lease is taken although another process has worked meanwhile",
        LEASES,
        " WHERE object = :object AND fence = :fence\nRETURNING fence",
        " WHERE object = :object\nRETURNING fence",
        "replication/test_opening.py::test_what_others_did_meanwhile_is_not_overlooked",
    ),
    bug(
        "opening: another org is accepted, and what was asked of the one before is written",
        LEASES,
        "owner IS DISTINCT FROM :owner",
        "owner <> :owner",
        "replication/test_opening.py::test_another_org_accepted_during_the_call",
    ),
    bug(
        "opening: the records are asked for before the coverage",
        TOGETHER,
        "for kind in (coverage_part, deleted_part, query_part)",
        "for kind in (query_part, deleted_part, coverage_part)",
        "replication/test_opening.py::test_a_quiet_pass_is_one_call",
    ),
    bug(
        "opening: an object with changes is taken for a quiet one",
        OPENING,
        "if told is None or not told.empty:",
        "if told is None:",
        "replication/test_opening.py::test_what_is_told_is_used",
    ),
    bug(
        "opening: a quiet pass ends although other work is due",
        OPENING,
        "    if other_work(connection, context, each):\n        return None\n",
        "",
        "replication/test_refresh.py::test_formulas_are_read_again_on_schedule[rest]",
    ),
    bug(
        "opening: live records of the delete log are not looked up",
        OPENING,
        "(listed and deletes.live_ids(connection, name, listed))",
        "(listed and not deletes.live_ids)",
        "replication/test_opening.py::test_a_purged_record_is_found",
    ),
    bug(
        "opening: the time of the call is that of its end",
        "sync/salesforce/session/session.py",
        "answer.at - timedelta(seconds=took + 1)",
        "answer.at",
        "salesforce/test_together.py::test_the_time_lies_before_every_answer",
    ),
    bug(
        "opening: a quiet pass claims what is not covered",
        CURSORS,
        '"reached": claimable(window.until, window.overlap, covered, deleted),\n        "until": window.until,\n        "covered"',
        '"reached": window.until,\n        "until": window.until,\n        "covered"',
        "replication/test_opening.py::test_the_claim_follows_the_coverage[7200]",
    ),
    bug(
        "opening: what was told is used again after a restart of the work",
        "sync/replication/pipeline.py",
        "begun, left[0] = left[0], None",
        "begun = left[0]",
        "replication/test_opening.py::test_a_refused_field_is_described_at_once",
    ),
    bug(
        "opening: an object that was slow stays in the call",
        TOGETHER,
        'if code == "QUERY_TIMEOUT":',
        'if code == "QUERY_TIMEOUTS":',
        "replication/test_opening.py::test_a_slow_query_stays_out_for_an_hour",
    ),
    bug(
        "opening: what failed inside the call is not asked alone",
        TOGETHER,
        "    if isinstance(failure, SyncError):\n        return failure\n",
        "    return SalesforceError(str(failure))\n",
        "replication/test_opening.py::test_a_subrequest_that_fails[server_unavailable-query]",
    ),
    # ── the guards ──────────────────────────────────────────────────────────────────────────────────────
    bug(
        "guard: half of a table may go",
        APPLY,
        "GUARDED_SHARE = 0.01",
        "GUARDED_SHARE = 0.5",
        "replication/test_borders.py::test_what_the_guard_lets_go[101-10099-True]",
    ),
    bug(
        "guard: a small table may vanish",
        APPLY,
        "if context.approve or count <= FEW:",
        "if context.approve or count <= GUARDED_COUNT:",
        "replication/test_borders.py::test_a_small_table_does_not_vanish_unasked",
    ),
    bug(
        "guard: a pass removes whatever the delete log names",
        DELETES,
        "        apply.guard(connection, context, schema.name, len(gone))\n",
        "        pass\n",
        "replication/test_delete_log.py::test_guard_in_a_pass[logged]",
    ),
    bug(
        "guard: a verify removes whatever it does not find",
        VERIFY,
        "            apply.guard(connection, work.context, work.schema.name, len(gone))\n",
        "            pass\n",
        "replication/test_borders.py::test_a_small_table_does_not_vanish_unasked",
    ),
    bug(
        "guard of rejects: any share of them is let go",
        REJECTS,
        "return count > GUARDED_COUNT and count > GUARDED_SHARE * total",
        "return False",
        "replication/test_honest_success.py::test_what_is_too_many[101-10099-True]",
    ),
    bug(
        "guard of rejects: a run that stores nothing succeeds",
        WINDOWS,
        "            rejects.check(connection, schema.name, run_id, plan.read)\n",
        "",
        "replication/test_honest_success.py::test_a_run_that_stores_nothing_fails[rest]",
    ),
    bug(
        "guard of rejects: what was rejected before does not count",
        REJECTS,
        "    elif exceeds_limits(outstanding, rows + outstanding):\n",
        "    elif False:\n",
        "postgres/test_large_tables.py::test_outstanding_rejects_count_no_more_rows_than_they_need",
    ),
    bug(
        "guard of the org: another one is read into the same tables",
        APPLY,
        "    if not context.accept_org:\n",
        "    if False:\n",
        "replication/test_org.py::test_another_org_is_refused[run]",
    ),
    bug(
        "guard of the org: what others have read of the replaced one is written",
        APPLY,
        "    leases.revoke_others(connection, context.owner)\n",
        "",
        "replication/test_org.py::test_accepted_while_the_other_org_is_read[worker-rest]",
    ),
    # ── the feed ────────────────────────────────────────────────────────────────────────────────────────
    bug(
        "feed: numbers are not given in the order of commits",
        SQL,
        "    UPDATE sync.feed SET last_seq = last_seq + n.count\n"
        "      FROM (SELECT count(*) AS count FROM compared) AS n\n"
        "     WHERE n.count > 0\n"
        " RETURNING last_seq - n.count AS base, slot\n",
        "    SELECT coalesce(max(seq), 0) AS base, 0 AS slot FROM sync.change\n",
        "postgres/test_leases.py::test_numbers_are_given_in_the_order_of_commits",
    ),
    bug(
        "feed: numbers have gaps",
        SQL,
        "UPDATE sync.feed SET last_seq = last_seq + n.count",
        "UPDATE sync.feed SET last_seq = last_seq + n.count + 1",
        "postgres/test_leases.py::test_numbers_are_given_in_the_order_of_commits",
    ),
    bug(
        "feed: the partition that is being filled is emptied, too",
        PRUNING,
        "        if slot == current.slot:\n            continue\n",
        "",
        "operations/test_pruning.py::test_old_entries_leave_and_their_space_returns",
    ),
    bug(
        "feed: a partition goes when its oldest entry is old",
        PRUNING,
        "SELECT seq, at, now() AS now FROM sync.change_{slot} ORDER BY seq DESC LIMIT 1",
        "SELECT seq, at, now() AS now FROM sync.change_{slot} ORDER BY seq LIMIT 1",
        "operations/test_pruning.py::test_a_partition_goes_when_its_newest_entry_is_old",
    ),
    bug(
        "feed: a partition that holds entries is filled again",
        PRUNING,
        " WHERE slot = :slot AND NOT EXISTS (SELECT FROM sync.change_{next})\n",
        " WHERE slot = :slot\n",
        "operations/test_pruning.py::test_the_ring_goes_round",
    ),
    bug(
        "feed: who asks for entries that are gone gets those that are left",
        FEED_CONTRACT,
        "ELSIF entries.after < newest AND NOT EXISTS (",
        "ELSIF false AND NOT EXISTS (",
        "operations/test_pruning.py::test_a_consumer_that_fell_behind_is_told",
    ),
    bug(
        "feed: changes of one page are not in the order of their stamps",
        SQL,
        "row_number() OVER (ORDER BY system_modstamp, id)",
        "row_number() OVER (ORDER BY id)",
        "replication/test_mutants.py::test_the_feed_tells_a_page_in_the_order_of_its_stamps",
    ),
    bug(
        "feed: a removed record is not told",
        LOAD,
        "REMOVE.format(table=table, feed=feed(table))",
        'REMOVE.format(table=table, feed="")',
        "replication/test_deletes.py::test_purged_between_passes[False-rest]",
    ),
    bug(
        "consumers: an acknowledgement goes back",
        FEED_CONTRACT,
        "ELSIF ack.seq <= mine.seq AND reloaded IS NOT TRUE THEN",
        "ELSIF false THEN",
        "postgres/test_named_consumers.py::test_what_followed_the_subscription_is_given_until_it_is_acknowledged",
    ),
    bug(
        "consumers: a poll does not lock",
        FEED_CONTRACT,
        "c.name = own_consumer.name FOR UPDATE",
        "c.name = own_consumer.name",
        "postgres/test_named_consumers.py::test_work_and_acknowledgement_are_one_transaction",
    ),
    bug(
        "consumers: another epoch is not noticed",
        FEED_CONTRACT,
        "IF mine.epoch <> present.epoch OR mine.seq > present.seq OR (",
        "IF mine.seq > present.seq OR (",
        "postgres/test_named_consumers.py::test_another_epoch_is_told_as_reload",
    ),
    bug(
        "consumers: the epoch does not count for an acknowledgement",
        FEED_CONTRACT,
        "ELSIF mine.epoch <> present.epoch AND reloaded IS NOT TRUE THEN",
        "ELSIF false THEN",
        "postgres/test_named_consumers.py::test_another_epoch_is_told_as_reload",
    ),
    bug(
        "consumers: pruned entries are silently missed",
        FEED_CONTRACT,
        "mine.seq < present.seq AND NOT EXISTS (SELECT FROM sync.change AS c WHERE c.seq = mine.seq + 1)",
        "false",
        "postgres/test_named_consumers.py::test_what_was_pruned_is_told_as_reload",
    ),
    bug(
        "consumers: a late acknowledgement hides what was pruned",
        FEED_CONTRACT,
        "IF NOT kept THEN",
        "IF false THEN",
        "postgres/test_named_consumers.py::test_an_acknowledgement_that_comes_too_late",
    ),
    bug(
        "consumers: an open acknowledgement holds up a prune",
        FEED_CONTRACT,
        "RAISE SQLSTATE 'SY000';",
        "NULL;",
        "postgres/test_named_consumers_attacked.py::test_an_acknowledgement_of_any_number_holds_up_no_prune",
    ),
    bug(
        "consumers: the feed is read whole for an object without entries",
        FEED_CONTRACT,
        "WHERE (c.object, c.seq) > (o.object, entries.after) AND c.object <= o.object",
        "WHERE c.object = o.object AND c.seq > entries.after",
        "postgres/test_named_consumers_attacked.py::test_an_object_without_entries_costs_little",
    ),
    bug(
        "consumers: status reads the feed whole for an object without entries",
        "sync/postgres/consumers.py",
        "WHERE (n.object, n.seq) > (o.object, c.seq) AND n.object <= o.object",
        "WHERE n.object = o.object AND n.seq > c.seq",
        "postgres/test_named_consumers_attacked.py::test_an_object_without_entries_costs_little",
    ),
    bug(
        "consumers: a reload leaves out what is not replicated now",
        FEED_CONTRACT,
        "unnest(coalesce(mine.objects, ARRAY(",
        "unnest(nullif(mine.objects, ARRAY(",
        "postgres/test_named_consumers_attacked.py::test_a_reload_names_objects_that_are_not_replicated_now",
    ),
    bug(
        "consumers: a role holds up its own revocation",
        "sync/postgres/consumers.py",
        "FOR UPDATE SKIP LOCKED\n    ) AS free",
        "FOR UPDATE\n    ) AS free",
        "postgres/test_named_consumers_attacked.py::test_a_role_cannot_hold_up_its_revocation",
    ),
    bug(
        "old values: a merge beside a revocation keeps them",
        "sync/postgres/load/sql.py",
        "EXISTS (SELECT FROM sync.old_values FOR KEY SHARE)",
        "EXISTS (SELECT FROM sync.old_values)",
        "postgres/test_named_consumers_attacked.py::test_a_merge_beside_a_revocation_leaves_no_old_values",
    ),
    bug(
        "old values: a dropped role leaves them",
        "sync/operations/pruning.py",
        "consumers.withdraw_from_dropped_roles(connection)",
        "pass",
        "postgres/test_named_consumers_attacked.py::test_a_role_that_was_dropped_leaves_no_leave",
    ),
    bug(
        "consumers: nobody is told of one that falls behind",
        "sync/operations/backlog.py",
        "one.age >= BEHIND * retention",
        "one.age >= 2 * retention",
        "postgres/test_named_consumers.py::test_a_consumer_that_falls_behind_is_told_before_it_loses_entries",
    ),
    bug(
        "consumers: everybody sees old values",
        FEED_CONTRACT,
        "CASE WHEN EXISTS (SELECT FROM sync.old_values AS o WHERE o.role = session_user) THEN e.old END",
        "e.old",
        "postgres/test_named_consumers.py::test_others_never_see_them",
    ),
    bug(
        "consumers: a tombstone's old values stay in the feed",
        PERSONAL,
        "        for statement in (EMPTY, FORGET_OLD):\n",
        "        for statement in (EMPTY,):\n",
        "postgres/test_named_consumers.py::test_old_values_go_with_the_values_of_a_tombstone[erase]",
    ),
    bug(
        "consumers: an erased person's old values stay in the feed",
        PERSONAL,
        "SET changed = '{}', old = NULL ",
        "SET changed = '{}' ",
        "postgres/test_named_consumers.py::test_an_erased_person_has_no_old_values",
    ),
    bug(
        "feed: a first load is not told",
        "sync/postgres/load/first.py",
        "    announce_reload(connection, sobject, run_id)\n",
        "",
        "replication/test_stories.py::test_first_load_holds_everything_and_says_reload_once[rest]",
    ),
    # ── rows that are missing ───────────────────────────────────────────────────────────────────────────
    bug(
        "count by REST: a page that lacks a record is accepted",
        REST,
        "    if census.distinct < total or (census.distinct > total and not census.moved):\n",
        "    if False:\n",
        "replication/test_faults.py::test_missing_rows_fail_the_run[rest-last]",
    ),
    bug(
        "count by REST: a set that is read stepwise is not counted at its end",
        REST,
        "    if stepwise and proven.key is not None and not prefix_is_whole(session, projection, window, proven):\n",
        "    if False:\n",
        "replication/test_faults.py::test_stepwise_reading_counts_too",
    ),
    bug(
        "count by REST: a resumed prefix is not counted",
        REST,
        "        else prefix_is_whole(session, projection, window, progress)\n",
        "        else True\n",
        "replication/test_mutants.py::test_progress_that_lacks_a_record_is_discarded",
    ),
    bug(
        "progress by REST: pages behind the first are taken for proved",
        REST,
        "                if not several:\n                    proven = latest\n",
        "                proven = latest\n",
        "replication/test_faults.py::test_pages_that_shift[purged-session_expired]",
    ),
    bug(
        "progress by REST: nobody knows afterwards that pages may have shifted",
        REST,
        "latest = replace(page.progress, total=total if several else 0)",
        "latest = replace(page.progress, total=0)",
        "replication/test_faults.py::test_pages_that_shift[purged-gone]",
    ),
    bug(
        "progress by REST: a window counts as unmoved, whatever it has now",
        REST,
        "return count_or_zero(session, name, before) == progress.total",
        "return True",
        "replication/test_faults.py::test_pages_that_shift[purged-gone]",
    ),
    bug(
        "progress by REST: pages go on although a record moved between them",
        REST,
        "moved = several and not stepwise and (census.has_unsettled or bool(census.moved))",
        "moved = False",
        "replication/test_faults.py::test_pages_that_shift[moved-nothing]",
    ),
    bug(
        "progress by REST: a record that moved beyond the window is taken for a place",
        REST,
        " and moment.tzinfo and moment <= window.until:",
        " and moment.tzinfo:",
        "salesforce/test_extract.py::test_landmark_leaves_out_what_moved",
    ),
    bug(
        "count by Bulk API: a job that has more than came is accepted",
        BULK,
        '    if progress.received != processed:\n        raise mismatch_error(name, f"{processed:,}", progress.received)\n',
        "",
        "replication/test_faults.py::test_job_that_counted_otherwise[1-bulk]",
    ),
    bug(
        "count by Bulk API: the org is not asked how many there are",
        BULK,
        "    if settled > progress.settled:\n",
        "    if False:\n",
        "replication/test_faults.py::test_job_that_lacks_a_record_and_does_not_know[bulk]",
    ),
    bug(
        "count by Bulk API: a result page is not compared with its header",
        RESULTS,
        "    if str(received) != announced:\n",
        "    if False:\n",
        "salesforce/test_extract.py::test_a_page_that_is_not_what_it_says",
    ),
    bug(
        "count: pages that did not add up are resumed",
        WINDOWS,
        "            plans.note_mismatch(connection, schema.name, plan.purpose)\n",
        "            pass\n",
        "replication/test_faults.py::test_page_that_never_is_what_it_says[bulk]",
    ),
    # ── ways to read ────────────────────────────────────────────────────────────────────────────────────
    bug(
        "parts: those of two versions of a record are joined",
        PARTS,
        "            if len({version(*get(piece)) for get, piece in zip(version_getters, pieces, strict=True)}) > 1:\n",
        "            if False:\n",
        "salesforce/test_ways.py::test_a_record_that_changes_between_two_parts",
    ),
    bug(
        "learnt: queries stay as long as they were",
        LEARNED,
        "self.longest, max(SHORTEST_QUERY, self.longest // 2)",
        "self.longest, self.longest",
        "salesforce/test_ways.py::test_a_proxy_that_takes_less",
    ),
    bug(
        "learnt: formulas are asked for all at once",
        LEARNED,
        "        self.formulas = min(FORMULAS, max(1, before // 2)) if before <= FORMULAS else FORMULAS\n",
        "        self.formulas = before\n",
        "salesforce/test_ways.py::test_more_formulas_than_a_query_may_have[rest-20]",
    ),
    bug(
        "learnt: queries that are not finished in time are asked again and again",
        EXTRACT,
        "            read.learned.slow = True\n",
        "            raise\n",
        "salesforce/test_ways.py::test_too_slow_in_the_middle",
    ),
    bug(
        "learnt: a refused Bulk job is asked for again at once",
        EXTRACT,
        "        read.learned.without_jobs()\n",
        "",
        "salesforce/test_ways.py::test_a_job_without_an_end[bulk]",
    ),
    # ── deletions ───────────────────────────────────────────────────────────────────────────────────────
    bug(
        "deletions: of a resumed window those since its beginning are not asked for",
        DELETES,
        "        since = min(since, plan.window.until)\n",
        "        pass\n",
        "replication/test_resumed.py::test_created_and_purged_since_is_not_there[bulk]",
    ),
    bug(
        "deletions: a log that was cut off is believed",
        DELETES,
        "        if listed.earliest <= since:\n",
        "        if True:\n",
        "replication/test_mutants.py::test_a_log_that_says_that_it_was_cut_off_is_not_believed",
    ),
    bug(
        "deletions: what the log names is removed without a look-up",
        DELETES,
        "{id_: listed.records[id_] for id_ in suspects if id_ not in found}",
        "{id_: listed.records[id_] for id_ in suspects}",
        "replication/test_deletes.py::test_undeleted_is_not_removed[0-True-True]",
    ),
    bug(
        "deletions: a passing refusal does not hold the claim back",
        DELETES,
        "        if error.passing or not 400 <= error.status < 500:\n            raise\n",
        "",
        "replication/test_delete_log.py::test_unanswered_deletions_fail_the_pass[unknown_exception]",
    ),
    bug(
        "deletions: nobody learns that they are refused for good",
        DELETES,
        "            cursors.note_deletions_refused(connection, schema.name, refused=True)\n",
        "            pass\n",
        "replication/test_honest_success.py::test_refused_deletions_are_said",
    ),
    # ── fields ──────────────────────────────────────────────────────────────────────────────────────────
    bug(
        "fields: one that queries refuse is asked for again by each pass",
        LEDGER,
        "WHERE change = 'refused' AND at > now() - interval '1 day'",
        "WHERE false",
        "salesforce/test_ways.py::test_a_field_that_queries_refuse[rest]",
    ),
    bug(
        "fields: a new one is not filled in old records",
        LEDGER,
        'REREAD_CHANGES = frozenset({"added", ',
        "REREAD_CHANGES = frozenset({",
        "postgres/test_fields.py::test_a_new_field_is_filled_in_old_records[rest]",
    ),
    bug(
        "fields: one that vanished is not noted",
        LEDGER,
        '            yield Entry(name, "vanished", before)\n',
        "            pass\n",
        "postgres/test_fields.py::test_a_vanished_field_keeps_its_values[Title-Boss-rest]",
    ),
    bug(
        "fields: a describe is never asked for whole again",
        SESSION,
        "time.monotonic() - known.asked_at > DESCRIBE_SECONDS",
        "False",
        "replication/test_borders.py::test_a_describe_is_asked_for_whole_once_an_hour",
    ),
    bug(
        "formulas: a field that is filled in old records counts as their refresh",
        REFRESH,
        "if whole and read else cursor.refreshed_at",
        "if read else cursor.refreshed_at",
        "replication/test_borders.py::test_filling_a_new_field_is_not_the_refresh",
    ),
    bug(
        "formulas: they are never read again",
        REFRESH,
        "    if cursor.refreshed_at is None or schema.at - cursor.refreshed_at >= interval:\n",
        "    if False:\n",
        "replication/test_refresh.py::test_formulas_are_read_again_on_schedule[rest]",
    ),
    bug(
        "formulas: a reading that was taken up counts for what changed meanwhile",
        REFRESH,
        "    if read is not None and read.resumed:\n        return False\n",
        "",
        "replication/test_parents.py::test_a_reading_of_columns_that_was_taken_up_is_not_enough[rest]",
    ),
    bug(
        "derived: another region changes nothing of what is stored",
        "sync/catalogue/derivation.py",
        'f"region {region}" if self.regional else "",',
        '"",',
        "postgres/test_derived.py::test_another_region_is_in_all_rows[rest]",
    ),
    bug(
        "derived: columns that are half computed keep their version",
        RECOMPUTE,
        "        versions.forget_derived(connection, name, outdated)\n",
        "",
        "postgres/test_derived.py::test_killed_and_set_back_it_is_undone",
    ),
    # ── records that depend on others ───────────────────────────────────────────────────────────────────
    bug(
        "dependants: a changed parent is not noted",
        APPLY,
        "        if announce and tally.written:\n",
        "        if False:\n",
        "replication/test_dependants.py::test_contacts_follow_their_account_at_once",
    ),
    bug(
        "dependants: a parent that changes again keeps its place in the queue",
        DEPENDANTS,
        "whole = p.whole OR excluded.whole, after_id = '', at = now()",
        "whole = p.whole OR excluded.whole, at = now()",
        "replication/test_parents.py::test_a_parent_that_changes_again_meanwhile",
    ),
    bug(
        "dependants: children of a merged record are left as they are",
        DEPENDANTS,
        "   AND (c.op = 'merge'\n        OR (",
        "   AND (false\n        OR (",
        "replication/test_parents.py::test_who_reports_to_a_merged_contact",
    ),
    # ── verify ──────────────────────────────────────────────────────────────────────────────────────────
    bug(
        "verify: nothing is listed from before the last one",
        VERIFY,
        "MARGIN = timedelta(hours=24)",
        "MARGIN = timedelta(0)",
        "replication/test_borders.py::test_a_verify_lists_what_changed_in_the_day_before_the_last[before0]",
    ),
    bug(
        "verify: buckets are never different",
        BUCKETS,
        "        elif in_org.get(start) != in_table.get(start):\n",
        "        elif False:\n",
        "replication/test_verify.py::test_only_buckets_that_differ_are_opened",
    ),
    bug(
        "verify: a record that does not fit is no difference",
        VERIFY,
        '        work.found.add(Difference(reject.id, "unfit", (reject.reason,)))\n',
        "        pass\n",
        "replication/test_honest_success.py::test_verify_names_what_does_not_fit",
    ),
    bug(
        "verify: rejected records are no differences",
        "sync/replication/verify/findings.py",
        "return self.different + self.rejected",
        "return self.different",
        "replication/test_honest_success.py::test_verify_never_says_equal[rest]",
    ),
    bug(
        "verify: its border moves although differences remain",
        VERIFY,
        "    if work.found.remaining == 0 and not work.found.too_many:\n",
        "    if True:\n",
        "replication/test_mutants.py::test_a_verify_that_leaves_differences_proves_nothing",
    ),
    bug(
        "verify: what is not listed is removed without a look-up",
        VERIFY,
        "[id_ for id_ in ids if id_ in unlisted and id_ not in present]",
        "[id_ for id_ in ids if id_ in unlisted]",
        "replication/test_mutants.py::test_a_record_that_only_the_listing_lacks_stays",
    ),
    bug(
        "verify: it ends with 0 although differences remain",
        CLI,
        '    if any((report.findings or {}).get("remaining") for report in reports):\n',
        "    if False:\n",
        "replication/test_verify.py::test_command",
    ),
    # ── consumers ───────────────────────────────────────────────────────────────────────────────────────
    bug(
        "consumers: everybody may call the functions",
        "migrations/rights.py",
        '    op.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA crm FROM PUBLIC")\n',
        "",
        "postgres/test_boundaries.py::test_every_function_is_granted_by_role",
    ),
    bug(
        "consumers: a function finds types of its caller",
        "migrations/versions/0007_honest_success.py",
        "LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp",
        "LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog",
        "postgres/test_boundaries.py::test_every_definer_function_has_a_safe_search_path",
    ),
    bug(
        "consumers: an object that was never complete is left out",
        "migrations/versions/0007_honest_success.py",
        "SELECT min(coalesce(k.complete_through, '-infinity'))",
        "SELECT min(k.complete_through)",
        "replication/test_honest_success.py::test_an_object_that_was_never_complete",
    ),
    bug(
        "consumers: a call has no bound",
        FEED_CONTRACT,
        "entries.max NOT BETWEEN 1 AND 10000",
        "entries.max < 1",
        "postgres/test_named_consumers.py::test_what_is_wrong_is_told",
    ),
    bug(
        "consumers: a grant gives more than one schema",
        "sync/operations/grants.py",
        '    "GRANT USAGE ON SCHEMA {schema} TO {role}",\n',
        '    "GRANT USAGE ON SCHEMA {schema}, sync TO {role}",\n',
        "postgres/test_boundaries.py::test_grant_and_revoke",
    ),
    bug(
        "database: our statements find functions of others",
        TABLES,
        'SEARCH_PATH = "SET LOCAL search_path = pg_catalog, pg_temp"',
        'SEARCH_PATH = "SET LOCAL search_path = public, pg_catalog, pg_temp"',
        "postgres/test_boundaries.py::test_every_transaction_begins_with_the_search_path",
    ),
    bug(
        "database: the isolation level is that of the database",
        TABLES,
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; ",
        "",
        "postgres/test_leases.py::test_another_isolation_level_by_default[serializable]",
    ),
    bug(
        "replica schema: another name than the remembered one is taken",
        "sync/postgres/replica_schema.py",
        "    if wanted is not None and wanted != name:\n",
        "    if False:\n",
        "postgres/test_replica_schema.py::test_check_names_another_name",
    ),
    # ── requests of consumers ───────────────────────────────────────────────────────────────────────────
    bug(
        "requests: a role has no limit",
        REQUESTS_CONTRACT,
        "    IF counted.requests > allowed.per_hour THEN\n",
        "    IF false THEN\n",
        "postgres/test_requests.py::test_a_role_has_so_many_an_hour",
    ),
    bug(
        "requests: a reading that has begun serves a later request",
        REQUESTS_CONTRACT,
        "r.number > coalesce((SELECT a.taken FROM sync.answer AS a WHERE a.record_id = full_id), 0)",
        "r.number > 0",
        "postgres/test_requests.py::test_a_request_that_waits_serves_others",
    ),
    bug(
        "requests: an old snapshot takes an answered request for a waiting one",
        REQUESTS_CONTRACT,
        "    IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN\n",
        "    IF true THEN\n",
        "postgres/test_requests.py::test_an_older_snapshot_joins_no_other",
    ),
    bug(
        "requests: the transaction of the request waits in vain",
        REQUESTS_CONTRACT,
        "        IF mine THEN\n",
        "        IF false THEN\n",
        "postgres/test_requests.py::test_the_transaction_of_the_request_does_not_wait[False]",
    ),
    bug(
        "requests: erased persons may be asked for",
        REQUESTS_CONTRACT,
        "ELSIF EXISTS (SELECT FROM sync.erased AS e WHERE e.record_id = full_id AND e.lifted_at IS NULL) THEN",
        "ELSIF false THEN",
        "postgres/test_requests.py::test_an_erased_person_is_refused",
    ),
    bug(
        "requests: one that was made while its record was read is answered, too",
        REQUESTED,
        " WHERE r.record_id = given.id AND r.number <= given.number\n",
        " WHERE r.record_id = given.id\n",
        "replication/test_requests.py::test_a_request_while_its_record_is_read_is_another",
    ),
    bug(
        "requests: older pages of the pass beside them stay",
        REQUESTS,
        "again=shared)",
        "again=False)",
        "replication/test_requests.py::test_a_pass_does_not_hold_it_up[bulk]",
    ),
    bug(
        "requests: a pass holds them up",
        REQUESTS,
        "    if held is not None:\n",
        "    if False:\n",
        "replication/test_requests.py::test_a_pass_does_not_hold_it_up[rest]",
    ),
    bug(
        "requests: fields that passes know since are lost",
        REQUESTS,
        "        return None if ledger.find_changes(connection, schema.projection) else schema\n",
        "        return schema\n",
        "replication/test_requests.py::test_a_request_is_one_call",
    ),
    bug(
        "requests: a first load is disturbed",
        REQUESTS,
        "    if not refresh.is_loaded(context, name):\n",
        "    if False:\n",
        "replication/test_requests.py::test_a_first_load_comes_first",
    ),
    bug(
        "requests: they use up the API budget",
        REQUESTS,
        "    pacing.check_work(context, calls.ON_DEMAND)\n",
        "",
        "replication/test_requests.py::test_the_budget_is_not_spent_on_requests",
    ),
    bug(
        "requests: a failure is tried again each second",
        REQUESTS,
        "        return time.monotonic() >= self.until.get(name, 0.0)\n",
        "        return True\n",
        "replication/test_requests.py::test_after_a_failure_it_waits_and_is_tried_again",
    ),
    # ── privacy ─────────────────────────────────────────────────────────────────────────────────────────
    bug(
        "privacy: an erased person comes back by a pass",
        PERSONAL,
        "    connection.execute(KEEP_OUT)\n",
        "",
        "operations/test_erasure.py::test_nothing_brings_an_erased_person_back[update]",
    ),
    bug(
        "privacy: an erased person comes back by a first load",
        LOAD,
        "\n    OR EXISTS (SELECT FROM sync.erased WHERE lifted_at IS NULL)\n",
        "\n",
        "operations/test_erasure.py::test_a_first_load_leaves_erased_persons_out",
    ),
    bug(
        "privacy: an erased person comes back as a rejected record",
        LOAD,
        'f"CAST(:run_id AS bigint) WHERE NOT {ERASED} "',
        '"CAST(:run_id AS bigint) WHERE true "',
        "operations/test_erasure.py::test_a_rejected_person_is_erased_and_stays_so",
    ),
    bug(
        "privacy: a deleted record keeps its values",
        LOAD,
        "        erase_values(connection, name, batch.ids, keep)\n",
        "",
        "replication/test_retention.py::test_values_erased_with_the_deletion[rest-deleted]",
    ),
    bug(
        "privacy: tombstones are never emptied",
        RETENTION,
        "count = personal.erase_due(connection, name, after, until)",
        "count = 0",
        "replication/test_retention.py::test_tombstones_keep_their_values_for_thirty_days",
    ),
    bug(
        "privacy: an empty tombstone is filled again",
        LOAD,
        "        erase_values(connection, name, emptied_ids, timedelta())\n",
        "",
        "replication/test_retention.py::test_an_empty_tombstone_stays_empty",
    ),
    bug(
        "privacy: stored values of an excluded field stay",
        RETENTION,
        "last, count = personal.reduce_fields(connection, name, columns, kept, values, last)",
        "last, count = None, 0",
        "replication/test_retention.py::test_excluded_fields_are_erased_and_never_asked_for[rest]",
    ),
    # ── secrets and answers ─────────────────────────────────────────────────────────────────────────────
    bug(
        "secrets: they are printed",
        "sync/logs/printable.py",
        "    _needles = build_needles(frozenset((*_secrets, *_tokens)))",
        "    _needles = Needles()",
        "logs/test_printable.py::test_every_form_of_a_secret_is_masked",
    ),
    bug(
        "secrets: what looks like a token is printed",
        "sync/logs/printable.py",
        "    yield from token_spans(text)\n",
        "",
        "logs/test_printable.py::test_what_looks_secret_is_masked",
    ),
    bug(
        "secrets: the access token is not known to the logs",
        CONNECTION,
        '        printable.hide_token(token.access.partition("!")[2] or token.access)\n',
        "",
        "replication/test_mutants.py::test_the_access_token_is_hidden",
    ),
    bug(
        "hosts: the token goes wherever the login says",
        LOGIN,
        "    if not may_receive_secrets(settings, host):\n",
        "    if False:\n",
        "salesforce/test_door.py::test_an_instance_that_is_not_salesforces[https://evil.example]",
    ),
    bug(
        "hosts: a name that ends like Salesforce's is trusted",
        HOSTS,
        'DOMAINS = (".salesforce.com",',
        'DOMAINS = ("salesforce.com",',
        "salesforce/test_door.py::test_where_it_may_not[https://evilsalesforce.com]",
    ),
    bug(
        "hosts: the secret follows a redirect",
        LOGIN,
        "        if redirected.status not in FOLLOWED_REDIRECTS or not may_receive_secrets(settings, redirected.host):\n",
        "        if redirected.status not in FOLLOWED_REDIRECTS:\n",
        "salesforce/test_door.py::test_the_secret_follows_no_redirect",
    ),
    bug(
        "hosts: a page may be anywhere on the instance",
        "sync/salesforce/session/addresses.py",
        '    if len(path) > LONGEST_PATH or not path.startswith(f"/services/data/v{version}/"):\n',
        "    if len(path) > LONGEST:\n",
        "salesforce/test_door.py::test_paths_of_nobody",
    ),
    bug(
        "TLS: certificates are not verified",
        HTTP,
        '"verify": True}',
        '"verify": False}',
        "salesforce/test_door.py::test_no_other_ca_behind_a_proxy",
    ),
    bug(
        "sizes: a body may have any",
        HTTP,
        "        while size <= most and (piece := response.raw.read(CHUNK, decode_content=True)):\n",
        "        while piece := response.raw.read(CHUNK, decode_content=True):\n",
        "replication/test_mutants.py::test_no_more_of_a_body_is_read_than_it_may_have",
    ),
    bug(
        "sizes: an answer that is too large is cut",
        HTTP,
        "        if not failed:\n            raise TooLargeError(",
        "        if False:\n            raise TooLargeError(",
        "salesforce/test_door.py::test_wide_pages_are_asked_for_smaller",
    ),
    bug(
        "session: a page is asked for with the token of another session",
        CONNECTION,
        "            if locator not in (None, generation):\n",
        "            if False:\n",
        "salesforce/test_session.py::test_locator_after_another_threads_relogin",
    ),
    bug(
        "session: a refused login is tried again at once",
        CONNECTION,
        "            raise self._refused.note(error) from None\n",
        "            raise\n",
        "salesforce/test_login_knowledge.py::test_a_refused_login_is_one_attempt",
    ),
    bug(
        "budget: the org's last requests are used up",
        BUDGET,
        "used < share * limit:",
        "True:",
        "replication/test_faults.py::test_budget_defers",
        "replication/test_call_plan.py::test_the_orgs_own_count_stops_everything",
    ),
    bug(
        "budget: passes are as frequent as ever",
        BUDGET,
        "    seconds = max(ceil(planned), grown.total_seconds(), usual.total_seconds())\n",
        "    seconds = usual.total_seconds()\n",
        "replication/test_call_plan.py::test_the_order_of_thinning",
        "replication/test_pacing.py::test_the_interval_of_the_worker",
    ),
    bug(
        "budget: passes are planned by what is spent alone",
        BUDGET,
        "max(ceil(planned), grown",
        "max(0, grown",
        "replication/test_call_plan.py::test_the_interval_is_planned_ahead",
    ),
    bug(
        "budget: passes that are to come are not planned for",
        BUDGET,
        " + spent.a_pass * ((DAY - spent.span) / LONGEST_INTERVAL)",
        "",
        "replication/test_call_plan.py::test_days_stay_within_the_allowance",
    ),
    bug(
        "budget: work stops and goes on at the same share",
        BUDGET,
        "least - RELAX if work in before else least",
        "least",
        "replication/test_call_plan.py::test_what_waits_goes_on_well_below",
    ),
    bug(
        "budget: verify waits before refresh",
        BUDGET,
        "{ON_DEMAND: 0.85, REFRESH: 0.9, VERIFY: 0.95}",
        "{ON_DEMAND: 0.85, REFRESH: 0.95, VERIFY: 0.9}",
        "replication/test_call_plan.py::test_the_order_of_thinning",
    ),
    bug(
        "budget: verify waits for ever",
        "sync/replication/budget/pacing.py",
        "now - last >= LONGEST_UNVERIFIED",
        "False",
        "replication/test_pacing.py::test_verify_waits_three_days_at_most",
    ),
    bug(
        "budget: a refresh does not wait",
        REFRESH,
        "if not names or not pacing.may_run(context, calls.REFRESH):",
        "if not names:",
        "replication/test_pacing.py::test_refresh_waits_and_the_pass_does_not",
    ),
    bug(
        "budget: a deferred verify counts as one",
        "sync/postgres/state/journal.py",
        " AND outcome <> 'deferred'",
        "",
        "replication/test_pacing.py::test_a_deferred_verify_is_no_verify",
    ),
    bug(
        "budget: calls of two days ago count",
        CALLS,
        "coalesce(finished_at, now()) > now() - interval '24 hours'",
        "coalesce(finished_at, now()) > now() - interval '48 hours'",
        "replication/test_pacing.py::test_what_counts_as_the_last_day",
    ),
    bug(
        "budget: a describe counts as a pass",
        SESSION,
        'with self.counting("describe"):',
        'with self.counting(""):',
        "replication/test_pacing.py::test_calls_are_told_apart",
    ),
    bug(
        "budget: a short refusal is told",
        INCIDENTS,
        "now - one.opened_at < kind.settles",
        "False",
        "operations/test_alerts.py::test_a_budget_that_is_used_up_for_seconds_is_not_told",
    ),
    bug(
        "requests: any number at once",
        SLOTS,
        "            if self._free:\n                self._free -= 1\n                return\n",
        "            return\n",
        "salesforce/test_slots.py::test_never_more_at_once",
        "salesforce/test_slots.py::test_a_session_sends_no_more_at_once",
    ),
    bug(
        "requests: a work waits for its own streams",
        SLOTS,
        "borrowed = not stream and self._streams[work] > 0",
        "borrowed = False",
        "salesforce/test_slots.py::test_a_work_does_not_wait_for_its_own_streams",
    ),
    bug(
        "requests: a stop does not end the waiting",
        SLOTS,
        "            if self.stop.is_set():\n",
        "            if False:\n",
        "salesforce/test_slots.py::test_a_stop_ends_the_waiting",
    ),
    bug(
        "requests: a busy org is asked as often as any",
        "sync/salesforce/session/retry.py",
        "(patient if is_busy(error) else usual)(state)",
        "usual(state)",
        "salesforce/test_slots.py::test_a_busy_org_is_given_growing_pauses",
    ),
    # ── unattended ──────────────────────────────────────────────────────────────────────────────────────
    bug(
        "watchdog: there is none",
        SCHEDULE,
        "if stuck := dead or pulse.silent_jobs(WATCHDOG_SECONDS):",
        "if stuck := list[str]():",
        "operations/test_watchdog.py::test_a_job_that_hangs_ends_the_process",
    ),
    bug(
        "watchdog: idle jobs are killed",
        SCHEDULE,
        "            pulse.rest(name)\n",
        "            pass\n",
        "operations/test_watchdog.py::test_idle_jobs_are_left_alone",
    ),
    bug(
        "watchdog: a long statement is taken for a hang",
        "sync/replication/verify/work.py",
        "        activity.report(3 * STATEMENT_SECONDS)\n",
        "",
        "operations/test_watchdog.py::test_what_verify_asks_of_whole_tables_has_an_allowance",
    ),
    bug(
        "pipeline: one failed object stops the others",
        "sync/replication/runs.py",
        "                failures.append((name, failure))\n            except Exception as failure:\n",
        "                raise\n            except Exception as failure:\n",
        "replication/test_faults.py::test_one_failing_object_does_not_stop_the_other",
    ),
    bug(
        "pipeline: a failed pass stops refresh and verify",
        "sync/replication/runs.py",
        "        except SyncError as failure:\n            self.failures.append((kind, failure))\n",
        "        except SyncError as failure:\n            self.failures.append((kind, failure))\n            raise\n",
        "replication/test_reread.py::test_a_failed_pass_stops_neither_refresh_nor_verify",
    ),
    bug(
        "status: it ends with 0, whatever it says",
        CLI,
        "    if found.stale:\n        raise typer.Exit(1)\n",
        "",
        "cli/test_commands.py::test_status_exits_by_lag",
    ),
    bug(
        "status: an object that was never complete is not stale",
        REPORT,
        "if f.lag is None or f.lag > max_lag)",
        "if f.lag is not None and f.lag > max_lag)",
        "operations/test_report.py::test_object_without_a_cursor_is_not_loaded",
    ),
    bug(
        "status: it says OK while records are missing",
        REPORT,
        'python -m sync rejects --object {name}",\n                True,\n',
        'python -m sync rejects --object {name}",\n                False,\n',
        "replication/test_honest_success.py::test_status_is_not_ok_while_records_are_missing",
    ),
    bug(
        "alerts: a message at each evaluation",
        INCIDENTS,
        "    return one.last_told_at is None or now - one.last_told_at >= QUIET\n",
        "    return True\n",
        "operations/test_alerts.py::test_once_and_again_when_it_is_over",
    ),
    bug(
        "alerts: the end of an incident is not told",
        INCIDENTS,
        'if one.told == state or (one.told is None and state == "over"):',
        'if one.told is not None or state == "over":',
        "operations/test_alerts.py::test_once_and_again_when_it_is_over",
    ),
    bug(
        "alerts: a restart tells again",
        KEEPER,
        "                    incidents.note_told(connection, stored)\n",
        "                    pass\n",
        "operations/test_alerts.py::test_restarts_neither_repeat_nor_forget",
    ),
    bug(
        "alerts: two workers tell the same",
        KEEPER,
        "        return [one for one in due if one.id is None or one.id in mine]\n",
        "        return due\n",
        "operations/test_alerts.py::test_of_two_workers_one_tells",
    ),
    bug(
        "alerts: what the database does not take is forgotten",
        KEEPER,
        "            self.unsaved |= waiting\n",
        "",
        "operations/test_alerts.py::test_what_nobody_was_told_is_kept_in_memory",
    ),
    bug(
        "alerts: a message that nobody took counts as told",
        KEEPER,
        "        if len(refused) == len(outcomes):\n",
        "        if len(refused) > len(outcomes):\n",
        "operations/test_alerts.py::test_a_dead_service_is_tried_again_with_pauses",
    ),
    bug(
        "alerts: the sending process is not limited in time",
        DELIVERY,
        "            if stop.is_set() or time.monotonic() >= ends:\n",
        "            if stop.is_set():\n",
        "operations/test_delivery.py::test_the_process_is_limited_in_time",
    ),
    bug(
        "alerts: a stop waits for a service that does not answer",
        DELIVERY,
        "            if stop.is_set() or time.monotonic() >= ends:\n",
        "            if time.monotonic() >= ends:\n",
        "operations/test_delivery.py::test_a_dead_service_holds_up_nothing",
    ),
    bug(
        "alerts: TLS is not verified where a URL says so",
        SEND,
        "    if not server.verify_certificate:\n",
        "    if server.verify_certificate is None:\n",
        "operations/test_delivery.py::test_each_url_has_its_outcome",
    ),
    bug(
        "alerts: a ping after the pass of one object",
        KEEPER,
        "not self.passed.issuperset(self.objects)",
        "not self.passed",
        "operations/test_alerts.py::test_the_heartbeat_follows_complete_passes",
    ),
)
