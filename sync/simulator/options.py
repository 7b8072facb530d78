"""Standing switches of the simulated org; each may be set at any time while the server runs."""

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(slots=True)  # a misspelt switch is an error, not a silent new attribute
class Options:
    """How the org behaves when no fault is due; where its way is only believed, the belief is the default."""

    # --- pages and locators
    page_sizes: int | list[int] | None = None  # rows per page, a list is cycled; None: 2,000 or batchSize
    values_live: bool = True  # pages read values when served; False: values as of the first page
    pages_live: bool = False  # each page selects anew: a row that changes shifts those behind it
    shuffle_unordered: bool = False  # queries without ORDER BY answer in an arbitrary (stable) order
    locator_bound_to_session: bool = True
    locator_ttl: float = 2 * 86400.0  # seconds
    locator_refusal: str = "INVALID_SESSION_ID"  # to another session; or INVALID_QUERY_LOCATOR

    # --- what a query may be
    longest_uri: int = 16_384  # bytes, with the headers too: Salesforce's own; proxies may take less
    formulas_max: int | None = None  # selected calculated fields; of more QUERY_TOO_COMPLICATED
    refused_fields: tuple[str, ...] = ()  # "Contact.X__c": described, and refused by every query
    ordered_time_out: bool = False  # each query with ORDER BY ends as QUERY_TIMEOUT, as in a very large org

    # --- Composite
    composite: bool = True  # False: the resource is refused
    composite_refusal: str = "NOT_FOUND"  # with 404; another code, such as API_DISABLED_FOR_ORG, with 403
    composite_pause: float = 0.0  # seconds between two subrequests

    # --- Bulk API 2.0 queries
    bulk_polls: int = 0  # so many GETs of a job find it unfinished; it is processed after the first of them
    bulk_seconds: float = 0.0  # a job is in progress for so long, by the machine's clock
    bulk_page_sizes: int | list[int] | None = (
        None  # rows per page if maxRecords is not less; a list is cycled
    )
    bulk_order: str = "chunks"  # of rows without ORDER BY: chunks in disorder, shuffled, or id
    bulk_charset: bool = True  # False: text/csv without its charset
    bulk_encoding: str = "UTF-8"  # of results; ISO-8859-1 in older orgs
    bulk_unsupported: tuple[str, ...] = ()  # objects that are "not supported by the Bulk API"
    bulk_jobs_max: int = 10_000  # in 24 hours
    bulk_jobs_used: int = 0  # by others
    bulk_storage_max_kb: int = 1_000_000_000  # of results in 24 hours
    bulk_storage_used_kb: int = 0  # by others
    job_ttl: float = 7 * 86400.0  # seconds a job and its results live once it has ended

    not_in_keeps_nulls: bool = True  # NOT IN selects nulls, as != does; False: it leaves them out

    # --- transport
    gzip: bool = True  # compress when the client accepts it
    chunked: bool = True  # False: Content-Length
    cookies: bool = True
    latency: float = 0.0  # seconds added to every call

    # --- sessions
    token_ttl: float = 7200.0  # seconds of inactivity
    token_format: str = "opaque"  # noqa: S105  a format's name: opaque or jwt
    login_limit: int = 3600  # logins per hour
    run_as_user: bool = True  # False: "no client credentials user enabled"
    security_token_required: bool = True
    user_active: bool = True
    refresh_rotation: bool = False

    # --- limits
    send_limit_info: bool = True
    per_app_info: str | None = None  # such as "17/250(appName=x)", for a metered app
    limit_max: int = 100_000
    limit_used: int = 0  # used by others; our own calls are added
    enforce_limit: bool = False  # answer "TotalRequests Limit exceeded." at the maximum
    limits_resource: bool = True  # False: the user lacks View Setup and Configuration

    # --- replication calls
    latest_date_covered_lag: float = 0.0  # seconds behind min(end, now)
    delete_log_lag: float | None = None  # the same of getDeleted, if it is another one
    undeleted_stay_listed: bool = True  # getDeleted keeps naming a record that was undeleted since
    replication_enabled_at: datetime | None = None

    # --- the integration user
    view_all: bool = True  # False: View All is granted on no object; records are shown all the same

    # --- records and schema
    undelete_bumps: bool = True
    person_accounts: bool = False
    state_country_picklists: bool = False
    recent_fields: bool = True  # standard fields that came with the releases of 2022 to 2024
    exponent_numbers: bool = False  # 4.0E8 for large numbers, as Java prints them
    plain_numbers: bool = False  # 400 rather than 400.0
    api_versions: tuple[int, int] = field(default=(31, 67))
