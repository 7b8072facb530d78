"""The simulator as tests and the demo hold it: an org, its clock, its faults, and the HTTPS server."""

import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from sync.simulator.app import App
from sync.simulator.clock import Clock
from sync.simulator.control import Guard
from sync.simulator.describes import load_describes
from sync.simulator.faults.active import Faults
from sync.simulator.generate import customers, described
from sync.simulator.oauth import OAuth
from sync.simulator.options import Options
from sync.simulator.org import Org
from sync.simulator.sessions import Credentials, Sessions
from sync.simulator.transport import Server, certificates
from sync.simulator.wire import Request

FLOWS = ("client_credentials", "jwt", "password")


class Simulator:
    """A local Salesforce over HTTPS; a context manager that cleans up after itself.

    ``accounts`` and ``contacts`` are generated, the same for the same ``seed``; port 0 takes a free one.
    ``describes`` are files or bodies of ``sobjects/X/describe``: the org has these objects, too, and those
    whose describes the catalogue keeps. ``others`` says how many records of which of them are generated;
    without it there is one to five contacts. Raises DescribeError for a describe that cannot be served.
    The credentials are new with each simulator, unless ``credentials_seed`` is given, and the key of the JWT
    flow with each process.
    """

    def __init__(
        self,
        accounts: int = 0,
        contacts: int = 0,
        seed: int = 1,
        port: int = 0,
        options: Options | None = None,
        credentials_seed: int | None = None,
        describes: Iterable[Path | str | Mapping[str, Any]] = (),
        others: Mapping[str, int] | None = None,
    ) -> None:
        self.clock = Clock()
        self.options = options if options is not None else Options()
        self.faults = Faults()
        with ExitStack() as cleanup:  # whatever fails from here on, nothing stays behind
            folder = tempfile.TemporaryDirectory(prefix="salesforce-simulator-")
            self._folder = Path(cleanup.enter_context(folder))
            self._server = Server(port)
            cleanup.callback(self._server.stop)
            objects = load_describes(describes)
            self.org = Org(self._folder / "org.sqlite", self.clock, self.options, seed, objects)
            cleanup.callback(self.org.close)
            customers.populate(self.org, accounts, contacts, seed)
            described.populate(self.org, others or {}, contacts, seed)
            self.org.create_indexes()
            self._cleanup = cleanup.pop_all()
        self.url = f"https://localhost:{self._server.port}"
        self.login_url = f"https://127.0.0.1:{self._server.port}"
        self._sessions = Sessions(
            self.clock, self.options, self.org.organization_id, self.org.user_id, credentials_seed
        )
        self.control_token = secrets.token_urlsafe(24)  # for requests to /simulator, in X-Simulator-Token
        oauth = OAuth(self._sessions, self.options, self.clock, self.url, self.login_url)
        guard = Guard(self._server.port, self.control_token)
        self._app = App(self.org, self._sessions, oauth, self.org.queries, self.faults, guard)

    def __enter__(self) -> "Simulator":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the certificates and serve."""
        authority, server_file = certificates(self._folder)
        self.ca_file = str(authority)
        self._server.start(self._app, server_file)

    def stop(self) -> None:
        """Stop serving and remove the temporary files."""
        self._server.stop()  # first: nobody may be reading when the rest goes
        self._cleanup.close()

    @property
    def credentials(self) -> Credentials:
        return self._sessions.credentials

    @property
    def requests(self) -> list[Request]:
        """The calls so far, in order; the list may be cleared."""
        return self._app.requests

    @property
    def api_calls(self) -> int:
        """How many calls counted against the org's daily limit."""
        return self._app.api_calls

    def before_subrequest(self, act: Callable[[Request], None] | None) -> None:
        """Call a function with the entry of each subrequest of a composite call before it is answered.

        What the function commits is there for that subrequest and those after it; None ends this.
        """
        self._app.before_subrequest = act

    @property
    def errors(self) -> list[str]:
        """Tracebacks of the simulator's own failures; always empty, one hopes."""
        return self._app.errors

    def environment(self, flow: str = "client_credentials") -> dict[str, str]:
        """The settings with which a client logs in by one of the flows."""
        known = self.credentials
        common = {
            "SALESFORCE_CLIENT_ID": known.client_id,
            "SALESFORCE_PRIVATE_HOSTS": "localhost",
            "REQUESTS_CA_BUNDLE": self.ca_file,
        }
        if flow == "client_credentials":
            return {
                "SALESFORCE_LOGIN_URL": self.url,
                **common,
                "SALESFORCE_CLIENT_SECRET": known.client_secret,
            }
        if flow == "jwt":
            return {
                "SALESFORCE_LOGIN_URL": self.login_url,
                **common,
                "SALESFORCE_USERNAME": known.username,
                "SALESFORCE_PRIVATE_KEY": known.private_key_pem,
            }
        if flow == "password":
            return {
                "SALESFORCE_LOGIN_URL": self.login_url,
                **common,
                "SALESFORCE_CLIENT_SECRET": known.client_secret,
                "SALESFORCE_USERNAME": known.username,
                "SALESFORCE_PASSWORD": known.password,
                "SALESFORCE_SECURITY_TOKEN": known.security_token,
            }
        raise ValueError(f"no login flow {flow!r}; there are {', '.join(FLOWS)}")

    def revoke_tokens(self) -> None:
        """End every session now."""
        self._sessions.revoke_all()
