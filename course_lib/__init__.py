"""Companion package of the course: one flat module a chapter, and the few services they share."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("course-lib")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"
