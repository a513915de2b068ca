#!/usr/bin/env python3
"""docs/operations.md explains each line that the daemon logs as a warning or an error, and no other."""
import pathlib
import re
import unittest

kSource = pathlib.Path(__file__).resolve().parents[2]


def logged():
    """The first text of each call, or both of a choice: a phrase is always written out there."""
    phrases = set()
    for path in kSource.glob("daemon/**/*.cpp"):
        for call in re.finditer(r"\blog_(warn|error|event|repeated)\(", path.read_text(encoding="utf-8")):
            text = call.string[call.end():]
            if call[1] in ("event", "repeated") and "LogLevel::" not in text[:80] and '"' not in text[:40]:
                continue  # a declaration, or a phrase that is passed on
            start = re.match(r'[^"{;]*', text)[0]
            found = re.match(r'"([^"]+)"(?:\s*:\s*"([^"]+)")?', text[len(start):])
            if found:
                phrases.update(phrase for phrase in found.groups() if phrase)
    return phrases


def documented():
    text = (kSource / "docs/operations.md").read_text(encoding="utf-8")
    tables = text.partition("\n## Log lines\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", tables, re.MULTILINE)
    return {phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row)}


class Operations(unittest.TestCase):
    def test_each_warning_and_error_is_explained(self):
        self.assertGreater(len(logged()), 40)
        self.assertEqual(logged() - documented(), set(), "to be explained in docs/operations.md")

    def test_each_line_that_is_explained_is_logged(self):
        self.assertEqual(documented() - logged(), set(), "to be taken out of docs/operations.md")


if __name__ == "__main__":
    unittest.main()
