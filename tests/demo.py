"""The guided demo (`make demo`): from a checkpoint and a folder of sound to answers, on this machine, in about a
minute.

No published checkpoint is downloaded: a small stand-in with random weights takes its place, so every step is the real
one but words mean nothing to it. What it can do is hear that two files hold the same sound, and that is checked.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from small_model import small_checkpoint
from sounds import make_sound

#: Each sound in two formats, the second one lossy: the pair must find each other.
PAIRS = [("wav", "mp3"), ("flac", "opus"), ("aiff", "m4a"), ("wav", "ogg"), ("flac", "aac"), ("wav", "wma")]
KINDS = ("tone", "noise", "chord", "tone", "chord", "tone")  # two noises are alike to any model


def make_sounds(folder: Path) -> list[tuple[Path, Path]]:
    pairs = []
    for i, (first, second) in enumerate(PAIRS):
        kind = KINDS[i]
        name = f"{kind}-{i}"
        tags = {"title": name, "genre": kind}
        pairs.append(
            (
                make_sound(folder / "originals" / f"{name}.{first}", 14.0, kind, seed=i, tags=tags),
                make_sound(folder / "copies" / f"{name}.{second}", 14.0, kind, seed=i, tags=tags),
            )
        )
    (folder / "broken.mp3").write_text("this is not music")
    return pairs


def run(*arguments: str, show: int = 12) -> str:
    """Run one command as a user types it, show it and the first lines of what it says, and return its stdout."""
    sys.stdout.write(f"\n$ mlxclap {shlex.join(arguments)}\n")
    sys.stdout.flush()
    result = subprocess.run([sys.executable, "-m", "mlx_clap_engine.cli", *arguments], capture_output=True, text=True)
    lines = (result.stderr + result.stdout).splitlines()
    sys.stdout.write("".join(f"  {line}\n" for line in lines[:show]))
    if len(lines) > show:
        sys.stdout.write(f"  ... {len(lines) - show} more lines\n")
    if result.returncode:
        raise SystemExit(f"`mlxclap {shlex.join(arguments)}` failed with exit code {result.returncode}")
    return result.stdout


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mlxclap-demo-") as scratch:
        folder = Path(scratch)
        os.environ |= {"MLXCLAP_MODELS": str(folder / "models"), "MLXCLAP_LIBRARY": str(folder / "library")}
        sys.stdout.write(__doc__.split("\n", 1)[1].strip() + "\n")
        run("convert", str(small_checkpoint(folder / "stand-in")), "--force")
        pairs = make_sounds(folder / "sounds")
        run("ingest", str(folder / "sounds"))
        again = json.loads(run("ingest", "--json", "-q", str(folder / "sounds")).splitlines()[-1])
        assert again["embedded"] == 0 and again["unchanged"] == 2 * len(PAIRS), again
        run("query", "--text", "a dog barking", "-k", "3")
        run("query", "--like", str(pairs[0][0]), "-k", "3")
        run("query", "--text", "rain", "--windows", "--filter", "genre = noise", "-k", "3")
        found = 0
        for original, copy in pairs:
            row = json.loads(run("query", "--like", str(original), "-k", "1", "--json", show=1).splitlines()[0])
            found += row["path"] == str(copy)
        assert found == len(pairs), f"only {found} of {len(pairs)} originals found their lossy copy first"
        run("export", "--jsonl", str(folder / "library.jsonl"))
        run("status")
        sys.stdout.write(
            f"\nEvery one of {found} originals found its lossy copy first. On your own folder, with a real model:\n"
            "  mlxclap convert            (brings in laion/larger_clap_general, a 776 MB download)\n"
            "  mlxclap ingest FOLDER\n"
            '  mlxclap query --text "tense cinematic minimal"\n'
        )


if __name__ == "__main__":
    main()
