"""Refuses a wheel that lacks the packaged data or puts anything but our private folder and its .pth on the path."""

import sys
from zipfile import ZipFile

NEEDED = (
    "models/data/watch.npz",
    "models/data/digits.npz",
    "models/data/README.md",
    "scenarios/packaged/quickstart.toml",
    "scenarios/reports/page.html",
    "crypto/py.typed",
)

names = ZipFile(sys.argv[1]).namelist()
missing = [name for name in NEEDED if f"gossamer_app/{name}" not in names]
strays = [n for n in names if not n.startswith(("gossamer_app/", "gossamer-")) and n != "gossamer_app.pth"]
if missing or strays or "gossamer_app.pth" not in names:
    sys.exit(f"wheel: missing {missing}, unexpected {strays}")
print(f"wheel: {len(names)} files, all in place")
