"""The slider's HTML, read by a parser and, where there is one, by a browser."""

import base64
import html.parser
import io
import json
import re
import shutil

import matplotlib.image
import matplotlib.pyplot as plt
import pytest

from course_lib.frames import FrameSlider

ALT = 'a "square" <b>of</b> one grey & its edge'
SHADES = (0.0, 0.5, 1.0)


def draw(shade):
    figure = plt.figure(figsize=(1, 0.5), facecolor=str(shade))
    return figure


def slider(**options):
    labels = {"label": lambda shade: f"<i>{shade}</i></script>"} | options
    return FrameSlider(draw, SHADES, name='the "shade"', alt=ALT, dpi=40, **labels)


def test_frames_are_light_and_keep_their_colours():
    def lines(_):
        figure, ax = plt.subplots(figsize=(4, 3))
        ax.plot([0, 1], [0, 1], color="#0072b2", linewidth=8)
        ax.imshow([[0, 1], [2, 3]], extent=(0, 1, 2, 3), cmap="gray")
        return figure

    figure, full = lines(0), io.BytesIO()
    figure.savefig(full, format="png", dpi=100)
    full.seek(0)
    plt.close(figure)
    (encoded,) = FrameSlider(lines, [0], name="n", alt="a").frames
    small = io.BytesIO(base64.b64decode(encoded))
    assert len(small.getvalue()) < 0.7 * len(full.getvalue())
    before, after = (matplotlib.image.imread(file, format="png")[..., :3] for file in (full, small))
    assert abs(before - after).max() < 0.1
    assert (after[0, 0] == 1).all()  # white stays white


class Elements(html.parser.HTMLParser):
    """Every start tag's attributes by name of the tag, and the text of the one script."""

    def __init__(self, source):
        super().__init__()
        self.attributes, self.script, self.inside = {}, "", ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.attributes.setdefault(tag, []).append(dict(attrs))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.script += data


def shade_of(encoded):
    """The grey level and size in pixels of a base64 PNG."""
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(encoded, validate=True)), format="png")
    return picture[0, 0, 0], picture.shape[:2]


def listed(script, name):
    """The array that the script assigns to `name`."""
    value, _ = json.JSONDecoder().raw_decode(script, script.index(f"{name} = ") + len(f"{name} = "))
    return value


def test_every_frame_is_a_png_of_its_value_beside_its_label():
    script = Elements(slider()._repr_html_()).script
    for encoded, shade in zip(listed(script, "frames"), SHADES, strict=True):
        grey, size = shade_of(encoded)
        assert grey == pytest.approx(shade, abs=1 / 255)
        assert size == (20, 40)
    assert listed(script, "labels") == [f"<i>{shade}</i></script>" for shade in SHADES]


@pytest.mark.parametrize(("options", "number"), [({}, 0), ({"still": 1}, 1), ({"still": -1}, 2)])
def test_without_scripts_one_frame_stands_alone_with_its_description(options, number):
    elements = Elements(slider(**options)._repr_html_())
    (image,) = elements.attributes["img"]
    prefix, encoded = image["src"].split(",")
    assert prefix == "data:image/png;base64"
    assert shade_of(encoded)[0] == pytest.approx(SHADES[number], abs=1 / 255)
    assert image["alt"] == ALT
    (control,) = elements.attributes["input"]
    assert control["value"] == str(number)
    (controls,) = (attributes for attributes in elements.attributes["div"] if "hidden" in attributes)
    assert "display" not in controls["style"]  # it would win over `hidden`


def test_markup_in_names_and_labels_is_shown_and_not_obeyed():
    elements = Elements(slider()._repr_html_())
    assert set(elements.attributes) == {"div", "img", "input", "output", "script"}
    (control,) = elements.attributes["input"]
    assert control["aria-label"] == 'the "shade"'
    assert (control["min"], control["max"]) == ("0", "2")


def test_no_request_leaves_the_page():
    source = slider(milliseconds=100)._repr_html_()
    assert not re.search(r"https?:|fetch|XMLHttp|import|url\(|<link", source)
    sources = re.findall(r'(?:src|href)="([^"]*)"', source)
    assert sources
    assert all(address.startswith("data:") for address in sources)


def test_a_play_button_only_where_there_is_a_pace():
    assert "button" not in Elements(slider()._repr_html_()).attributes
    elements = Elements(slider(milliseconds=250)._repr_html_())
    assert elements.attributes["button"][0]["aria-label"] == "play or pause"
    assert "setInterval(advance, 250)" in elements.script


def test_the_same_frames_give_the_same_html_and_others_another_id():
    def identity(source):
        return re.search(r'id="([^"]+)"', source).group(1)

    assert slider()._repr_html_() == slider()._repr_html_()
    other = FrameSlider(draw, [0.3], "shade", "grey")._repr_html_()
    assert identity(other) != identity(slider()._repr_html_())


def test_figures_are_closed_and_the_text_form_is_short():
    before = plt.get_fignums()
    assert repr(slider()) == 'FrameSlider(the "shade": 3 frames)'
    assert plt.get_fignums() == before


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="values must hold at least one frame, got none"):
        FrameSlider(draw, [], "shade", "grey")


@pytest.mark.parametrize("still", [3, -4])
def test_a_still_that_is_no_frame_is_refused(still):
    with pytest.raises(ValueError, match=f"still must number one of the 3 frames, got {still}"):
        slider(still=still)


@pytest.fixture(scope="module")
def browser():
    """A Chromium, where there is one."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_in_a_browser_the_slider_changes_picture_and_label_offline(browser):
    page = browser.new_page(offline=True)
    page.set_content(slider(label=lambda shade: f"<i>{shade}</i>", milliseconds=20)._repr_html_())
    image, output, control = page.locator("img"), page.locator("output"), page.locator("input")
    assert output.text_content() == "<i>0.0</i>"
    control.fill("2")
    assert shade_of(image.get_attribute("src").split(",")[1])[0] == 1.0
    assert output.text_content() == "<i>1.0</i>"
    page.locator("button").click()
    page.wait_for_function("document.querySelector('output').textContent.includes('0.5')")
    page.locator("button").click()
    assert page.locator("button").text_content() == "▶"
    page.close()


@pytest.mark.parametrize("scripts", [True, False])
def test_in_a_browser_the_controls_are_visible_exactly_where_scripts_run(browser, scripts):
    page = browser.new_page(offline=True, java_script_enabled=scripts)
    page.set_content(slider(label=str, milliseconds=20)._repr_html_())
    assert page.locator("img").is_visible()
    assert [page.locator(tag).is_visible() for tag in ("input", "output", "button")] == [scripts] * 3
    page.close()
