# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (JavaScript)
"""The page as its reader meets it: in a real browser, at two widths, in two colours, by keyboard."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lmkick_plugin.recipe.methods import METHODS
from lmkick_plugin.report import write_report
from lmkick_plugin.report.formatting import number, percent, size, task_name
from lmkick_plugin.report.paired_statistics import rounded
from tests.lmkick_plugin.report.browser import DESKTOP, PHONE, chromium, look
from tests.lmkick_plugin.report.worlds import quiz, record
from tests.lmkick_plugin.run_files import Writer, text_item

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.slow
UNFOLD = "for (const e of document.querySelectorAll('details')) e.open = true;"


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
            if not url.startswith(("file:///", "data:", "chrome://", "about:")):
                lines.append(url)
    return lines


# Elements that reach beyond the window, but for what lies in a region that scrolls.
TOO_WIDE = """
return [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && !e.closest(".scroll, .sr, .skip, svg > *"))
  .filter(e => { const r = e.getBoundingClientRect(); return r.width > 0 && (r.right > innerWidth + .5 || r.left < -.5); })
  .map(e => `${e.tagName}.${e.className.baseVal ?? e.className} ${e.textContent.slice(0, 40)}`);
"""

# Texts in table cells that lie over the neighbouring cell.
OVERLAPS = """
return [...document.querySelectorAll(".summary th, .summary td")].filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
  .map(e => e.textContent.slice(0, 40));
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_nothing_overflows_and_nobody_complains(
    browser: Chrome, page: Path, width: int, dark: bool
) -> None:
    look(browser, page, width=width, dark=dark)
    assert browser.execute_script(OVERLAPS) == []
    browser.execute_script(UNFOLD)
    plots = browser.execute_script("return document.querySelectorAll('svg.plot').length")
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script(TOO_WIDE) == []
    assert plots > 10
    assert complaints(browser) == []


# Text of the first screen: sentence, banner and table rows, in the window before any scrolling.
FIRST_SCREEN = """
const inside = e => { const r = e.getBoundingClientRect(); return e.checkVisibility() && r.top >= 0 && r.bottom <= innerHeight && r.right <= innerWidth; };
const text = e => e.innerText.replaceAll("\\u00a0", " ");
return {
  answer: [...document.querySelectorAll(".answer")].filter(inside).map(text),
  banner: [...document.querySelectorAll(".banner p")].filter(inside).map(text),
  head: [...document.querySelectorAll(".summary thead th")].filter(inside).map(text),
  rows: [...document.querySelectorAll(".summary tbody tr")].filter(inside).map(r => [...r.cells].filter(c => c.checkVisibility()).map(text)),
};
"""


def numbers_in(text: str, names: list[str]) -> set[str]:
    """Numbers of a text, without those in names of runs and tasks."""
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, " ")
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


def written(rows: list[dict[str, str]], columns: set[str] | None = None) -> set[str]:
    """Every number of a table as the page may write it."""
    found: set[str] = set()
    for row in rows:
        for column, text in row.items():
            try:
                value = float(text)
            except ValueError:
                continue
            if columns is not None and column not in columns:
                continue
            forms = [text, f"{value:,.0f}", number(value), percent(value), percent(value, digits=0)]
            if column == "bytes_best_format":
                forms.append(size(value))
            if column == "settle_n":
                forms.append(f"{rounded(int(value)):,}")
            found |= {m for form in forms for m in re.findall(r"\d+(?:[.,]\d+)*", form)}
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_first_screen_holds_sentence_and_table(
    browser: Chrome, page: Path, width: int, dark: bool
) -> None:
    look(browser, page, width=width, dark=dark)
    seen = browser.execute_script(FIRST_SCREEN)
    assert "keeps" in seen["answer"][0] or "comes closest" in seen["answer"][0]
    assert "Verdict" in seen["head"]
    assert seen["rows"][0][0].startswith("dense")
    assert len(seen["rows"]) >= 5
    verdicts = {row[-1].split("\n")[0].split(" ", 1)[-1] for row in seen["rows"]}
    assert verdicts <= {"keeps", "loses", "cannot tell", "dense"}
    with page.with_name("cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["label"].removeprefix(Path(row["model"]).name).strip() for row in rows]
    names += [task_name(row["task"]) for row in rows]
    shown = numbers_in(" ".join(seen["answer"] + seen["banner"]), names)
    for row in seen["rows"]:
        shown |= numbers_in(
            " ".join([row[0].split("\n", 1)[-1] if "\n" in row[0] else "", *row[1:]]), names
        )
    shown -= {"95"}  # the rule itself
    assert len(shown) > 15
    assert shown - written(rows) == set()
    # The control: without recoveries, or without sizes, the table would not hold them.
    for kind in ("recovery", "knowledge"):
        recoveries = {name for name in rows[0] if name.startswith(kind)}
        assert shown - written(rows, set(rows[0]) - recoveries), kind
    assert shown - written(rows, set(rows[0]) - {"bytes_best_format"})


def test_runs_stand_by_size(browser: Chrome, page: Path) -> None:
    look(browser, page, width=DESKTOP)
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.summary')].map(t => [...t.tBodies[0].rows].map(r => Number(r.cells[1].dataset.v)))"
    )
    assert len(sizes) == 2  # two models
    for dense, *column in sizes:
        assert column == sorted(column)
        assert all(dense >= one for one in column)
    assert len(set(sizes[0])) > 3


