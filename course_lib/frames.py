"""A slider over pictures drawn in advance: interactive on a page that has no kernel behind it."""

import base64
import html
import io
import json
import zlib
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["FrameSlider"]

# An inline `display` would win over `hidden`, so only the script sets it: no script, no dead controls.
TEMPLATE = """
<div class="frame-slider" id="{uid}" style="max-width: {width}px">
  <img src="{first}" alt="{alt}" style="width: 100%; height: auto; background: white">
  <div class="frame-slider-controls" hidden style="gap: 0.6em; align-items: center">
    {play}
    <input type="range" min="0" max="{last}" value="{still}" step="1" aria-label="{name}" style="flex: 1">
    <output style="min-width: 7em; font-variant-numeric: tabular-nums">{first_label}</output>
  </div>
  <script>
  (() => {{
    const root = document.getElementById("{uid}");
    const frames = {frames}, labels = {labels};
    const image = root.querySelector("img"), range = root.querySelector("input");
    const controls = root.querySelector(".frame-slider-controls"), button = root.querySelector("button");
    controls.hidden = false;
    controls.style.display = "flex";
    const show = () => {{
      image.src = "data:image/png;base64," + frames[range.value];
      root.querySelector("output").textContent = labels[range.value];
    }};
    range.addEventListener("input", show);
    let timer = null;
    if (button) button.addEventListener("click", () => {{
      if (timer) {{ clearInterval(timer); timer = null; button.textContent = "▶"; return; }}
      button.textContent = "❚❚";
      const advance = () => {{ range.value = (+range.value + 1) % frames.length; show(); }};
      timer = setInterval(advance, {milliseconds});
    }});
  }})();
  </script>
</div>
"""


class FrameSlider:
    """Pictures behind a slider, shown by a few lines of script inside the cell's own output.

    The same object works in Jupyter, in a hosted notebook and on the built page, makes no request, and
    shows one picture where scripts are off and in print.

    Args:
        draw: called with each value; returns the figure, which is closed afterwards.
        values: one frame for each.
        name: what the slider changes, read out by screen readers.
        alt: what the pictures show.
        label: turns a value into the text beside the slider.
        milliseconds: between frames when playing; None shows no play button.
        dpi: of the pictures.
        still: the number of the frame that is shown first, and alone where nothing can move; negative ones
            count from the end.
    """

    def __init__(
        self,
        draw: Callable[..., Figure],
        values: Sequence[object],
        name: str,
        alt: str,
        label: Callable[..., str] = str,
        milliseconds: int | None = None,
        dpi: int = 100,
        still: int = 0,
    ) -> None:
        if not values:
            raise ValueError("values must hold at least one frame, got none")
        if not -len(values) <= still < len(values):
            raise ValueError(f"still must number one of the {len(values)} frames, got {still}")
        self.still = still % len(values)
        self.name, self.alt, self.milliseconds = name, alt, milliseconds
        self.labels = [label(value) for value in values]
        self.frames, self.width = [], 0
        for value in values:
            figure = draw(value)
            self.frames.append(_png(figure, dpi))
            self.width = round(figure.get_figwidth() * dpi)
            plt.close(figure)

    def __repr__(self) -> str:
        return f"FrameSlider({self.name}: {len(self.frames)} frames)"

    def _repr_html_(self) -> str:
        return TEMPLATE.format(
            uid=f"frames-{zlib.crc32(''.join(self.frames).encode()):08x}",
            first=f"data:image/png;base64,{self.frames[self.still]}",
            first_label=html.escape(self.labels[self.still]),
            last=len(self.frames) - 1,
            still=self.still,
            alt=html.escape(self.alt, quote=True),
            name=html.escape(self.name, quote=True),
            width=self.width,
            play=""
            if self.milliseconds is None
            else '<button type="button" aria-label="play or pause">▶</button>',
            milliseconds=self.milliseconds or 0,
            frames=json.dumps(self.frames),
            labels=json.dumps(self.labels).replace("</", "<\\/"),  # "</script>" would end the script
        )


def _png(figure: Figure, dpi: int) -> str:
    """The picture in 256 colours, a third of the bytes of full colour. (Pillow comes with matplotlib.)"""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=dpi)
    picture = Image.open(full).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode("ascii")
