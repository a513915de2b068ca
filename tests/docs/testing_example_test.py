#!/usr/bin/env python3
"""The handler and its test of docs/writing-a-handler.md, built and run as they stand there.

  testing_example_test.py CXX
"""
import pathlib
import re
import subprocess
import sys
import tempfile

kSource = pathlib.Path(__file__).resolve().parents[2]


def first_code_of(text, heading):
    section = text.partition(f"\n## {heading}\n")[2]
    return re.search(r"^```cpp\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[1]


def main():
    text = (kSource / "docs/writing-a-handler.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "greet.cpp").write_text(first_code_of(text, "Ten lines"), encoding="utf-8")
        (folder / "greet_test.cpp").write_text(first_code_of(text, "Testing a handler"), encoding="utf-8")
        flags = ["-std=c++17", "-g", "-fsanitize=address,undefined", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([sys.argv[1], *flags, f"-I{kSource}/plugin-api/include", "-o", "greet_test", "greet_test.cpp"],
                       cwd=folder, check=True)
        subprocess.run([folder / "greet_test"], check=True)


if __name__ == "__main__":
    main()