def test_the_dense_run_stands_first_among_many(
    browser: Chrome, write: Writer, tmp_path: Path
) -> None:
    """As many runs as the demo has, and every line that the banner can have."""
    tasks = ("kick_freebaseqa", "kick_triviaqa_closed", "kick_triviaqa_open", "hellaswag")
    for i in range(22):
        kick = record("wanda", requested_sparsity=round(i / 40, 3)) if i else record()
        kick["truncated_prompts"] = dict.fromkeys(tasks, 3)
        items = {t: quiz("contains", 0.0 if t == tasks[1] else 0.9 - i / 60, n=60) for t in tasks}
        counts = {task: {"original": 5_000, "effective": 60} for task in tasks}
        options: dict[str, Any] = {"n-samples": counts, "samples": i != 20}
        if i == 21:
            options["n-shot"] = dict.fromkeys(tasks, 5)
        write(f"c{i}", items, record=kick, directions={"contains": True}, **options)
    made = write_report([write.folder], tmp_path / "out", resamples=100)
    for width in (DESKTOP, PHONE):
        look(browser, made, width=width)
        seen = browser.execute_script(FIRST_SCREEN)
        assert len(seen["answer"]) == 1
        assert "not settled" in seen["answer"][0]
        assert len(seen["banner"]) >= 4
        assert "Verdict" in seen["head"]
        assert seen["rows"][0][0].startswith("dense")
        assert len(seen["rows"]) >= 2
        assert browser.execute_script(TOO_WIDE) == []
        with made.with_name("cells.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = [row["label"].removeprefix("big-7b ") for row in rows]
        shown = numbers_in(" ".join(seen["answer"]), [*names, "wanda"])
        assert shown - {"95"} - written(rows) == set()


def test_without_a_dense_run_the_first_screen_says_how_to_make_one(
    browser: Chrome, write: Writer, tmp_path: Path
) -> None:
    for bits in (3, 4):
        items = {"kick_freebaseqa": quiz("contains", 0.7), "hellaswag": quiz("contains", 0.5)}
        write(f"b{bits}", items, record=record("gptq", num_bits=bits))
    made = write_report([write.folder], tmp_path / "out", resamples=50)
    for width in (DESKTOP, PHONE):
        look(browser, made, width=width)
        seen = browser.execute_script(FIRST_SCREEN)
        assert "Without a dense run of big-7b" in seen["answer"][0]
        assert [row[-1] for row in seen["rows"]] == ["not compared"] * 2
        command = browser.find_element("css selector", ".command")
        assert "lmkick run" in command.text
        assert command.rect["y"] < 844
        assert browser.execute_script(TOO_WIDE) == []
    scores = browser.execute_script(
        "return [...document.querySelectorAll('.heat td .wide')].map(e => e.textContent)"
    )
    assert sorted(scores) == ["0.500", "0.500", "0.700", "0.700"]


def test_a_printed_page_is_light_and_fits_its_paper(browser: Chrome, page: Path) -> None:
    look(browser, page, width=DESKTOP, dark=True)
    browser.execute_script("document.documentElement.dataset.theme = 'dark'")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    paper = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4, 1 cm
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
    try:
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert int(re.findall(r"\d+", ground)[0]) > 200
        assert browser.execute_script(TOO_WIDE) == []
        assert browser.execute_script(OVERLAPS) == []
        seen = "return document.querySelector(arguments[0]).checkVisibility()"
        assert not browser.execute_script(seen, ".tools")
        assert not browser.execute_script(seen, "#theme")
        filters = "return getComputedStyle(document.querySelector('.plot')).filter"
        assert browser.execute_script(filters) == "none"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


CONTRAST = """
const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return {rgb: m.slice(0, 3), a: m[3] ?? 1}; };
const lum = (rgb) => { const [r, g, b] = rgb.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a > .99) return c.rgb; } return [255, 255, 255]; };
const bad = [];
for (const e of document.querySelectorAll("body *")) {
  if (!e.checkVisibility() || e.closest(".sr, defs, script, style")) continue;
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || e.tagName === "title") continue;
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
    browser.execute_script(UNFOLD)
    assert browser.execute_script(CONTRAST) == []


# Contrast of every mark with the figure's ground, with the brightness that dark colours give it.
MARKS = """
const parse = (c) => c.match(/[\\d.]+/g).map(Number).slice(0, 3);
const lum = (rgb) => { const [r, g, b] = rgb.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
const ground = lum(parse(getComputedStyle(document.querySelector("figure")).backgroundColor));
const factor = Number(getComputedStyle(document.querySelector(".plot")).filter.match(/[\\d.]+/) ?? 1);
return [...document.querySelectorAll(".plot [id*='marks-'] use")].map(e => {
  const c = lum(parse(getComputedStyle(e).stroke).map(v => Math.min(255, v * factor)));
  return (Math.max(c, ground) + .05) / (Math.min(c, ground) + .05); });
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_lines_can_be_told_from_their_ground_and_by_shape(
    browser: Chrome, page: Path, dark: bool
) -> None:
    look(browser, page, width=DESKTOP, dark=dark)
    ratios = browser.execute_script(MARKS)
    assert len(ratios) > 50
    assert min(ratios) >= 3
    rows = METHODS.values()  # never by colour alone
    assert len({row.marker for row in rows}) == len({str(row.dash) for row in rows}) == len(rows)


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
for (const u of document.querySelectorAll("use")) if (!document.getElementById(u.getAttribute("href").slice(1))) bad.push("no marker " + u.getAttribute("href"));
for (const e of document.querySelectorAll("[clip-path]")) { const id = e.getAttribute("clip-path").match(/#([^)]+)/)[1]; if (!document.getElementById(id)) bad.push("no clip path " + id); }
for (const t of document.querySelectorAll("table")) {
  if (!t.caption?.textContent.trim()) bad.push("no caption");
  for (const th of t.querySelectorAll("th")) if (!th.scope) bad.push("no scope: " + th.textContent);
  for (const r of t.tBodies[0].rows) if (!r.querySelector("th")) { if (!t.classList.contains("matching")) bad.push("no row header"); }
}
for (const s of document.querySelectorAll("svg.plot")) if (s.getAttribute("role") !== "img" || !s.getAttribute("aria-label").trim()) bad.push("a picture without words");
if (document.querySelectorAll("svg.plot use > title").length < 50) bad.push("marks without words");
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
    browser.execute_script(UNFOLD)
    assert browser.execute_script(STRUCTURE) == []
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = [node.get("role", {}).get("value") for node in tree if not node.get("ignored")]
    for role in ("banner", "navigation", "main", "contentinfo", "table", "columnheader", "region"):
        assert role in roles, role
    assert any(role in ("image", "img") for role in roles)


def test_sorting_and_filtering(browser: Chrome, page: Path) -> None:
    look(browser, page, width=DESKTOP)
    rows = (
        "const t = document.querySelector('.summary');"
        "return [...t.tBodies[0].rows].filter(r => !r.hidden)"
    )
    values = f"{rows}.map(r => r.cells[3].dataset.v).filter(Boolean).map(Number)"
    before = browser.execute_script(values)
    press = (
        "const h = document.querySelector('.summary').tHead.rows[0].cells[3];"
        "h.querySelector('button').click(); return h.getAttribute('aria-sort')"
    )
    assert browser.execute_script(press) == "ascending"
    after = browser.execute_script(values)
    assert after == sorted(before)
    assert after != before
    assert browser.execute_script(press) == "descending"
    field = browser.find_element("css selector", "input[type=search]")
    field.send_keys("wanda loses")
    shown = browser.execute_script(f"{rows}.map(r => r.textContent.toLowerCase())")
    assert shown
    assert all("wanda" in row and "loses" in row for row in shown)
    assert len(shown) < len(before)
    status = browser.execute_script("return document.querySelector('[role=status]').textContent")
    assert status == f"{len(shown)} runs"
    heat = browser.execute_script(
        "return [...document.querySelector('.heat').tBodies[0].rows].filter(r => !r.hidden).length"
    )
    assert heat == len(shown)  # the map follows


def test_a_run_s_link_unfolds_its_details(browser: Chrome, page: Path) -> None:
    look(browser, page, width=DESKTOP)
    link = browser.find_element("css selector", ".summary tbody a")
    name = str(link.get_attribute("href")).rpartition("#")[2]
    opened = "return document.getElementById(arguments[0]).open"
    assert not browser.execute_script(opened, name)
    link.click()
    assert browser.execute_script(opened, name)
    browser.execute_script("document.getElementById(arguments[0]).open = false", name)
    browser.execute_script("arguments[0].click()", link)  # the page may still be scrolling
    assert browser.execute_script(opened, name)


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


def test_names_and_answers_in_results_are_only_text(
    browser: Chrome, write: Writer, tmp_path: Path
) -> None:
    for name, kick in (("a", record()), ("b", record("wanda", requested_sparsity=0.4))):
        kick |= {"base_model": HOSTILE, "calibration": HOSTILE, "weights_sha256": HOSTILE}
        kick["versions"] = {"lmkick": HOSTILE}
        right = 30 if name == "a" else 20
        items = [text_item(i, HOSTILE, {"contains": float(i < right)}) for i in range(40)]
        folder = write(name, {"t": items}, record=kick, model_name=HOSTILE)
        (file,) = folder.glob("results_*.json")
        data = json.loads(file.read_text())
        for part in ("results", "configs", "n-samples", "versions", "higher_is_better", "n-shot"):
            data[part] = {HOSTILE: next(iter(data[part].values()))}
        file.write_text(json.dumps(data))
        (samples,) = folder.glob("samples_*.jsonl")
        stamp = file.name.removeprefix("results_").removesuffix(".json")
        samples.rename(folder / f"samples_{HOSTILE.replace('/', '-')}_{stamp}.jsonl")
    made = write_report([write.folder], tmp_path / "out", resamples=100)
    text = made.read_text()
    assert "<script>alert" not in text
    assert "<img src" not in text
    assert "\u202e" not in text
    assert "{{7*7}}" in text  # shown, not evaluated
    look(browser, made, width=PHONE)
    browser.execute_script(UNFOLD)
    assert complaints(browser) == []
    assert browser.execute_script(TOO_WIDE) == []
    assert browser.execute_script("return document.images.length") == 0
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "<script>" not in markdown
    for part in ("report.md", "cells.csv"):
        assert "\x1b" not in (tmp_path / "out" / part).read_text()


def test_answers_are_shown_with_what_cannot_be_seen(
    browser: Chrome, write: Writer, tmp_path: Path
) -> None:
    for name, kick in (("a", record()), ("b", record("wanda", requested_sparsity=0.4))):
        right = range(30) if name == "a" else range(5, 35)
        items = [text_item(i, f"{HOSTILE} {i}", {"contains": float(i in right)}) for i in range(40)]
        write(name, {"kick_freebaseqa": items}, record=kick, directions={"contains": True})
    made = write_report([write.folder], tmp_path / "out", resamples=100)
    look(browser, made, width=DESKTOP)
    browser.execute_script(UNFOLD)
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.answers li')].map(e => e.textContent)"
    )
    assert [line.split()[0] for line in shown] == ["lost"] * 3 + ["won"] * 3
    assert all(r"\u202e\x1b[31m" in line and "<script>alert(1)</script>" in line for line in shown)
    assert [re.findall(r"question (\d+)", line)[0] for line in shown[:3]] == ["0", "1", "2"]
    assert complaints(browser) == []


def test_a_recovery_above_chance_fits_and_breaks_after_its_comma_only(
    browser: Chrome, write: Writer, tmp_path: Path
) -> None:
    configs = {"t": {"task": "t", "metadata": {"version": 1.0, "floors": {"acc": 0.25}}}}
    for name, kick, share in (("a", record(), 0.6), ("b", record("wanda"), 0.59)):
        write(name, {"t": quiz("acc", share)}, record=kick, configs=configs)
    made = write_report([write.folder], tmp_path / "out", resamples=100)
    whole = re.compile(r'<span class="nowrap">[\d.]+&nbsp;% \[[\d.]+,&nbsp;[\d.]+\](,?)</span>')
    assert whole.findall(made.read_text())[:2] == [",", ""]
    for width in (DESKTOP, PHONE):
        look(browser, made, width=width)
        assert browser.execute_script("return document.body.innerText").count("above chance")
        assert browser.execute_script("return innerWidth") == width
        assert browser.execute_script(OVERLAPS) == []
        assert browser.execute_script(TOO_WIDE) == []


def test_names_of_300_characters_fit(browser: Chrome, write: Writer, tmp_path: Path) -> None:
    long = "organisation/" + "a-very-long-name_" * 17
    for name, kick in (("a", record(base=long)), ("b", record("wanda" * 60, base=long))):
        task = {"t" * 300: quiz("contains", 0.6)}
        kick |= {"calibration": "c" * 300}
        folder = tmp_path / "runs" / name
        write(f"runs/{name}", {"t": task["t" * 300]}, record=kick, directions={"contains": True})
        (file,) = folder.glob("results_*.json")
        file.write_text(file.read_text().replace('"t"', f'"{"t" * 300}"'))
    made = write_report([tmp_path / "runs"], tmp_path / "out", resamples=100)
    assert "t" * 200 in made.read_text()
    for width in (DESKTOP, PHONE):
        look(browser, made, width=width)
        assert browser.execute_script(OVERLAPS) == []
        browser.execute_script(UNFOLD)
        assert browser.execute_script(TOO_WIDE) == []


def test_the_page_refuses_what_is_not_its_own(page: Path) -> None:
    text = page.read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert "default-src 'none'" in policy.replace("&#39;", "'")
    assert "unsafe" not in policy
    assert not re.search(r"(?:src|href)=\"https?:", text)
    assert not re.search(r"url\((?!#)", text)


def test_two_hundred_runs_are_readable(browser: Chrome, write: Writer, tmp_path: Path) -> None:
    methods = ("magnitude", "wanda", "sparsegpt", "awq")
    for i in range(201):
        kick: dict[str, Any] = record()
        if i:
            kick = record(methods[i % 4], requested_sparsity=round(i / 250, 3))
        tasks = {
            name: quiz("contains", 0.9 - i / 400, n=40) for name in ("kick_freebaseqa", "other")
        }
        write(f"c{i}", tasks, record=kick, directions={"contains": True}, samples=False)
        (file,) = (write.folder / f"c{i}").glob("results_*.json")
        data = json.loads(file.read_text())
        for scores in data["results"].values():
            scores["contains_stderr,none"] = 0.02
        file.write_text(json.dumps(data))
    made = write_report([write.folder], tmp_path / "out", resamples=50)
    assert made.stat().st_size < 5_000_000
    look(browser, made, width=PHONE)
    seen = browser.execute_script(FIRST_SCREEN)
    assert seen["answer"]
    assert len(seen["rows"]) >= 3
    rows = browser.execute_script(
        "return document.querySelector('.summary').tBodies[0].rows.length"
    )
    assert rows == 201
    browser.find_element("css selector", "input[type=search]").send_keys("wanda 40.0 %")
    shown = browser.execute_script(
        "return [...document.querySelector('.summary').tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].innerText)"
    )
    assert len(shown) < 10
    assert browser.execute_script(TOO_WIDE) == []
