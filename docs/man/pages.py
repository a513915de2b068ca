#!/usr/bin/env python3
"""Makes the man pages: pages.py LOPE SCHEMA OUTPUT

Each NAME.SECTION.scd beside this script becomes OUTPUT/NAME.SECTION, by scdoc(1). What is said elsewhere is taken from
there: of lope-COMMAND.1 the file has only what `lope COMMAND --help` does not say, and @COMMANDS@ in lope.1 and @KEYS@
in lope.yaml.5 stand for what `lope --help` and the JSON Schema know.
"""
import json
import os
import pathlib
import re
import subprocess
import sys


def escape(text):
    return re.sub(r"([\\_*#<>~\[\]|`@.])", r"\\\1", text)


class Help:
    """What --help of a command says: a first line, a usage, sections of entries, paragraphs."""

    def __init__(self, lope, command):
        self.sections = {}  # title: [(words, description)]
        self.about, self.usage, self.notes, self.exit_codes = "", "", [], ""
        done = subprocess.run([lope, *command, "--help"], capture_output=True, text=True, check=True)
        entries, paragraph = None, []

        def end_paragraph():
            text = " ".join(paragraph)
            paragraph.clear()
            if text.startswith("Exit codes: "):
                self.exit_codes = text.removeprefix("Exit codes: ")
            elif text:
                self.notes.append(text)

        lines = done.stdout.splitlines()
        for line in lines:
            entry = re.match(r"  (\S.*?)(?:  +(.*))?$", line)
            title = re.match(r"(\S.*):$", line)
            if not line:
                end_paragraph()
            elif entry and entries is not None:
                entries.append([entry[1], entry[2] or ""])
            elif re.match(r" {3,}", line) and entries:
                entries[-1][1] = f"{entries[-1][1]} {line.strip()}".strip()
            elif title and not paragraph:
                entries = self.sections.setdefault(title[1], [])
            elif line.startswith("Usage: "):
                self.usage = line.removeprefix("Usage: ")
            elif not self.about:
                self.about = line
            else:
                paragraph.append(line)
        end_paragraph()

    def commands(self):
        return [name for name, _ in self.sections.get("Subcommands", [])]


def entry(words, description):
    """An option with its names in bold, and of what CLI11 says of its value only what a reader needs."""
    names, _, value = words.partition(" ")
    value = re.sub(r"^\w+:", "", value).replace("REQUIRED", "").strip()
    kind, _, default = value.partition("=")
    shown = ", ".join(f"*{escape(name)}*" for name in names.split(","))
    if kind and not names.startswith("-"):
        kind = ""
    if kind:
        shown += f" {escape(kind)}"
    if default:
        description += f" (default: {default})"
    return f"{shown}\n\t{escape(description)}\n\n"


def options(found):
    text = ""
    for title, entries in found.sections.items():
        if title == "Subcommands":
            continue
        if title not in ("Options", "Positionals"):
            text += f"{escape(title)}:\n\n"
        text += "".join(entry(*each) for each in entries)
    return text


def escaped_paragraphs(texts):
    return "".join(f"{escape(text)}\n\n" for text in texts)


def command_page(lope, command, own):
    """`own`: more of the description, and then sections."""
    found = Help(lope, [command])
    below = [Help(lope, [command, name]) for name in found.commands()]
    common = [note for note in (below[0].notes if below else []) if all(note in each.notes for each in below)]
    codes = dict.fromkeys(each.exit_codes for each in (found, *below) if each.exit_codes)
    description, heading, sections = own.partition("# ")

    page = f"# NAME\n\nlope-{command} - {found.about[0].lower()}{escape(found.about[1:])}\n\n"
    page += f"# SYNOPSIS\n\n*lope {command}*{escape(found.usage.removeprefix('lope ' + command))}\n\n"
    page += "# DESCRIPTION\n\n" + description + escaped_paragraphs(found.notes + common)
    page += "# OPTIONS\n\n" + options(found)
    for each in below:
        general = found.sections["Options"]
        each.sections["Options"] = [option for option in each.sections["Options"] if option not in general]
        page += f"## {each.usage.replace('[OPTIONS] ', '')}\n\n{escape(each.about)}.\n\n"
        page += escaped_paragraphs(note for note in each.notes if note not in common) + options(each)
    if codes:
        page += "# EXIT STATUS\n\n" + escaped_paragraphs(codes)
    return page + heading + sections


