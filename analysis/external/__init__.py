"""Verdicts on scores that were made elsewhere: another harness's logs, a tracker's export, a table typed by hand."""
