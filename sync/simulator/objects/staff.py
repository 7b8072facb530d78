"""The users of a fresh org, the integration user first and what it may see, and the org's own record."""

from typing import Any

USERNAME = "integration@simulator.example"
USERS: tuple[dict[str, Any], ...] = tuple(
    {
        "FirstName": first,
        "LastName": last,
        "Username": f"{account}@simulator.example",
        "Email": f"{account}@simulator.example",
        "IsActive": True,
    }
    for first, last, account in (
        ("Integration", "User", "integration"),
        ("Ada", "Okonkwo", "ada"),
        ("Jürgen", "Weiß", "juergen"),
        ("Mei", "Tanaka", "mei"),
    )
)
PERMISSION_SET: dict[str, Any] = {"Name": "Integration", "Label": "Integration"}
PERMITTED = ("Account", "Contact")  # what the integration user may read, beside objects from a describe
ORGANIZATION: dict[str, Any] = {
    "Name": "Simulator",
    "IsSandbox": False,
    "OrganizationType": "Developer Edition",
    "InstanceName": "SIM0",
    "LanguageLocaleKey": "en_US",
    "TimeZoneSidKey": "Europe/Berlin",
}
