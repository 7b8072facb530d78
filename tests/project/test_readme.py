"""The README and the files that are installed: short, complete, and what the code does."""

from __future__ import annotations

import re

from tests.project.pages import PAGES, ROOT, all_blocks, links, read, section


def test_it_is_short() -> None:
    """The README has at most 200 lines."""
    assert len(read("README.md").splitlines()) <= 200


def test_it_leads_to_every_page() -> None:
    """Every page is one link away from the README."""
    assert {link.split("#")[0] for link in links("README.md")} >= set(PAGES) - {"README.md"}


def test_its_order() -> None:
    """What it is comes first, then how to try, deploy, change and run it, then how right it is."""
    titles = re.findall(r"^## (.+)$", read("README.md"), re.M)
    assert titles == [
        "What you get",
        "Two commands",
        "The two-minute demo",
        "Deploy on Heroku",
        "Settings",
        "Add a field, add an object",
        "Architecture",
        "Operate",
        "Guarantees",
        "How it compares",
        "Contribute",
    ]


def test_its_settings_have_these_defaults() -> None:
    """The README's table names settings, and gives each default as docs/settings.md does."""
    defaults = dict(re.findall(r"^\| `([A-Z_]+)` \| .* \| (.*) \|$", read("docs/settings.md"), re.M))
    for line in re.findall(r"^\| `[A-Z].*\|$", section("README.md", "Settings"), re.M):
        named = re.findall(r"`([A-Z][A-Z_]+)`", line.split("|")[1])
        assert set(named) <= set(defaults), line
        if default := re.search(r"\(([^()]+)\) \|$", line):
            assert default[1] in defaults[named[0]], line


def test_its_demo_is_the_demo() -> None:
    """The headings of the README's demo are those that the demo prints."""
    [shown] = [block.text for block in all_blocks("text") if block.page == "README.md"]
    story = (ROOT / "sync" / "demo" / "demo.py").read_text()
    for title in re.findall(r"^\d\. .+$", shown, re.M):
        assert re.split(r"\(2\)|003", title)[0] in story, title


def test_requirements_are_pinned_and_name_no_host() -> None:
    """What Heroku installs is pinned with hashes, and no committed file names a download address."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        packages = re.findall(r"^[a-z0-9-]+(?:\[\w+\])?==\S+", text, re.M | re.I)
        assert len(packages) > 20
        assert text.count("--hash=sha256:") >= len(packages)
        assert "://" not in text
        assert "index" not in text
