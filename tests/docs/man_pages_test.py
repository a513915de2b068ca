#!/usr/bin/env python3
"""The man pages say what the commands, the configuration and the header say: man_pages_test.py LOPE PAGES"""
import json
import pathlib
import re
import subprocess
import sys
import unittest

from commands import every_command, help_of, options_of

kSource = pathlib.Path(__file__).resolve().parents[2]
kLope, kPages = sys.argv[1], pathlib.Path(sys.argv[2])


def shown(page):
    """As a reader sees it, in one line: where lines break is not ours to say."""
    made = subprocess.run(["mandoc", "-Tutf8", "-O", "width=200", kPages / page], capture_output=True, text=True,
                          check=True)
    return " ".join(re.sub(".\b", "", made.stdout).split())


class ManPages(unittest.TestCase):
    def test_each_command_has_a_page_with_its_options(self):
        commands = list(every_command(kLope))
        self.assertGreater(len(commands), 10)
        for command in commands:
            page = "lope.1" if not command else f"lope-{command[0]}.1"
            with self.subTest(command=" ".join(command)):
                self.assertTrue((kPages / page).exists(), f"no page: write docs/man/{page}.scd")
                text = shown(page)
                for option in options_of(help_of(kLope, command)):
                    self.assertRegex(text, rf"(?<![\w-]){option}(?![\w-])")

    def test_each_page_of_a_command_is_of_one_that_is_there(self):
        there = {f"lope-{command[0]}.1" for command in every_command(kLope) if command}
        self.assertEqual({page.name for page in kPages.glob("lope-*.1")}, there)

    def test_lope_1_lists_the_commands(self):
        text = shown("lope.1")
        for command in every_command(kLope):
            if len(command) == 1:
                self.assertIn(f"lope-{command[0]}(1)", text)

    def test_lope_yaml_5_has_each_key_of_the_schema(self):
        schema = json.loads((kSource / "config/lope.schema.json").read_text(encoding="utf-8"))
        text = shown("lope.yaml.5")
        for name, node in [("", schema), *schema["definitions"].items()]:
            if node.get("type") != "object" or "properties" not in node:
                continue
            heading = f"Keys of {name} " if name else "At the top "
            self.assertIn(heading, text)
            section = text.partition(heading)[2].partition(" Keys of ")[0]
            for key in node["properties"]:
                self.assertRegex(section, rf"(?<!\S){key}(?!\S)")

    def test_lope_handler_3_names_what_the_header_has(self):
        header = (kSource / "plugin-api/include/lope/handler.h").read_text(encoding="utf-8")
        text = shown("lope-handler.3")
        outcomes = header.partition("typedef int32_t lope_outcome;")[2].partition("}")[0]
        functions = re.findall(r"\(\*(\w+)\)\(", header)
        self.assertGreater(len(functions), 20)
        for name in re.findall(r"(LOPE_\w+) *=", outcomes) + functions:
            self.assertRegex(text, rf"\b{name}\b")

    def test_mandoc_and_groff_have_nothing_to_say(self):
        for page in sorted(kPages.iterdir()):
            with self.subTest(page=page.name):
                said = subprocess.run(["mandoc", "-Tlint", "-W", "warning", page], capture_output=True, text=True)
                # scdoc writes more of these than are needed.
                ours = [line for line in said.stdout.splitlines() if "skipping paragraph macro" not in line]
                self.assertEqual(ours, [])
                groff = subprocess.run(["groff", "-man", "-Kutf8", "-Tutf8", "-ww", "-z", page], capture_output=True,
                                       text=True)
                self.assertEqual(groff.stderr, "")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
