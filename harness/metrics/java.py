"""Java programs of the caption metrics, run once and to their end: in English, with a time limit, nothing printed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pycocoevalcap

from harness.kit.errors import HarnessError

JARS = Path(pycocoevalcap.__path__[0])
# METEOR reads and writes numbers in the language of its user: under a German one 0.5 is "0,5", and it fails.
ENGLISH = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Duser.language.format=en",
    "-Duser.country.format=US",
    "-Dfile.encoding=UTF-8",
)
# The one variable whose options count more than the command's own.
OVERRIDING = "_JAVA_OPTIONS"


def time_limit_s(texts: int) -> float:
    """Seconds a program may take over so many texts: ten times what one needs, and a slow start."""
    return 300.0 + 0.2 * texts


def java_path(program: str) -> str:
    """The `java` of the PATH; HarnessError, with what to install, where there is none."""
    found = shutil.which("java")
    if found is None:
        raise HarnessError(
            f"{program} runs on Java, and there is no `java` on the PATH: install a Java runtime "
            "(17 for one: apt install openjdk-17-jre-headless)"
        )
    return found


def run_java(program: str, arguments: Sequence[str | Path], text: str = "", *, limit_s: float) -> str:
    """What a Java program writes to stdout when it reads `text`.

    `program`: its name for messages. HarnessError, one line, where Java is absent, the program fails, or it takes more
    than `limit_s` seconds: then it is killed.
    """
    environment = dict(os.environ)
    if OVERRIDING in environment:
        environment[OVERRIDING] = " ".join([environment[OVERRIDING], *ENGLISH])
    command = [java_path(program), *ENGLISH, *map(str, arguments)]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=limit_s, env=environment)
    except subprocess.TimeoutExpired as error:
        raise HarnessError(
            f"{program}: not done after {limit_s:.0f} s, stopped; run again where less else is running"
        ) from error
    except OSError as error:
        raise HarnessError(f"{program}: `{command[0]}` cannot be started ({error.strerror})") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        reason = next((line.strip() for line in said if "rror" in line or "xception" in line), said[-1].strip())
        raise HarnessError(f"{program}: Java ended with status {done.returncode} ({reason})")
    return done.stdout.decode()
