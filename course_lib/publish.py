"""Values a chapter's prose quotes from its own run."""

from typing import Any

__all__ = ["glue"]


def glue(name: str, value: Any) -> None:
    """Store `value` under `name` in the running notebook, for the page's text to quote.

    It writes the record that MyST-NB's `glue` roles read, so a page needs nothing but IPython to run, on
    any hosted notebook service. Outside a notebook it does nothing.

    Args:
        name: the key used in the prose.
        value: a number or a string. Tensors of one element become numbers.
    """
    try:
        from IPython import get_ipython
        from IPython.display import publish_display_data
    except ImportError:
        return
    if get_ipython() is None:
        return
    if hasattr(value, "item"):
        value = value.item()
    publish_display_data(
        {"application/papermill.record/text/plain": repr(value)},
        metadata={"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}},
    )
