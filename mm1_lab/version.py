"""The version of the package, which scores record, too."""

__version__ = "0.5.1.dev0"
