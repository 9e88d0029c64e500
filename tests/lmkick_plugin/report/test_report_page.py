# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (JavaScript)
"""The page as its reader meets it: in a real browser, at two widths, in two colours, by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lmkick_plugin.report import write_report
from lmkick_plugin.report.svg import MARKERS
from tests.lmkick_plugin.report.browser import DESKTOP, PHONE, chromium, look
from tests.lmkick_plugin.report.worlds import quiz, record
from tests.lmkick_plugin.run_files import Writer

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="session")
def page(paper_report: Path) -> Path:
    return paper_report / "report.html"


def complaints(browser: Chrome) -> list[str]:
    """What the console holds, and every request but that for the page itself."""
    lines = [str(entry["message"]) for entry in browser.get_log("browser")]
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith(("file:///", "data:")):
                lines.append(url)
    return lines


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_nothing_overflows_and_nobody_complains(
    browser: Chrome, page: Path, width: int, dark: bool
) -> None:
    look(browser, page, width=width, dark=dark)
    sizes = browser.execute_script(
        "return [document.documentElement.scrollWidth, innerWidth, document.querySelectorAll('svg.chart').length]"
    )
    assert sizes[1] == width
    assert sizes[0] <= width
    assert sizes[2] > 10
    assert complaints(browser) == []


CONTRAST = """
const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return {rgb: m.slice(0, 3), a: m[3] ?? 1}; };
const lum = (rgb) => { const [r, g, b] = rgb.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a > .99) return c.rgb; } return [255, 255, 255]; };
const bad = [];
for (const e of document.querySelectorAll("body *")) {
  if (!e.checkVisibility() || e.closest(".sr, defs, script, style")) continue;
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own) continue;
  const style = getComputedStyle(e);
  const ink = parse(e instanceof SVGElement ? style.fill : style.color).rgb;
  const [a, b] = [lum(ink), lum(ground(e))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) bad.push(`${e.tagName} ${e.className.baseVal ?? e.className} ${ratio.toFixed(2)} ${e.textContent.slice(0, 30)}`);
}
return [...new Set(bad)];
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read(browser: Chrome, page: Path, dark: bool) -> None:
    look(browser, page, width=DESKTOP, dark=dark)
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", ground)[0]) < 80) == dark
    assert browser.execute_script(CONTRAST) == []


