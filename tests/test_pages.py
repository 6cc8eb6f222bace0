"""What the pages promise a reader: links that lead somewhere, and one version everywhere."""

import pathlib
import re

import pytest
import yaml

import mocogan_tf

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("pretrained/**/*.md")])
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page):
    """The anchors of a page's headings: lower case, no punctuation, hyphens instead of spaces."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    broken = []
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not re.match("[a-z]+:", link) and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert not broken


def test_changelog_and_citation_name_the_version_and_its_date():
    release = re.compile(r"^## (\S+) \((\d{4}-\d\d-\d\d)", re.MULTILINE)
    version, date = release.search((ROOT / "CHANGELOG.md").read_text()).groups()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert version == mocogan_tf.__version__ == citation["version"]
    assert date == citation["date-released"]
