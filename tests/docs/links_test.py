#!/usr/bin/env python3
"""The documents as they are installed: every link of one to another leads to a file, and to a heading that is there."""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

kBuild = sys.argv.pop(1)


def anchors(text):
    """The names that GitHub gives to the headings."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


class Links(unittest.TestCase):
    def test_links_lead_somewhere(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["cmake", "--install", kBuild, "--prefix", folder], check=True, stdout=subprocess.DEVNULL)
            documents = pathlib.Path(folder, "share/doc/lope")
            texts = {path: path.read_text() for path in documents.rglob("*.md")}
            links = [(path, *link) for path, text in texts.items()
                     for link in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text)]
            self.assertGreater(len(links), 100)
            for path, to, anchor in links:
                with self.subTest(document=str(path.relative_to(documents)), link=f"{to}#{anchor}"):
                    target = (path.parent / to).resolve() if to else path
                    self.assertTrue(target.exists())
                    if anchor:
                        self.assertIn(anchor, list(anchors(target.read_text())))


if __name__ == "__main__":
    unittest.main()