LINES = """
const parse = (c) => c.match(/[\\d.]+/g).map(Number).slice(0, 3);
const lum = (rgb) => { const [r, g, b] = rgb.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
const ground = lum(parse(getComputedStyle(document.querySelector("figure")).backgroundColor));
return [0, 1, 2, 3, 4, 5, 6, 7].map(i => { const e = document.querySelector("#m" + i); const c = lum(parse(getComputedStyle(e).color)); return (Math.max(c, ground) + .05) / (Math.min(c, ground) + .05); });
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_lines_can_be_told_from_their_ground_and_by_shape(
    browser: Chrome, page: Path, dark: bool
) -> None:
    look(browser, page, width=DESKTOP, dark=dark)
    assert min(browser.execute_script(LINES)) >= 3
    assert len(set(MARKERS)) == len(MARKERS)  # never by colour alone


ORDER = """
const all = [...document.querySelectorAll("a[href], button, input, summary, [tabindex='0']")];
return all.filter(e => e.checkVisibility()).map(e => e.id || e.getAttribute("href") || e.getAttribute("aria-label") || e.textContent.trim());
"""


def test_the_keyboard_reaches_everything_in_order(browser: Chrome, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    look(browser, page, width=DESKTOP)
    expected = browser.execute_script(ORDER)
    assert expected[0] == "#main"
    reached = []
    for _ in range(40):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(
            browser.execute_script(
                "const e = document.activeElement; return e.id || e.getAttribute('href')"
                " || e.getAttribute('aria-label') || e.textContent.trim()"
            )
        )
        outline = browser.execute_script(
            "const s = getComputedStyle(document.activeElement);"
            "return [s.outlineStyle, parseFloat(s.outlineWidth)]"
        )
        assert outline[0] != "none", reached[-1]
        assert outline[1] >= 2, reached[-1]
    assert reached == expected[:40]


def test_the_skip_link_skips(browser: Chrome, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    look(browser, page, width=DESKTOP)
    browser.switch_to.active_element.send_keys(Keys.TAB)
    left = browser.execute_script("return document.activeElement.getBoundingClientRect().left")
    assert left >= 0  # seen when focused
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.execute_script("return document.activeElement.id") == "main"


STRUCTURE = """
const bad = [];
const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
if (new Set(ids).size !== ids.length) bad.push("an id twice: " + ids.filter((x, i) => ids.indexOf(x) !== i).slice(0, 3));
for (const a of document.querySelectorAll("a[href^='#']")) if (!document.getElementById(a.hash.slice(1))) bad.push("leads nowhere: " + a.hash);
for (const u of document.querySelectorAll("use")) if (!document.querySelector(u.getAttribute("href"))) bad.push("no marker " + u.getAttribute("href"));
for (const t of document.querySelectorAll("table")) {
  if (!t.caption?.textContent.trim()) bad.push("no caption");
  for (const th of t.querySelectorAll("th")) if (!th.scope) bad.push("no scope: " + th.textContent);
  for (const r of t.tBodies[0].rows) if (!r.querySelector("th")) { if (!t.classList.contains("matching")) bad.push("no row header"); }
}
for (const s of document.querySelectorAll("svg.chart")) {
  const named = s.getAttribute("aria-labelledby").split(" ").map(i => document.getElementById(i)?.textContent.trim());
  if (s.getAttribute("role") !== "img" || named.some(n => !n)) bad.push("a picture without words");
}
for (const e of document.querySelectorAll("[aria-labelledby]")) for (const i of e.getAttribute("aria-labelledby").split(" ")) if (!document.getElementById(i)) bad.push("no label " + i);
for (const e of document.querySelectorAll("a, button, input, [role=region]")) {
  const name = e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.[0]?.textContent.trim();
  if (!name) bad.push("no name: " + e.outerHTML.slice(0, 80));
}
const regions = [...document.querySelectorAll("[role=region]")].map(e => e.getAttribute("aria-label"));
if (new Set(regions).size !== regions.length) bad.push("two regions of one name");
const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map(h => +h.tagName[1]);
levels.reduce((a, b) => { if (b > a + 1) bad.push(`h${b} after h${a}`); return b; }, 0);
if (document.querySelectorAll("h1").length !== 1 || document.querySelectorAll("main").length !== 1) bad.push("not one h1 and main");
if (!document.documentElement.lang || !document.title) bad.push("no language or title");
if (document.querySelector("[style], [onclick]")) bad.push("style or handler in an attribute");
return bad;
"""


def test_structure_for_screen_readers(browser: Chrome, page: Path) -> None:
    look(browser, page, width=DESKTOP)
    assert browser.execute_script(STRUCTURE) == []
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = [node.get("role", {}).get("value") for node in tree if not node.get("ignored")]
    for role in ("banner", "navigation", "main", "contentinfo", "table", "columnheader", "region"):
        assert role in roles, role
    assert any(role in ("image", "img") for role in roles)


def test_sorting_and_filtering(browser: Chrome, page: Path) -> None:
    look(browser, page, width=DESKTOP)
    column = (
        "const t = document.querySelector('table[id$=\"-t\"]');"
        "return [...t.tBodies[0].rows].filter(r => !r.hidden)"
    )
    before = browser.execute_script(f"{column}.map(r => r.cells[5].dataset.v)")
    press = (
        "const h = document.querySelector('table[id$=\"-t\"]').tHead.rows[0].cells[5];"
        "h.querySelector('button').click(); return h.getAttribute('aria-sort')"
    )
    assert browser.execute_script(press) == "ascending"
    after = browser.execute_script(f"{column}.map(r => r.cells[5].dataset.v)")
    assert list(map(float, after)) == sorted(map(float, before))
    assert after != before
    assert browser.execute_script(press) == "descending"
    field = browser.find_element("css selector", "input[type=search]")
    field.send_keys("wanda mmlu fail")
    shown = browser.execute_script(f"{column}.map(r => r.textContent.toLowerCase())")
    assert shown
    assert all(word in row for row in shown for word in ("wanda", "mmlu", "fail"))
    assert len(shown) < len(before)
    status = browser.execute_script("return document.querySelector('[role=status]').textContent")
    assert status == f"{len(shown)} rows"


def test_colours_can_be_switched(browser: Chrome, page: Path) -> None:
    look(browser, page, width=DESKTOP)
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(colour)
    button = browser.find_element("id", "theme")
    assert button.get_attribute("aria-label") == "Switch to dark colours"
    button.click()
    assert browser.execute_script(colour) != light
    assert button.get_attribute("aria-label") == "Switch to light colours"


def test_every_link_to_a_file_leads_to_one(browser: Chrome, page: Path) -> None:
    look(browser, page, width=DESKTOP)
    links = browser.execute_script(
        "return [...document.querySelectorAll('a[href]')].map(a => a.href).filter(h => !h.includes('#'))"
    )
    assert len(links) > 20
    from urllib.parse import unquote, urlparse

    assert [link for link in set(links) if not Path(unquote(urlparse(link).path)).exists()] == []


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}\u202e\x1b[31m|`$x$`"


def test_names_in_results_are_only_text(browser: Chrome, write: Writer, tmp_path: Path) -> None:
    for name, kick in (("a", record()), ("b", record("wanda", requested_sparsity=0.4))):
        kick |= {"base_model": HOSTILE, "calibration": HOSTILE, "weights_sha256": HOSTILE}
        kick["versions"] = {"lmkick": HOSTILE}
        folder = write(name, {"t": quiz("contains", 0.6)}, record=kick, model_name=HOSTILE)
        (file,) = folder.glob("results_*.json")
        data = json.loads(file.read_text())
        for part in ("results", "configs", "n-samples", "versions", "higher_is_better", "n-shot"):
            data[part] = {HOSTILE: next(iter(data[part].values()))}
        file.write_text(json.dumps(data))
    made = write_report([write.folder], tmp_path / "out", resamples=100)
    text = made.read_text()
    assert "<script>alert" not in text
    assert "<img src" not in text
    assert "\u202e" not in text
    assert "{{7*7}}" in text  # shown, not evaluated
    look(browser, made, width=PHONE)
    assert complaints(browser) == []
    sizes = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert sizes[0] <= PHONE == sizes[1]
    assert browser.execute_script("return document.images.length") == 0
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "<script>" not in markdown
    assert "\x1b" not in markdown
    for cell in (tmp_path / "out" / "cells.csv").read_text().split("\n"):
        assert "\x1b" not in cell


def test_the_page_refuses_what_is_not_its_own(page: Path) -> None:
    text = page.read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert "default-src 'none'" in policy.replace("&#39;", "'")
    assert "unsafe" not in policy
    assert not re.search(r"(?:src|href)=\"https?:", text)
    assert "url(" not in text


def test_a_hundred_cells_are_under_five_megabytes(write: Writer, tmp_path: Path) -> None:
    tasks = {f"task_{i}": quiz("contains", 0.6, n=4) for i in range(12)}
    for i in range(100):
        kick: dict[str, Any] = record() if i == 0 else record("wanda", requested_sparsity=i / 100)
        write(f"c{i}", tasks, record=kick, directions={"contains": True})
    from lmkick_plugin.report.evidence import Settings, gather
    from lmkick_plugin.report.models import collect
    from lmkick_plugin.report.page import render_page
    from lmkick_plugin.report.page_content import build

    evidence = gather(collect([write.folder]), Settings(resamples=50))
    assert len(evidence.pairings) == 99 * 12
    size = len(render_page(build(evidence, tmp_path)).encode())
    assert 200_000 < size < 5_000_000
