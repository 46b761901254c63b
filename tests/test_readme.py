"""The READMEs: commands parse, configs load, snippets run, files exist."""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hiera_det.cli import VERBS
from hiera_det.config import load_config

ROOT = Path(__file__).parents[1]
READMES = (
    "README.md",
    "pretrain/README.md",
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
)
ELSEWHERE = "hiera_det.predict"  # snippets of it need a run: tests/predict/test_docs.py
DOORS = {
    f"{path.parent.name}/{path.name}": re.search(r'main\(\["([\w-]+)"', path.read_text())[1]
    for folder in ("tools", "pretrain")
    for path in (ROOT / folder).glob("*.py")
    if "hiera_det.cli import main" in path.read_text()
}


def blocks(readme: str, *languages: str) -> list[str]:
    text = (ROOT / readme).read_text()
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[tuple[str, list[str]]]:
    """(where, words) of every command of ours: those of code blocks, and of tables."""
    found = []
    for readme in READMES:
        text = "\n".join(blocks(readme, "bash", "sh")).replace("\\\n", " ")
        lines = [part for line in text.splitlines() for part in line.split("&&")]
        lines += re.findall(r"^\| `(hiera-det [^`]*)`", (ROOT / readme).read_text(), flags=re.M)
        for line in lines:
            words = shlex.split(line, comments=True)
            if words and words[0] == "torchrun":
                start = next(k for k, w in enumerate(words) if w.endswith(".py"))
                words = ["python", *words[start:]]
            if words[:1] == ["hiera-det"]:
                found.append((readme, words[1:]))
            elif words[:1] == ["python"] and words[1] in DOORS:
                found.append((readme, [DOORS[words[1]], *words[2:]]))
    return found


COMMANDS = commands()


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 15
    assert {words[0] for _, words in COMMANDS} >= {"train", "eval", "pretrain", "finetune"}


@pytest.mark.parametrize("readme, words", COMMANDS, ids=[" ".join(w)[:60] for _, w in COMMANDS])
def test_command_parses_and_its_config_loads(readme, words, monkeypatch, tmp_path):
    assert words[0] in VERBS
    module = importlib.import_module(f"hiera_det.cli.{words[0].replace('-', '_')}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    required = any(action.required for action in parser._actions)
    if len(words) == 1 and required:
        return  # the verb is only named
    args = parser.parse_args(words[1:])
    if words[0] in ("train", "pretrain", "finetune", "probe", "analyze") and args.config_file:
        monkeypatch.chdir(ROOT if "configs/" in args.config_file else tmp_path)
        load_config(args.config_file, args.opts)


@pytest.mark.parametrize("readme", READMES)
def test_snippets_run(readme, tmp_path):
    for code in blocks(readme, "python"):
        if ELSEWHERE in code:
            continue
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr


def test_snippet_prints_what_its_comment_says():
    code = next(c for c in blocks("README.md", "python") if "print([tuple" in c)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.findall(r"\d+, \d+\)", out.stdout) == ["120, 160)", "60, 80)", "30, 40)", "15, 20)"]


def test_ci_installs_and_tests_as_the_readme_says():
    ci = (ROOT / ".ci/run").read_text()
    line = next(c for c in blocks("README.md", "bash") if "python -m pytest" in c).strip()
    install, test = (part.strip() for part in line.split("&&"))
    assert install.removeprefix("pip install ") in ci and test in ci


@pytest.mark.parametrize("readme", [*READMES, "CONTRIBUTING.md"])
def test_links_and_files_are_there(readme):
    path = ROOT / readme
    text = path.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    named = re.findall(r"`((?:tools|pretrain|configs|benchmarks|docs|tests)/[\w./]+\.\w+)`", text)
    missing = [link for link in links if not (path.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []
