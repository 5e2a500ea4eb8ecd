"""The version of the package, which scores record, too."""

__version__ = "0.6.0.dev0"
