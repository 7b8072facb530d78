"""Raw material for plausible customers from many countries."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A country's manners: names, streets, postal codes, telephones. ``#`` stands for a digit."""

    country: str
    code: str
    domain: str
    cities: tuple[
        tuple[str, str | None, str, float, float], ...
    ]  # city, state, postal pattern, latitude, longitude
    streets: tuple[str, ...]
    phones: tuple[str, ...]
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    companies: tuple[str, ...]


PLACES = (
    Place(
        "United States",
        "US",
        "com",
        (
            ("Boston", "MA", "021##", 42.360082, -71.05888),
            ("San Francisco", "CA", "941##", 37.774929, -122.419416),
            ("Austin", "TX", "787##-####", 30.267153, -97.743061),
            ("Newark", "NJ", "071##", 40.735657, -74.172367),
        ),
        ("## Main St", "### Market Street\nSuite ##0", "#### Oak Ave", "1## Elm Street, Apt #B"),
        (
            "(617) 555-01##",
            "415.555.01##",
            "+1 512 555 01##",
            "1-800-555-01##",
            "(973) 555-01## x#4",
            "617555 01##",
        ),
        ("James", "Mary", "Robert", "Patricia", "Michael", "Jennifer", "De'Andre", "Mary Ann", "Luz"),
        ("Smith", "Johnson", "O'Brien", "Garcia", "Washington", "McDonald", "van der Berg", "Lee-Jones"),
        ("{} & Sons", "{} Industries, Inc.", "{} Holdings LLC", '"{}" Foods', "{} Corp."),
    ),
    Place(
        "Germany",
        "DE",
        "de",
        (
            ("München", "Bayern", "80###", 48.135125, 11.581981),
            ("Köln", "Nordrhein-Westfalen", "50###", 50.937531, 6.960279),
            ("Leipzig", "Sachsen", "04###", 51.339696, 12.373075),
        ),
        ("Hauptstraße ##", "Am Mühlenweg #a", "Königsallee ##"),
        ("+49 89 1234##", "0221/55##-0", "(0341) 99## 1#", "0049 30 90##12", "089 - 12 34 ##"),
        ("Jürgen", "Anna", "Björn", "Käthe", "Lukas", "Şule", "Hans-Peter"),
        ("Müller", "Weiß", "Schröder", "von Stein", "Öztürk", "Groß", "Meyer-Landrut"),
        ("{} GmbH", "{} & Söhne KG", "Gebr. {} AG", "{} Maschinenbau GmbH & Co. KG"),
    ),
    Place(
        "France",
        "FR",
        "fr",
        (("Paris", None, "750##", 48.856614, 2.352222), ("Nîmes", None, "300##", 43.836699, 4.360054)),
        ("## rue de l'Église", "# bis, avenue Émile-Zola", "## bd Saint-Michel"),
        ("+33 1 42 68 5# 0#", "01.42.68.5#.0#", "06 12 34 5# 7#", "(+33) 0142685#0#"),
        ("Élodie", "François", "Zoë", "Jean-Luc", "Anaïs"),
        ("Lefèvre", "d'Aubigné", "Dupont", "Lœwe", "Garçon"),
        ("{} SARL", "Établissements {}", "{} et Cie"),
    ),
    Place(
        "Japan",
        "JP",
        "co.jp",
        (
            ("東京", "東京都", "10#-00##", 35.689487, 139.691706),
            ("大阪", "大阪府", "53#-00##", 34.693738, 135.502165),
        ),
        ("千代田区丸の内#-#-#", "北区梅田#丁目#番##号"),
        ("03-55##-01##", "+81 3 55## 01##", "０３－５５##－０１##"),
        ("太郎", "花子", "芽衣", "健"),
        ("山田", "佐藤", "田中", "髙橋"),
        ("株式会社{}", "{}商店", "{}電機株式会社"),
    ),
    Place(
        "Brazil",
        "BR",
        "com.br",
        (
            ("São Paulo", "SP", "01###-0##", -23.55052, -46.633308),
            ("Recife", "PE", "50###-###", -8.047562, -34.877002),
        ),
        ("Av. Paulista, 1#78", "Rua das Acácias, ## - Bloco B"),
        ("+55 11 3##1-0##0", "(11) 9##12-34##", "0xx11 3##1 0##0"),
        ("João", "Conceição", "Antônio", "Márcia"),
        ("da Silva", "Gonçalves", "Araújo", "Sant'Anna"),
        ("{} Ltda.", "{} Comércio e Indústria S.A."),
    ),
    Place(
        "Egypt",
        "EG",
        "com.eg",
        (("القاهرة", None, "11###", 30.04442, 31.235712),),
        ("شارع النيل ##",),
        ("+20 2 2##5 43##", "٠٢ ٢٥٧٥ ٤٣٢١"),
        ("محمد", "فاطمة", "أحمد"),
        ("حسن", "عبد الله", "مصطفى"),
        ("شركة {}", "{} للتجارة"),
    ),
    Place(
        "United Kingdom",
        "GB",
        "co.uk",
        (
            ("London", None, "SW1A #AA", 51.507351, -0.127758),
            ("Edinburgh", "Midlothian", "EH# #YY", 55.953252, -3.188267),
        ),
        ("## High Street", "Flat #, The Old Mill\n## Mill Lane"),
        ("020 7946 0###", "+44 (0)20 7946 0###", "07700 900###", "0131 496 0### ext. ##"),
        ("Siân", "Oliver", "Niamh", "Alistair"),
        ("Ap Rhys", "MacLeod", "Featherstonehaugh", "Patel", "Smythe-Jones"),
        ("{} Ltd", "{} plc", "{} & Daughters"),
    ),
    Place(
        "India",
        "IN",
        "in",
        (
            ("Mumbai", "Maharashtra", "4000##", 19.075984, 72.877656),
            ("Bengaluru", "Karnataka", "5600##", 12.971599, 77.594563),
        ),
        ("#/##, M.G. Road", "Plot No. ##, Phase II"),
        ("+91 22 2## 0##45", "098#0 12#45", "022-2##0##45"),
        ("Priya", "Arjun", "Lakshmi", "S."),
        ("Iyer", "Singh", "Chatterjee", "K R Narayanan"),
        ("{} Pvt. Ltd.", "{} Enterprises"),
    ),
)
STEMS = (
    "Aurora",
    "Blue Harbor",
    "Cedar",
    "Nordwind",
    "Étoile",
    "Quantum",
    "Sakura",
    "Terra",
    "Üniversal",
    "Vega",
)
TITLES = (
    "CEO",
    "VP, Sales",
    "Buyer",
    "Head of IT",
    "Accountant",
    "Office Manager",
    "Geschäftsführer",
    "Directrice",
)
DEPARTMENTS = ("Sales", "Finance", "IT", "Operations", "R&D", "Einkauf", "人事部")
WEBSITES = ("https://www.{}", "http://{}", "www.{}", "{}", "HTTPS://{}/Home?lang=en", "{}/")
