"""Plausible customers by the million, the same for the same seed, hard values among them.

Rows go to the store directly, in stored form: checking every value again would take most of the time.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sync.simulator import values
from sync.simulator.generate import hard
from sync.simulator.generate.places import DEPARTMENTS, PLACES, STEMS, TITLES, WEBSITES, Place
from sync.simulator.objects import standard
from sync.simulator.objects.schema import SObject
from sync.simulator.org import AGE, Org
from sync.simulator.rows import CREATED_MODIFIED_STAMPED, computed_name, encode

HARD_EVERY = 97  # after the first records, which are all hard, every so many is
BULK_EVERY, BULK_SIZE = 2000, 200  # data loads: that many neighbours share one stamp
_WHO = ("OwnerId", "CreatedById", "LastModifiedById")
_ACCOUNT = [
    "Id",
    "Name",
    "PhotoUrl",
    "BillingStreet",
    "BillingCity",
    "BillingState",
    "BillingPostalCode",
    "BillingCountry",
    "BillingLatitude",
    "BillingLongitude",
    "BillingGeocodeAccuracy",
    "Phone",
    "Fax",
    "Website",
    "Type",
    "Industry",
    "Rating",
    "Ownership",
    "AccountSource",
    "AccountNumber",
    "AnnualRevenue",
    "NumberOfEmployees",
    "ParentId",
    "Description",
    "ERP_Number__c",
    "Segment__c",
    "Channels__c",
    "Credit_Limit__c",
    "Discount__c",
    "Ledger_Number__c",
    "Score__c",
    "Customer_Since__c",
    "Last_Order__c",
    "Key_Account__c",
]
_CONTACT = [
    "Id",
    "Name",
    "FirstName",
    "LastName",
    "PhotoUrl",
    "Salutation",
    "AccountId",
    "MailingStreet",
    "MailingCity",
    "MailingState",
    "MailingPostalCode",
    "MailingCountry",
    "Phone",
    "MobilePhone",
    "Email",
    "Title",
    "Department",
    "LeadSource",
    "Birthdate",
    "ReportsToId",
    "Description",
    "HasOptedOutOfEmail",
    "DoNotCall",
    "Tier__c",
    "Interests__c",
    "Spend__c",
    "Margin__c",
    "Loyalty_Number__c",
    "Rating_Value__c",
    "Member_Since__c",
    "Last_Visit__c",
    "VIP__c",
    "Referred_By__c",
]


def populate(org: Org, accounts: int, contacts: int, seed: int) -> None:
    """Fill a fresh org with accounts and contacts."""
    account, contact = org.schema.objects["Account"], org.schema.objects["Contact"]
    if accounts or contacts:
        account_ids = [org.next_id("Account") for _ in range(accounts)]
        contact_ids = [org.next_id("Contact") for _ in range(contacts)]
        maker = _Maker(org, seed, account_ids, contact_ids)
        maker.write(account, _ACCOUNT, account_ids, maker.account, hard.ACCOUNTS)
        maker.write(contact, _CONTACT, contact_ids, maker.contact, hard.CONTACTS)


class Times:
    """Moments of creation and change between the org's beginning and yesterday, mostly recent ones."""

    def __init__(self, now: datetime) -> None:
        self.first = values.seconds(now - AGE) + 86400
        self.last = values.seconds(now - timedelta(days=1))
        self._times = (self.first,) * 3

    def next(self, draw: random.Random, number: int) -> tuple[int, int, int]:
        """Created, modified and stamped of the number-th record; those of one data load share them."""
        if 0 < number % BULK_EVERY < BULK_SIZE:
            return self._times
        created = self.first + int((self.last - self.first) * draw.random())
        modified = created + int((self.last - created) * draw.random() ** 0.5)
        lead = draw.random()  # Salesforce's own jobs move SystemModstamp alone
        stamped = modified if lead < 0.8 else min(self.last, modified + int(86400 * 30 * lead))
        self._times = (created, modified, stamped)
        return self._times


