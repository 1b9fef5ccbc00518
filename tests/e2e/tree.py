"""Makes files of a board that is written down as text: tree.py FILE.tree FOLDER.

tests/detect/tree.rs says what a line means.
"""

import re
import sys
from pathlib import Path

ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|[n0\\])")
MEANING = {"n": "\n", "0": "\0", "\\": "\\"}


def unescaped(text: str) -> str:
    return ESCAPE.sub(lambda found: MEANING.get(found[1]) or chr(int(found[1][1:], 16)), text)


def put(root: Path, path: str, mode: str, content: str) -> None:
    node = root / unescaped(path)
    node.parent.mkdir(parents=True, exist_ok=True)
    if mode == "link":
        node.symlink_to(content)
        return
    text = unescaped(content)
    node.write_text(text if text == "" or text.endswith("\0") else text + "\n", encoding="latin-1")
    node.chmod(int(mode, 8))


def main(file: str, folder: str) -> None:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            put(Path(folder), *(line.split(" ", 2) + [""])[:3])


main(*sys.argv[1:])
