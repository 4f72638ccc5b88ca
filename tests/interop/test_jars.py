"""Fetching Kafka's jars: what is missing is said, and a download that broke off is never taken for a complete one."""

from __future__ import annotations

from pathlib import Path

import pytest

from .judge import jars


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the only one on the PATH, beside those of the system's shell."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("EVENTCORE_CACHE", str(tmp_path / "cache"))
    return folder


def install(programs: Path, name: str, script: str = "") -> None:
    path = programs / name
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    path.chmod(0o755)


DOWNLOAD = (
    'for a in "$@"; do case $a in -DoutputDirectory=*) mkdir -p "${a#*=}"; echo jar > "${a#*=}/kafka.jar";; esac; done'
)


@pytest.mark.parametrize(("installed", "missing"), [((), "java"), (("java",), "mvn")])
def test_a_missing_program_is_named(programs: Path, installed: tuple[str, ...], missing: str) -> None:
    for name in installed:
        install(programs, name)
    with pytest.raises(jars.JudgeUnavailable, match=f"{missing} is not installed"):
        jars.classpath()


def test_a_download_that_broke_off_is_done_again(programs: Path) -> None:
    install(programs, "java")
    install(programs, "mvn", f"{DOWNLOAD}\necho no network; exit 1")
    with pytest.raises(jars.JudgeUnavailable, match="no network"):
        jars.classpath()
    assert list(jars.cache_folder().iterdir()) == []
    install(programs, "mvn", DOWNLOAD)
    assert jars.classpath() == f"{jars.cache_folder()}/jars/*"
    install(programs, "mvn", "exit 1")  # nothing is fetched a second time
    assert [path.name for path in (jars.cache_folder() / "jars").iterdir()] == ["kafka.jar"]
    jars.classpath()
