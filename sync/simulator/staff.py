"""The users of a fresh org, the integration user first, and the org's own record."""

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
ORGANIZATION: dict[str, Any] = {
    "Name": "Simulator",
    "IsSandbox": False,
    "OrganizationType": "Developer Edition",
    "InstanceName": "SIM0",
    "LanguageLocaleKey": "en_US",
    "TimeZoneSidKey": "Europe/Berlin",
}
