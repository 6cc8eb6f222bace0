"""The commands that the pages show are taken by the programs that they name, and the Python beside them compiles."""

import json
import re
import shlex

import pytest

from tests.support.commands import ROOT, run, start
from tests.test_pages import PAGES

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`((?:python|pip) [^`]+)`")
ALL_PAGES = sorted({*PAGES, *ROOT.glob("examples/*/*.md")})


def commands_of(text):
    """The commands of a shell's text, as lists of words; without comments and parts that only stand for something."""
    for line in re.sub(r"\[--[^\]]*\]", "", text.replace("\\\n", " ")).splitlines():
        lexer, words = shlex.shlex(line, posix=True, punctuation_chars=True), []
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                yield words
                words = []
            else:
                words.append(word)


def shown():
    """Every `python` and `pip` command of the pages, and the first page that has it."""
    found = {}
    for page in ALL_PAGES:
        text = page.read_text()
        scripts = [body for language, body in BLOCK.findall(text) if language == "bash"]
        spans = [span.replace("\n", " ") for span in SPAN.findall(BLOCK.sub("", text))]
        for words in (words for script in [*scripts, *spans] for words in commands_of(script)):
            for program in ("python", "pip"):
                if program in words:
                    found.setdefault(tuple(words[words.index(program) :]), page)
    return found


SHOWN = shown()


def program_of(words):
    """The file that `python` runs, and its arguments; no file for a module that is not of this project."""
    if words[1] != "-m":
        return words[1], words[2:]
    path = words[2].replace(".", "/")
    found = [name for name in (f"{path}.py", f"{path}/__main__.py") if (ROOT / name).exists()]
    return found[0] if found else None, words[3:]


def title(words):
    return " ".join(words[1:])


def check_flags(program, arguments):
    """A program's parser takes the arguments, and its help knows every flag: argparse stops at `--help`."""
    given = [re.sub("=[A-Z]$", "=1", word) for word in arguments if word != "--help"]  # --seed=N stands for any number.
    status, said, errors = run(program, *given, "--help")
    if re.search("(?:No module named '|ImportError: )(torch|sympy)", errors):
        pytest.skip("the extra bench is not installed")
    assert status == 0 or "Try --helpfull" in said, errors  # After its own help absl ends with 1.
    for name in re.findall(r"^--([^=\s]+)", "\n".join(arguments), re.MULTILINE):
        known = rf"--{re.escape(name)}\b|--\[no\]{re.escape(name.removeprefix('no'))}\b"
        assert name == "help" or re.search(known, said), name


@pytest.mark.parametrize("words", [words for words in SHOWN if words[0] == "python"], ids=title)
def test_a_command_of_the_pages_is_taken(words):
    program, arguments = program_of(words)
    for word in arguments:
        if re.match("(pretrained|examples|tests|benchmarks|docs)/", word):
            assert (ROOT / word).exists(), word
    if program is None:
        assert words[2] == "pytest", f"there is no module {words[2]}"
    elif "generate.py" in program:  # An example, which may be run in its own folder.
        assert (ROOT / program).exists() or list(ROOT.glob(f"examples/*/{program}")), program
    else:
        own, _, training = "\n".join([*arguments, ""]).partition("\n--\n")  # For the training that it starts.
        check_flags(program, own.splitlines())
        if training:
            check_flags("train.py", training.splitlines())


# Prints the trainings that no profile takes; `--help` forgives flags that contradict each other.
CONFIGURE = """
import json, sys
from absl import flags
from mocogan_tf import cli
from mocogan_tf.commands import train
train._define_flags()
for flag in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    flags.FLAGS(["train.py", *flag])
    for profile in ("cpu", "paper") if flags.FLAGS.profile == "auto" else (flags.FLAGS.profile,):
        try:
            cli.config_from_flags(profile)
        except ValueError as error:
            print(profile, *flag, error)
"""


def test_the_trainings_of_the_pages_have_a_configuration_on_every_profile_that_may_be_taken():
    trainings = []
    for words in SHOWN:
        after = "train.py" if "train.py" in words else "--"
        if words[0] == "python" and after in words:
            given = words[words.index(after) + 1 :]
            trainings.append([re.sub("=[A-Z]$", "=1", word) for word in given if word != "--help"])
    assert len(trainings) > 20
    assert start("-c", CONFIGURE, json.dumps(trainings)).communicate() == ("", "")


@pytest.mark.parametrize("words", [words for words in SHOWN if words[0] == "pip"], ids=title)
def test_what_the_pages_install_is_there(words):
    extras = re.findall(r'^    "(\w+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE)
    for named in re.findall(r"^\.\[(.*)\]", "\n".join(words), re.MULTILINE):
        assert set(named.split(",")) <= set(extras), named
    if "-r" in words:
        path = words[words.index("-r") + 1]
        assert (ROOT / path).exists() or (SHOWN[words].parent / path).exists(), path


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_compiles(page):
    for language, body in BLOCK.findall(page.read_text()):
        if language == "python":
            compile(body, page.name, "exec")
