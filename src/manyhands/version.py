"""The version, in one place: the build reads it from here, and asking the installed metadata would be slow at import."""

__version__ = "0.1.0"