def resolve(schema, node):
    """A key's own words and those of what it refers to."""
    while "$ref" in node:
        more = schema["definitions"][node["$ref"].rsplit("/", 1)[1]]
        node = {**more, **{key: value for key, value in node.items() if key != "$ref"}}
        if "$ref" in more:
            node["$ref"] = more["$ref"]
    return node


def objects_in(schema, node, seen):
    """The objects that a key can hold, by the names of their definitions."""
    items = node.get("items", {})
    for each in (node, *node.get("oneOf", []), items, *items.get("oneOf", []), node.get("additionalProperties")):
        if not isinstance(each, dict) or "$ref" not in each:
            continue
        name = each["$ref"].rsplit("/", 1)[1]
        if name in seen:
            continue
        seen.add(name)
        if "properties" in schema["definitions"][name]:
            yield name
        else:
            yield from objects_in(schema, schema["definitions"][name], seen)


def key_entry(key, known, below):
    about = [known["description"]] if "description" in known else []
    if below:
        about.append("See the keys of " + ", ".join(below))
    if "enum" in known:
        about.append(", ".join(json.dumps(each).strip('"') for each in known["enum"]))
    if "minimum" in known and "maximum" in known:
        about.append(f"{known['minimum']} to {known['maximum']}")
    default = json.dumps(known.get("default", "")).strip('"')
    text = ". ".join(about) or f"Type: {known.get('type', 'map')}"
    return f"*{escape(key)}*\n\t{escape(text)}{f' (default: {escape(default)})' if default else ''}\n\n"


def keys(schema):
    text, waiting, done = "", [("", schema)], set()
    while waiting:
        title, node = waiting.pop(0)
        text += f"## {'Keys of ' + title if title else 'At the top'}\n\n"
        for key, value in node["properties"].items():
            below = list(objects_in(schema, value, set()))
            text += key_entry(key, resolve(schema, value), below)
            waiting += [(name, schema["definitions"][name]) for name in below if name not in done]
            done.update(below)
    return text


def main():
    lope, schema, output = sys.argv[1:4]
    # A date of its own in each page would make each build another.
    os.environ.setdefault("SOURCE_DATE_EPOCH", str(int(pathlib.Path(schema).stat().st_mtime)))
    pathlib.Path(output).mkdir(parents=True, exist_ok=True)
    overview = Help(lope, [])
    for source in sorted(pathlib.Path(__file__).parent.glob("*.scd")):
        name, section = source.stem.rsplit(".", 1)
        text = source.read_text(encoding="utf-8")
        if section == "1" and name.startswith("lope-"):
            text = command_page(lope, name.removeprefix("lope-"), text)
        text = text.replace("@COMMANDS@\n", "".join(f"*lope-{command}*(1)\n\t{escape(about)}\n\n"
                                                    for command, about in overview.sections["Subcommands"]))
        text = text.replace("@OPTIONS@\n", options(overview))
        if "@KEYS@\n" in text:
            text = text.replace("@KEYS@\n", keys(json.loads(pathlib.Path(schema).read_text(encoding="utf-8"))))
        made = subprocess.run(["scdoc"], input=f'{name}({section}) "" "Lope"\n\n{text}', capture_output=True, text=True)
        if made.returncode != 0:
            sys.exit(f"{source}: scdoc: {made.stderr.strip()}")
        (pathlib.Path(output) / source.stem).write_text(made.stdout, encoding="utf-8")


if __name__ == "__main__":
    main()
