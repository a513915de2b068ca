#!/usr/bin/env python3
"""The completions offer what the commands take, each in its own shell: completions_test.py LOPE"""
import os
import pathlib
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from commands import commands_of, every_command, help_of, options_of

kFolder = pathlib.Path(__file__).resolve().parents[2] / "packaging/completions"
kLope = sys.argv[1]
kEnvironment = {**os.environ, "PATH": f"{pathlib.Path(kLope).parent}:{os.environ['PATH']}"}

# Each asks its shell for many lines at once, since starting one takes long: a line of its answer for each.
kBash = """. {folder}/lope.bash
ask() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _lope; echo "${{COMPREPLY[*]}}"; }}
"""
kFish = """source {folder}/lope.fish
function ask; echo (complete -C (string join ' ' -- $argv) | string replace -r '\\t.*' ''); end
"""
# Without what zsh draws, and without its choice among what it is offered.
kZsh = """fpath=({folder} $fpath); autoload -U _lope
_describe() {{ offered+=(${{${{(@P)2}}%%:*}}) }}
_files() {{ offered+=(*) }}
ask() {{ words=("$@"); CURRENT=$#; offered=(); _lope; print -r -- $offered; }}
"""


def ask(shell, lines, folder):
    """What is offered for the last word of each line."""
    script = {"bash": kBash, "fish": kFish, "zsh": kZsh}[shell].format(folder=kFolder)
    script += "\n".join("ask " + " ".join(shlex.quote(word) for word in line) for line in lines)
    without_settings = {"bash": "--norc", "fish": "--no-config", "zsh": "-f"}[shell]
    done = subprocess.run([shell, without_settings, "-c", script], capture_output=True, text=True, env=kEnvironment, cwd=folder)
    assert done.stderr == "", done.stderr
    answers = [set(line.split()) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines), done.stdout
    return answers


class Completions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.socket = cls.folder.name + "/control.sock"
        config = pathlib.Path(cls.folder.name) / "lope.yaml"
        config.write_text("broker: amqp://127.0.0.1:1\n"
                          f"control: {{ socket: {cls.socket} }}\n"
                          "groups: { orders: { handler: log }, mail.out: { handler: log } }\n", encoding="utf-8")
        cls.daemon = subprocess.Popen([kLope, "run", "--config", config], stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while not os.path.exists(cls.socket):
            assert time.monotonic() < end and cls.daemon.poll() is None, "lope run does not come up"
            time.sleep(0.02)  # between two looks

    @classmethod
    def tearDownClass(cls):
        cls.daemon.send_signal(signal.SIGQUIT)
        cls.daemon.wait()
        cls.folder.cleanup()

    def test_commands_and_options_are_those_of_the_help(self):
        for shell in ("bash", "fish", "zsh"):
            commands = list(every_command(kLope))
            lines, expected = [], []
            for command in commands:
                text = help_of(kLope, command)
                lines.append(["lope", *command, "--"])
                expected.append({option for option in options_of(text) if option.startswith("--")})
                if commands_of(text):
                    lines.append(["lope", *command, ""])
                    expected.append(set(commands_of(text)))
            for line, answer, right in zip(lines, ask(shell, lines, self.folder.name), expected, strict=True):
                with self.subTest(shell=shell, line=" ".join(line)):
                    # Of zsh's own matching only that is left out which drops what does not begin so.
                    self.assertEqual({word for word in answer if word.startswith(line[-1])}, right)

    def test_groups_are_those_of_the_daemon(self):
        lines = [["lope", "scale", "--socket", self.socket, ""], ["lope", "restart", "-s", self.socket, ""],
                 ["lope", "scale", "--socket", self.socket, "orders", ""]]
        for shell in ("bash", "fish", "zsh"):
            with self.subTest(shell=shell):
                self.assertEqual(ask(shell, lines, self.folder.name), [{"orders", "mail.out"}] * 2 + [set()])

    def test_files_are_offered_where_a_file_is_wanted(self):
        lines = [["lope", *words, "lope.y"]
                 for words in (["run", "--config"], ["publish", "--file"], ["inspect"], ["publish", "--queue"])]
        for shell in ("bash", "fish", "zsh"):
            with self.subTest(shell=shell):
                found = ["lope.yaml" in answer for answer in ask(shell, lines, self.folder.name)]
                self.assertEqual(found, [True, True, True, False])

    def test_zsh_completes_at_its_prompt(self):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvpe("zsh", ["zsh", "-f", "-i"], {**kEnvironment, "TERM": "dumb", "PS1": "> "})
        try:
            seen = ""

            def wait(pattern):
                nonlocal seen
                end = time.monotonic() + 20
                while not re.search(pattern, seen):
                    self.assertLess(time.monotonic(), end, f"not seen: {pattern}: {seen!r}")
                    if select.select([terminal], [], [], 0.1)[0]:
                        seen += os.read(terminal, 4096).decode(errors="replace")

            set_up = f"fpath=({kFolder} $fpath); autoload -U compinit; compinit -u -D; print re''ady\n"
            os.write(terminal, set_up.encode())
            wait("ready")
            seen = ""
            os.write(terminal, b"lope inspe\t")
            wait("lope inspect ")
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(terminal)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