class _Maker:
    """Draws rows; every object has its own stream of random numbers."""

    def __init__(self, org: Org, seed: int, accounts: Sequence[str], contacts: Sequence[str]) -> None:
        self._org = org
        self._seed = seed
        self._accounts = accounts
        self._contacts = contacts
        self._now = org.clock.now()
        span = Times(self._now)
        self._first, self._last = span.first, span.last
        self._cities = [(place, *city) for place in PLACES for city in place.cities]

    def write(
        self,
        sobject: SObject,
        names: Sequence[str],
        record_ids: Sequence[str],
        make: Callable[[random.Random, int, str], list[Any]],
        overlays: Sequence[dict[str, Any]],
    ) -> None:
        flags = [field.name for field in sobject.fields.values() if field.type == "boolean"]
        # Hard values may lie on columns that ordinary rows leave empty.
        extra = sorted(
            {name for overlay in overlays for name in overlay} | {*flags, *CREATED_MODIFIED_STAMPED, *_WHO}
        )
        columns = [*names, *(name for name in extra if name not in names)]
        place = {name: at for at, name in enumerate(columns)}
        stored = [self._encoded(sobject, overlay) for overlay in overlays]
        blanks = [0 if name in flags else None for name in columns[len(names) :]]
        stamps = [place[name] for name in CREATED_MODIFIED_STAMPED]
        who = [place[name] for name in _WHO]

        def rows() -> Iterator[list[Any]]:
            draw = random.Random(f"{sobject.name} {self._seed}")
            staff = self._org.staff
            times = Times(self._now)
            for number, record_id in enumerate(record_ids):
                row = make(draw, number, record_id) + blanks
                for at, moment in zip(stamps, times.next(draw, number), strict=True):
                    row[at] = moment
                for at in who:
                    row[at] = staff[int(draw.random() * len(staff))]
                if number < len(stored) or number % HARD_EVERY == 0:
                    overlay = stored[number if number < len(stored) else number // HARD_EVERY % len(stored)]
                    for name, value in overlay.items():
                        row[place[name]] = value
                yield row

        self._org.store.insert(sobject, columns, rows())

    def _encoded(self, sobject: SObject, overlay: dict[str, Any]) -> dict[str, Any]:
        encoded = encode(sobject, overlay)
        if sobject.name == "Contact":
            encoded.setdefault("FirstName", "Ann")
        return encoded | computed_name(sobject, encoded)

    def account(self, draw: random.Random, number: int, record_id: str) -> list[Any]:
        chance = draw.random
        place, city, state, postal, latitude, longitude = pick(draw, self._cities)
        stem = pick(draw, place.last_names) if chance() < 0.6 else pick(draw, STEMS)
        domain = f"{_ascii(stem)}{number % 10_000}.example.{place.domain}"
        located = chance() < 0.4
        parent = self._accounts[int(chance() * number)] if number and chance() < 0.1 else None
        return [
            record_id,
            f"{pick(draw, place.companies).format(stem)} {number}",
            f"/services/images/photo/{record_id}",
            _digits(draw, pick(draw, place.streets)),
            city,
            state,
            _digits(draw, postal),
            place.country,
            _scaled_degrees(latitude, chance()) if located else None,
            _scaled_degrees(longitude, chance()) if located else None,
            "Address" if located else None,
            _digits(draw, pick(draw, place.phones)) if chance() < 0.9 else None,
            _digits(draw, pick(draw, place.phones)) if chance() < 0.2 else None,
            pick(draw, WEBSITES).format(domain) if chance() < 0.8 else None,
            pick(draw, standard.ACCOUNT_TYPES),
            pick(draw, standard.INDUSTRIES),
            pick(draw, standard.RATINGS) if chance() < 0.5 else None,
            pick(draw, standard.OWNERSHIPS) if chance() < 0.5 else None,
            pick(draw, standard.SOURCES) if chance() < 0.5 else None,
            f"{number:08}",
            int(10 ** (4 + 6 * chance())) if chance() < 0.7 else None,
            int(10 ** (5 * chance())) if chance() < 0.7 else None,
            parent,
            f"{stem} of {city}, customer number {number}." if chance() < 0.3 else None,
            f"E-{number:07}",
            pick(draw, ("Enterprise", "Mid-Market", "SMB")),
            pick(draw, (None, "Online", "Online;Retail", "Retail;Wholesale;Partner")),
            int(10 ** (2 + 7 * chance())) if chance() < 0.6 else None,
            int(4000 * chance()) if chance() < 0.4 else None,
            int(10**18 * chance()) if chance() < 0.2 else None,
            int(10_000_000 * chance()) if chance() < 0.5 else None,
            f"{1990 + int(34 * chance())}-{1 + int(12 * chance()):02}-{1 + int(28 * chance()):02}",
            self._first + int((self._last - self._first) * chance()) if chance() < 0.5 else None,
            int(chance() < 0.05),
        ]

    def contact(self, draw: random.Random, number: int, record_id: str) -> list[Any]:
        chance = draw.random
        place, city, state, postal, _, _ = pick(draw, self._cities)
        first = pick(draw, place.first_names) if chance() < 0.95 else None
        last = pick(draw, place.last_names)
        mail = f"{_ascii(first or 'info')}.{_ascii(last)}{number}@example.{place.domain}"
        manager = self._contacts[int(chance() * number)] if number and chance() < 0.1 else None
        return [
            record_id,
            f"{first} {last}" if first else last,
            first,
            last,
            f"/services/images/photo/{record_id}",
            pick(draw, standard.SALUTATIONS) if chance() < 0.5 else None,
            pick(draw, self._accounts) if self._accounts and chance() < 0.96 else None,
            _digits(draw, pick(draw, place.streets)) if chance() < 0.8 else None,
            city,
            state,
            _digits(draw, postal),
            place.country,
            _digits(draw, pick(draw, place.phones)) if chance() < 0.7 else None,
            _digits(draw, pick(draw, place.phones)) if chance() < 0.6 else None,
            (mail.title() if chance() < 0.1 else mail) if chance() < 0.9 else None,
            pick(draw, TITLES) if chance() < 0.7 else None,
            pick(draw, DEPARTMENTS) if chance() < 0.5 else None,
            pick(draw, standard.SOURCES) if chance() < 0.5 else None,
            f"{1930 + int(75 * chance())}-{1 + int(12 * chance()):02}-{1 + int(28 * chance()):02}"
            if chance() < 0.4
            else None,
            manager,
            f"Met {first or last} in {city}.\nFollow up." if chance() < 0.2 else None,
            int(chance() < 0.1),
            int(chance() < 0.05),
            pick(draw, (None, "Gold", "Silver", "Bronze")),
            pick(draw, (None, None, "Golf", "Music;Travel", "Travel;Food;Art")),
            int(10 ** (2 + 6 * chance())) if chance() < 0.5 else None,
            int(200_000 * chance()) - 100_000 if chance() < 0.3 else None,
            int(10**18 * chance()) if chance() < 0.2 else None,
            int(50_000 * chance()) if chance() < 0.5 else None,
            f"{2000 + int(24 * chance())}-{1 + int(12 * chance()):02}-{1 + int(28 * chance()):02}"
            if chance() < 0.3
            else None,
            self._first + int((self._last - self._first) * chance()) if chance() < 0.3 else None,
            int(chance() < 0.03),
            self._contacts[int(chance() * number)] if number and chance() < 0.05 else None,
        ]


def pick(draw: random.Random, pool: Sequence[Any]) -> Any:
    return pool[int(draw.random() * len(pool))]  # three times as fast as choice()


def _digits(draw: random.Random, pattern: str) -> str:
    """The pattern with its ``#`` replaced by digits."""
    count = pattern.count("#")
    if not count:
        return pattern
    number = int(draw.random() * 10**count)
    text, pieces = f"{number:0{count}}", pattern.split("#")
    return "".join(part for pair in zip(pieces, (*text, ""), strict=True) for part in pair)


def _scaled_degrees(degrees: float, jitter: float) -> int:
    """A latitude or longitude near a city, on the scale of 15 decimals."""
    return int(Decimal(repr(degrees)) * 10**15) + int(jitter * 10**13)


_ASCII: dict[str, str] = {}


def _ascii(name: str) -> str:
    """The letters of a name that fit into an address; a fixed word when none do."""
    if name not in _ASCII:
        kept = "".join(letter for letter in name.lower() if "a" <= letter <= "z")
        _ASCII[name] = kept or "kontakt"
    return _ASCII[name]


__all__ = ["Place", "populate"]
