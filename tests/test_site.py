"""The built site as its readers meet it: complete, self-contained, legible in both themes and on a phone."""

import os
import shutil
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import sync_playwright

from pipeline.notebooks import page_names
from pipeline.settings import ROOT, Settings

SITE = Settings().html
PAGES = ["index", *page_names(ROOT), "search", "genindex", "py-modindex"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# A reader on a lecture hall's USB stick has a browser and nothing else.
LOADING = {"link", "script", "img", "iframe", "source", "video", "audio", "object"}
OWN_SCHEMES = {"file", "data", "blob", "about"}


def page_path(name):
    path = (SITE / f"{name}.html").resolve()
    assert path.is_file(), f"{path} is missing: run `make book` first"
    return path


# Read as files.


class Elements(HTMLParser):
    """The ids, links, loaded files and images of a page."""

    def __init__(self, path):
        super().__init__()
        self.path, self.ids, self.links, self.loaded, self.images = path, set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "img":
            self.images.append(found)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in LOADING and found.get("rel") != "canonical":
            self.loaded += [found[key] for key in ("href", "src", "data") if found.get(key)]


@pytest.fixture(scope="module")
def elements():
    """The elements of a page, each page parsed once."""
    return cache(Elements)


def test_the_site_holds_the_wheel_and_the_notebooks():
    assert [path.name for path in (SITE / "wheels").iterdir()] != []
    assert [path.name for path in (SITE / "notebooks").glob("*.ipynb")] != []


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name, elements):
    path = page_path(name)

    def leads_somewhere(link):
        url = urlsplit(link)
        if url.scheme or url.netloc or link in {"#", "#__"}:  # elsewhere, or handled by a script
            return True
        target = (path.parent / unquote(url.path)).resolve() if url.path else path.resolve()
        if not url.fragment or target.suffix != ".html":
            return target.is_file()
        return target.is_file() and unquote(url.fragment) in elements(target).ids

    links = [*elements(path).links, *elements(path).loaded]
    assert [link for link in links if not leads_somewhere(link)] == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_elsewhere(name, elements):
    foreign = [link for link in elements(page_path(name)).loaded if urlsplit(link).scheme not in {"", "data"}]
    assert foreign == []


@pytest.mark.parametrize("name", PAGES)
def test_images_have_a_text_alternative(name, elements):
    assert [
        image.get("src", "")[:80] for image in elements(page_path(name)).images if not image.get("alt")
    ] == []


# Seen in a browser, without a network.


def find_chromium(playwright):
    """A Chromium or Chrome on this machine: COURSE_CHROMIUM, then the usual places."""
    if chosen := os.environ.get("COURSE_CHROMIUM"):
        return chosen
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
    places = [shutil.which(name) for name in names]
    places += [
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        playwright.chromium.executable_path,
    ]
    return next((place for place in places if place and Path(place).is_file()), None)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        executable = find_chromium(playwright)
        if executable is None:
            pytest.skip("no Chromium on this machine: install one, or name it in COURSE_CHROMIUM")
        quiet = ["--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
        quiet += ["--no-first-run", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=executable, args=quiet)
        yield browser
        browser.close()


def open_page(browser, url):
    """Load a page offline; what it asks from elsewhere and what it complains about are kept on it."""
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", offline=True)
    page = context.new_page()
    page.foreign, page.complaints = [], []
    page.on("request", lambda r: urlsplit(r.url).scheme in OWN_SCHEMES or page.foreign.append(r.url))
    page.on("console", lambda m: m.type != "error" or page.complaints.append(m.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(url)
    if url.endswith("/html/index.html"):
        page.wait_for_url("**/book/index.html")  # the site's front door sends its visitors on at once
    page.wait_for_load_state("load")
    page.evaluate("window.MathJax?.startup?.promise")
    return page


@pytest.fixture(scope="module", params=PAGES)
def page(request, browser):
    """Each page of the site, loaded once for all the tests below."""
    page = open_page(browser, page_path(request.param).as_uri())
    yield page
    page.context.close()


def count_visible(page, selector):
    return page.locator(selector).locator("visible=true").count()


def test_a_page_loads_by_itself_and_without_errors(page):
    assert page.foreign == []
    assert page.complaints == []


def test_mathematics_is_typeset(page):
    written, typeset = page.locator(".math").count(), page.locator(".math mjx-container").count()
    assert typeset >= written
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0


def test_images_arrive(page):
    broken = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
    assert page.evaluate(broken) == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_there_is_one_way_to_search(page, size):
    page.set_viewport_size(size)
    results_have_their_own = page.url.endswith("/search.html")
    assert count_visible(page, ".search-button__button, input[type=search]") == 1 + results_have_their_own


def test_a_phone_shows_the_whole_width(page):
    page.set_viewport_size(PHONE)
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    widest = """[...document.querySelectorAll('main *')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .slice(0, 5).map(e => e.outerHTML.slice(0, 120))"""
    assert overflow <= 0, page.evaluate(widest)


def test_the_dark_theme_is_dark_and_legible(page):
    page.set_viewport_size(DESKTOP)
    for _ in range(3):  # the button goes round light, dark and the system's choice
        if page.locator("html[data-theme=dark]").count():
            break
        page.locator(".theme-switch-button").locator("visible=true").first.click()
    text, paper = (
        luminance(page.evaluate(f"getComputedStyle(document.body).{name}"))
        for name in ("color", "backgroundColor")
    )
    assert paper < 0.1
    assert (text + 0.05) / (paper + 0.05) >= 7  # enhanced contrast of the accessibility guidelines
    shaded = "[...document.querySelectorAll('main .cell_output img')].map(i => getComputedStyle(i).filter)"
    assert set(page.evaluate(shaded)) <= {"none"}  # figures keep the colours that their legends name


def luminance(colour):
    """Relative luminance of a CSS colour `rgb(…)`, from 0 to 1."""
    channels = [float(c) / 255 for c in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_searching_finds_a_page_without_a_network(browser):
    page = open_page(browser, page_path("search").as_uri() + "?q=bound")
    page.locator("#search-results li a").first.wait_for(timeout=10_000)
    assert page.foreign == []
    page.context.close()


# These tests themselves, on a page with every fault.


def test_the_tests_of_the_site_see_faults(browser, tmp_path):
    faulty = tmp_path / "faulty.html"
    body = "<img src='missing.png'><div style='width: 900px'>wide</div>"
    scripts = "<script src='https://example.org/x.js'></script><script>throw new Error('broken')</script>"
    faulty.write_text(f"<html><body><main>{body}{scripts}</main></body></html>")
    assert Elements(faulty).loaded == ["missing.png", "https://example.org/x.js"]
    assert not Elements(faulty).images[0].get("alt")
    page = open_page(browser, faulty.as_uri())
    assert page.foreign == ["https://example.org/x.js"]
    assert any("broken" in line for line in page.complaints)
    for check in (
        test_images_arrive,
        test_a_phone_shows_the_whole_width,
        test_a_page_loads_by_itself_and_without_errors,
    ):
        with pytest.raises(AssertionError):
            check(page)
    page.context.close()
