"""What a command imports: nothing that it does not need. Each of these packages takes from half a second to three."""

import subprocess
import sys

import pytest

SLOW = ("torch", "timm", "transformers", "torchvision", "accelerate", "scipy", "sympy", "matplotlib")
REPORT = (
    "import sys\nfrom harness.cli.main import main\n"
    "try:\n    main(sys.argv[2:])\nexcept SystemExit:\n    pass\n"
    "print('slow:', *[name for name in sys.argv[1].split(',') if name in sys.modules])"
)


def imported(*words, of=SLOW):
    found = subprocess.run(
        [sys.executable, "-c", REPORT, ",".join(of), *map(str, words)], capture_output=True, text=True, check=True
    )
    return found.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("run", "--help"),
        ("list",),
        ("run", "--method", "elpi"),
        ("run", "--method", "elip", "--tasks", "vqaa"),
        ("plan", "--method", "elip", "--model", "albef-tinny"),
        ("check", "data", "tests/no-such-folder"),
        ("check", "data", "tests/goldens"),
        ("table", "--runs", "results"),
    ],
    ids=" ".join,
)
def test_what_measures_nothing_imports_no_torch(words):
    assert imported(*words) == "slow:"


def test_a_second_plan_builds_no_host(tmp_path):
    words = ("plan", "--method", "evit", "--ratios", "0.5", "--tasks", "vqa", "--limit", "2", "--out", tmp_path)
    imported(*words)
    assert imported(*words) == "slow: torch"
