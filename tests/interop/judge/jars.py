"""The jars of Kafka's own software, fetched once with maven into a cache folder outside the checkout.

`${EVENTCORE_CACHE:-~/.cache/eventcore}/kafka-<version>/jars` exists only when it is complete: maven copies into a
neighbour folder that is renamed at the end, so what an interrupted download left behind is never taken for jars.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

KAFKA_VERSION = os.environ.get("EVENTCORE_KAFKA_VERSION", "4.3.1")
POM = Path(__file__).with_name("pom.xml")
SMALL_JVM = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""C1 only, one garbage collector thread: the JVMs here live for seconds and share the machine with the tests."""
_FETCH_TIMEOUT_S = 600


class JudgeUnavailable(Exception):
    """Kafka's software cannot be had on this machine; the message says what is missing."""


def cache_folder() -> Path:
    """Where everything of this Kafka version is kept between runs."""
    base = os.environ.get("EVENTCORE_CACHE") or Path.home() / ".cache" / "eventcore"
    return Path(base).expanduser() / f"kafka-{KAFKA_VERSION}"


def require(program: str) -> str:
    """The path of a program, or JudgeUnavailable."""
    path = shutil.which(program)
    if path is None:
        raise JudgeUnavailable(f"{program} is not installed (a JDK 17 or newer and maven are needed)")
    return path


def classpath() -> str:
    """The java class path of the broker and its tools; downloads it (45 MB) at the first call on a machine."""
    require("java")
    jars = cache_folder() / "jars"
    if not jars.is_dir():
        _fetch(jars)
    return f"{jars}/*"


def _fetch(jars: Path) -> None:
    maven = require("mvn")
    jars.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="jars-", dir=jars.parent) as unfinished:
        output = Path(unfinished) / "jars"
        _run_maven(maven, output)
        try:
            output.rename(jars)
        except OSError:
            if not jars.is_dir():  # else another run finished first
                raise


def _run_maven(maven: str, output: Path) -> None:
    command = [maven, "-q", "-B", "-f", str(POM), f"-Dkafka.version={KAFKA_VERSION}"]
    command += ["dependency:copy-dependencies", f"-DoutputDirectory={output}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise JudgeUnavailable(f"maven did not fetch Kafka {KAFKA_VERSION} in {_FETCH_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise JudgeUnavailable(f"maven cannot fetch Kafka {KAFKA_VERSION}: {(done.stdout + done.stderr)[-500:]}")


def java(
    main_class: str, *arguments: str, options: tuple[str, ...] = (), jvm: tuple[str, ...] = SMALL_JVM
) -> list[str]:
    """The command line that runs a class of Kafka's, in a small JVM if nothing else is said."""
    return [require("java"), *jvm, "-Dfile.encoding=UTF-8", *options, "-cp", classpath(), main_class, *arguments]
