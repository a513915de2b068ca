"""What the built `lope` says of itself, read in a way of its own: not as the man pages or the completions do."""
import re
import subprocess


def help_of(lope, command):
    return subprocess.run([lope, *command, "--help"], capture_output=True, text=True, check=True).stdout


def commands_of(text):
    after = text.partition("\nSubcommands:\n")[2].partition("\n\n")[0]
    return re.findall(r"^  (\w[\w-]*) ", after, re.MULTILINE)


def options_of(text):
    listed = re.findall(r"^  (-\S+)", text, re.MULTILINE)
    return {name for names in listed for name in names.split(",")}


def every_command(lope, command=()):
    """Each as a tuple of its words, the first of them ()."""
    yield command
    for name in commands_of(help_of(lope, command)):
        yield from every_command(lope, (*command, name))
