"""How Java programs are run: never silently, never forever. A shell script stands for Java."""

import os
import time

import pytest

from harness.kit.errors import HarnessError
from harness.metrics import spice
from harness.metrics.java import run_java
from harness.metrics.spice import spice_lacks, spice_scores


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Make a shell script the `java` of the PATH."""

    def install(script):
        path = tmp_path / "java"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


def test_without_java_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HarnessError, match=r"METEOR runs on Java.*install a Java runtime"):
        run_java("METEOR", [], limit_s=1)


def test_a_program_that_hangs_is_killed(java, tmp_path):
    java(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    started = time.monotonic()
    with pytest.raises(HarnessError, match="METEOR: not done after 1 s, stopped"):
        run_java("METEOR", [], limit_s=1)
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_program_that_fails_says_why_in_one_line(java):
    java("echo 'Picked up something' >&2; echo 'Error: Unable to access jarfile' >&2; exit 3")
    with pytest.raises(HarnessError) as caught:
        run_java("METEOR", [], limit_s=60)
    assert str(caught.value) == "METEOR: Java ended with status 3 (Error: Unable to access jarfile)"


def test_what_is_read_and_written_passes_unchanged(java):
    java("cat")
    assert run_java("cat", [], "é\nline\n", limit_s=60) == "é\nline\n"


def test_english_beats_every_option_of_the_user_s(java, monkeypatch):
    monkeypatch.setenv("_JAVA_OPTIONS", "-Xmx1G -Duser.language=de")
    java('echo "$_JAVA_OPTIONS"; echo "$@"')
    options, command = run_java("METEOR", ["-jar", "x.jar"], limit_s=60).splitlines()
    assert options.startswith("-Xmx1G -Duser.language=de -Duser.language=en -Duser.country=US")
    assert command.startswith("-Duser.language=en -Duser.country=US")
    assert command.endswith("-jar x.jar")


def test_spice_without_its_parser_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(spice, "FOLDER", tmp_path)
    assert "stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models.jar not in" in spice_lacks()
    assert "get_stanford_models" in spice_lacks()
    (tmp_path / "lib").mkdir()
    for name in spice.PARSER_JARS:
        (tmp_path / "lib" / name).touch()
    assert spice_lacks() is None


def test_spice_scores_are_each_caption_s_own(java):
    rows = '[{"image_id": 1, "scores": {"All": {"f": 0.25}}}, {"image_id": 0, "scores": {"All": {"f": 0.5}}}]'
    java(f"for last; do :; done; echo '{rows}' > \"$last\"")
    assert spice_scores(["a red ball", "a cube"], [["a ball"], ["a blue cube"]]).tolist() == [0.5, 0.25]


def test_spice_that_leaves_out_a_caption_is_an_error(java):
    java("for last; do :; done; echo '[]' > \"$last\"")
    with pytest.raises(HarnessError, match="SPICE: wrote no score for every caption"):
        spice_scores(["a red ball"], [["a ball"]])
