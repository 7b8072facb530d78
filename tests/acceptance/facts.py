"""What the product believes about Salesforce, as data: an id, what is believed, and what the belief rests on."""

from __future__ import annotations

from dataclasses import dataclass

# What a belief rests on before the run: the documentation, a recording of a real org, the practice of other
# connectors, or nothing that was read.
SOURCES = {"D": "documented", "R": "recorded", "P": "practice", "B": "believed"}


@dataclass(frozen=True, slots=True)
class Fact:
    """One belief; `source` is a key of SOURCES."""

    id: str
    source: str
    text: str


FACTS: tuple[Fact, ...] = (
    # ── login ──
    Fact(
        "A.2.1",
        "R",
        "A token answer names `access_token`, `instance_url`, `id`, `issued_at` and `token_type`",
    ),
    Fact(
        "A.2.2", "R", "A token answer has no `expires_in`, and `issued_at` is text: milliseconds since 1970"
    ),
    Fact("A.3.1", "D", "The client-credentials flow works at the login URL"),
    Fact("A.3.2", "D", "The client-credentials flow returns no refresh token"),
    Fact("A.4.1", "D", "The JWT bearer flow works at the login URL"),
    Fact("A.5.1", "D", "The username-password flow works at the login URL"),
    Fact("A.9.1", "R", "An unknown token answers 401 with a list that names INVALID_SESSION_ID"),
    Fact("A.9.2", "R", "An unknown scheme of Authorization answers 401 with INVALID_AUTH_HEADER"),
    Fact("A.10.1", "R", "userinfo names `organization_id`, which begins with 00D"),
    Fact("A.10.2", "R", "userinfo refuses an unknown token with 403 and text that is not JSON"),
    # ── the service ──
    Fact("B.1.1", "D", "`/services/data/` needs no login and lists the versions in ascending order"),
    Fact("B.1.2", "B", "A version of the future answers 404 with NOT_FOUND"),
    Fact("B.1.3", "D", "The pinned version is served"),
    Fact("B.2.1", "B", "Every answer of the data API carries Date"),
    Fact("B.2.2", "D", "Every answer of the data API carries `Sforce-Limit-Info: api-usage=n/m`"),
    Fact("B.2.3", "D", "Answers are compressed for `Accept-Encoding: gzip`"),
    # ── queries ──
    Fact("B.3.1", "R", "A page names `totalSize`, `done` and `records`; a record begins with `attributes`"),
    Fact("B.3.2", "R", "Ids have 18 characters, the last three a checksum of the case of the others"),
    Fact(
        "B.3.3", "R", "Date and time come as `2011-07-07T00:37:00.000+0000`, system stamps in whole seconds"
    ),
    Fact("B.3.4", "R", "A selected field without a value comes as null"),
    Fact("B.3.5", "B", "An empty text is stored as null"),
    Fact("B.3.6", "R", "`SELECT COUNT()` gives `totalSize` and no records"),
    Fact("B.3.7", "D", "Date and time are compared with literals such as `2024-01-01T00:00:00Z`"),
    Fact("B.3.8", "D", "The keyset condition `SystemModstamp > t OR (SystemModstamp = t AND Id > x)` works"),
    Fact("B.3.9", "D", "Ids are compared in the byte order of their characters"),
    Fact("B.3.10", "D", "queryAll shows records in the recycle bin, with `IsDeleted` true"),
    Fact("B.3.11", "R", "Text keeps quotes, lines and characters outside the basic plane"),
    Fact(
        "B.3.12",
        "D",
        "`GROUP BY CALENDAR_YEAR(SystemModstamp), CALENDAR_MONTH(SystemModstamp)` works, in UTC",
    ),
    Fact("B.3.13", "D", "`GROUP BY DAY_ONLY(SystemModstamp)` works, in UTC"),
    Fact("B.3.14", "D", "`GROUP BY DAY_ONLY(SystemModstamp), HOUR_IN_DAY(SystemModstamp)` works, in UTC"),
    Fact("B.4.1", "D", "`Sforce-Query-Options: batchSize=200` limits a page to 200 records"),
    Fact("B.4.2", "R", "`totalSize` is the same on every page"),
    Fact("B.4.3", "D", "`nextRecordsUrl` is a path of the version that was asked"),
    Fact("B.5.1", "B", "The same page can be requested again"),
    Fact("B.5.2", "P", "A page of one session is refused in another session of the same user"),
    Fact("B.5.3", "R", "An unknown locator answers 400 with INVALID_QUERY_LOCATOR or another locator code"),
    Fact("B.5.4", "D", "A locator lives for two days"),
    # ── describe ──
    Fact("B.6.1", "R", "A described field has the keys that the product reads"),
    Fact("B.6.2", "R", "A describe carries Last-Modified"),
    Fact("B.6.3", "D", "A describe with If-Modified-Since answers 304 without a body when nothing changed"),
    Fact("B.6.4", "R", "Address fields have the type `address`; `Name` of Contact is text"),
    # ── replication calls ──
    Fact("B.7.1", "R", "getUpdated names `ids` and `latestDateCovered`"),
    Fact("B.7.2", "R", "getDeleted names `deletedRecords`, `earliestDateAvailable` and `latestDateCovered`"),
    Fact("B.7.3", "D", "getUpdated takes a window of one minute"),
    Fact("B.7.4", "D", "An empty window answers 400 with INVALID_REPLICATION_DATE"),
    Fact(
        "B.7.5", "R", "A window that begins more than 30 days ago answers 400 with INVALID_REPLICATION_DATE"
    ),
    Fact("B.7.6", "D", "`latestDateCovered` is never later than the end of the window"),
    Fact("B.7.7", "D", "getUpdated lists a created record once it is covered"),
    Fact("B.7.8", "D", "getUpdated does not list a deleted record"),
    Fact("B.7.9", "D", "getDeleted lists a deleted record, with the time of the deletion"),
    Fact("B.7.10", "D", "getDeleted lists a record that was deleted with its parent"),
    Fact("B.7.11", "D", "getDeleted knows the deletions of the last 15 days"),
    # ── stamps and deletes ──
    Fact("B.8.1", "D", "`SystemModstamp` is never earlier than `LastModifiedDate`"),
    Fact("B.8.2", "B", "`SystemModstamp` follows the clock of the Date header"),
    Fact("B.8.3", "D", "An edit and a change of the parent move `SystemModstamp`"),
    Fact("B.8.4", "P", "A delete sets `IsDeleted` and moves `SystemModstamp`"),
    Fact("B.8.5", "D", "Deleting an account deletes its contacts"),
    Fact("B.8.6", "D", "A merge sets `IsDeleted` and `MasterRecordId` of the loser"),
    Fact("B.8.7", "B", "Undeleting moves `SystemModstamp`"),
    Fact("B.8.8", "P", "Calculated fields change without moving `SystemModstamp`"),
    # ── limits ──
    Fact("B.9.1", "D", "`/limits` names `DailyApiRequests` with Max and Remaining"),
    Fact("B.9.2", "D", "`/limits` names `DailyBulkV2QueryJobs` with Max and Remaining"),
    # ── Composite ──
    Fact(
        "B.10.1", "D", "Composite answers 200; each result has a body, headers, a status and its referenceId"
    ),
    Fact("B.10.2", "D", "A Composite call counts as one API call"),
    Fact(
        "B.10.3", "D", "Composite takes getUpdated, getDeleted and queryAll, with the answers they give alone"
    ),
    Fact("B.10.4", "B", "A result carries no Date"),
    Fact("B.10.5", "B", "The Composite answer carries Date and Sforce-Limit-Info"),
    Fact(
        "B.10.6", "R", "A failed subrequest has its own status and an error list; the outer status stays 200"
    ),
    Fact("B.10.7", "D", "A subrequest obeys its own Sforce-Query-Options"),
    Fact("B.10.8", "D", "A subrequest with Accept, Authorization or Content-Type is refused with 400"),
    Fact("B.10.9", "D", "More than 25 subrequests, or more than five queries, are refused with 400"),
    Fact("B.10.10", "D", "A conditional describe inside Composite answers 304 with a null body"),
    Fact("B.10.11", "D", "Subrequests run in their order"),
    # ── errors ──
    Fact("C.1", "R", "An unknown field answers 400 with INVALID_FIELD in a list"),
    Fact("C.2", "R", "An unknown object answers 400 with INVALID_TYPE in a query, 404 in its describe"),
    Fact("C.3", "R", "A malformed query answers 400 with MALFORMED_QUERY"),
    Fact("C.4", "D", "A URI of more than 16,384 bytes answers 414 or 431"),
    # ── Bulk API 2.0 ──
    Fact(
        "D.1.1",
        "D",
        "A new query job answers 200 with an Id that begins with 750 and the state UploadComplete",
    ),
    Fact("D.1.2", "D", "A job ends as JobComplete and tells `numberRecordsProcessed`"),
    Fact("D.1.3", "D", "`resultPages` lists the pages of a job's results"),
    Fact("D.1.4", "D", "Deleting an ended job answers 204"),
    Fact("D.2.1", "D", "Every page of results begins with the header row"),
    Fact(
        "D.2.2",
        "D",
        "Sforce-NumberOfRecords counts a page; Sforce-Locator is the text `null` on the last one",
    ),
    Fact("D.2.3", "D", "The same page of results can be requested again"),
    Fact("D.2.4", "D", "Results requested by another API version answer 409"),
    Fact("D.2.5", "D", "`maxRecords` limits a page"),
    Fact("D.2.6", "D", "Columns come in the order of the SELECT"),
    Fact("D.2.7", "P", "Results are text/csv, with the charset UTF-8 or without one"),
    Fact("D.3.1", "P", "Every value is quoted, null is empty"),
    Fact("D.3.2", "P", "Date and time come as `2024-09-24T03:26:07.000Z`, booleans as `true` and `false`"),
    Fact("D.3.3", "D", "Text keeps quotes, lines and characters outside the basic plane"),
    Fact("D.4.1", "R", "A query of a compound field is refused with 400"),
    Fact("D.5.1", "D", "Job results are kept for seven days"),
)
