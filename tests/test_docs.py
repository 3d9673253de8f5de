"""The documents: their links, and the site that `make docs` builds of them."""

import re
import runpy
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from html import unescape
from importlib.util import find_spec
from itertools import dropwhile, groupby
from pathlib import Path
from pkgutil import resolve_name

import pytest
import yaml
from typer.main import get_command

import safevlm_hf
from safevlm_cli import app
from safevlm_hf.training.arguments import parse_arguments


ROOT = Path(__file__).parents[1]
API = ROOT / "docs" / "api"
# What a page loads from elsewhere. The theme fetches mermaid where a page has a drawing in it.
FETCHED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//|class=.mermaid""")


def documents() -> list[Path]:
    folders = (ROOT, ROOT / "docs", ROOT / "docs" / "api", ROOT / ".github")
    return sorted(path for folder in folders for path in folder.glob("*.md"))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists() and linked.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(linked), target


def test_every_document_has_its_place_in_the_site():
    placed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(placed) == sorted({"index.md", "contributing.md", "changelog.md", "security.md"} | pages)


def files_in_reading_order() -> list[str]:
    table = (ROOT / "docs" / "design.md").read_text().split("## Files in reading order")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    return [
        name if name.startswith("src/") else f"src/safevlm_hf/{name}"
        for row in rows
        for name in row[1:-1].split("`, `")
    ]


def test_the_table_of_files_names_what_exists_and_leaves_no_module_out():
    named = {name: list(ROOT.glob(name)) for name in files_in_reading_order()}
    assert all(named.values()), [name for name, found in named.items() if not found]
    covered = [path for found in named.values() for path in found]
    modules = [path for path in ROOT.glob("src/**/*.py") if path.stem not in ("__init__", "__main__", "version")]
    assert [path for path in modules if not any(path.is_relative_to(one) for one in covered)] == []


def named_calls() -> list[tuple[Path, str]]:
    """Files and functions that the call lists of design.md name as `file: function`."""
    text = (ROOT / "docs" / "design.md").read_text()
    lists = text.split("## Four ways through the code")[1].split("\n## ")[0]
    roots = {"src": ROOT, "transformers": Path(find_spec("transformers").origin).parents[1]}
    calls = re.findall(r"`([\w/]+\.py): (\w+)`", lists)
    assert len(re.findall(r"^\*\*.+:\*\*$", lists, re.MULTILINE)) == 4 and len(calls) > 40
    return [(roots.get(name.split("/")[0], ROOT / "src" / "safevlm_hf") / name, function) for name, function in calls]


def test_the_call_lists_name_functions_that_exist():
    for path, function in named_calls():
        assert path.is_file(), path
        assert re.search(rf"^ *(def|class) {function}\b", path.read_text(), re.MULTILINE), (path, function)


def test_the_table_of_packages_is_the_contract_that_lint_checks():
    contract = (ROOT / "pyproject.toml").read_text().split('containers = ["safevlm_hf"]')[1].split("\n]")[0]
    program, *layers = [re.findall(r"\w+", line) for line in re.findall(r'^    "(.+)",$', contract, re.MULTILINE)]
    assert program == ["__main__"]
    table = (ROOT / "docs" / "design.md").read_text().split("## Packages")[1].split("\n## ")[0]
    named = [[] for _ in layers]
    for number, names in re.findall(r"^\| (\d+) \| (`.+?) \|", table, re.MULTILINE):
        if names != "`src/safevlm_cli/`":
            named[-int(number)] += re.findall(r"`(\w+)(?:/|\.py)`", names)
    assert list(map(sorted, named)) == layers


def test_prometheus_can_read_the_alert_rules():
    text = (ROOT / "docs" / "operations.md").read_text()
    (group,) = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1])["groups"]
    pytest.importorskip("prometheus_client", reason="needs the extra `serve`")
    from safevlm_hf.serving.metrics import Metrics

    known = {name for metric in Metrics("", "", False).registry.collect() for name in sample_names(metric)}
    for rule in group["rules"]:
        named = set(re.findall(r"\bsafevlm_\w+", rule["expr"]))
        assert rule["alert"] and (named or rule["expr"] == 'up{job="safevlm"} == 0') and named <= known, rule


def sample_names(metric) -> list[str]:
    """What a metric's series are called; a counter without labels counts from the start, and others have none yet."""
    endings = {"counter": ["_total"], "info": ["_info"], "histogram": ["_bucket", "_count", "_sum"]}
    return [metric.name + ending for ending in endings.get(metric.type, [""])]


def api_names() -> list[str]:
    return [name for path in sorted(API.glob("*.md")) for name in re.findall(r"^::: (\S+)$", path.read_text(), re.M)]


def test_the_api_pages_name_what_exists():
    assert len(api_names()) > 40
    for name in api_names():
        assert resolve_name(name).__doc__, name


def test_the_api_pages_have_what_the_package_exports_beside_the_families():
    of_families = {name for family in safevlm_hf.FAMILIES for name in family.__all__}
    exported = set(safevlm_hf.__all__) - of_families - {"FAMILIES", "__version__"}
    assert exported <= {name.rpartition(".")[2] for name in api_names()}


@pytest.mark.ci
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings", reason="needs the extra `docs`")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    index, contributing = (tmp_path / "index.html").read_text(), (tmp_path / "contributing" / "index.html").read_text()
    assert 'href="design/"' in index and 'href="../design/"' in contributing and "docs/design.md)" not in index
    assert re.search(r'<a href="(images/demo\.png)"><img [^>]*src="\1"', index)  # a tap enlarges it
    assert [path for path in tmp_path.rglob("*.html") if FETCHED.search(path.read_text())] == []
    pages = {path.parent.name: as_read(path.read_text()) for path in (tmp_path / "api").rglob("index.html")}
    for page in pages.values():
        assert not re.search(r"\*optional\*|, defaults to|`|(?<!list)\[Safety\w+\]", page)
    models, policy, training = pages["models"], pages["policy"], pages["training"]
    assert "num_safety_tokens (int, default: 64) – vectors in each" in models and "Returns: What Gener" in models
    assert "map (torch.Tensor of shape (images, grid, grid)) – Share of each position" in policy
    assert "num_safety_heads (int | None, default: None) – Stage 1: attention heads of the safety head" in training
    assert "learning_rate (float, default: 1e-05) – The initial learning rate" in training
    assert "Returns: Dataset – A dataset with messages" in training
    assert "processor (SafeProcessor) – as for create_app. name (str) – as for create_app." in pages["serving"]


def as_read(page: str) -> str:
    """The text of a page's main part, with the blanks that a reader sees."""
    text = unescape(re.sub(r"<[^>]+>", "", re.search(r"<article.*</article>", page, re.DOTALL)[0]))
    return re.sub(r"(?<=\() | (?=[,)])", "", " ".join(text.split()))


def test_pictures_in_the_documents_are_files_here_that_say_what_they_show():
    for path in documents():
        text = path.read_text()
        assert "```mermaid" not in text, path
        for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", text):
            assert alt and (path.parent / target).is_file(), (path, target)
    drawing = (ROOT / "docs" / "images" / "data-flow.svg").read_text()
    assert "<title" in drawing and "<desc" in drawing and not re.search(r"<script|href=|@import|url\((?!#)", drawing)


FIGURE = r"(?<![\d.])0\.\d{2,3}\b|(?<![\d.])1\.00\b"


def test_each_figure_of_results_and_limits_has_its_command():
    sections = re.split(r"^## ", (ROOT / "docs" / "results.md").read_text(), flags=re.MULTILINE)[1:]
    measured = [section for section in sections if re.search(FIGURE, section)]
    assert len(measured) > 2 and all(re.search("`make demo`", text) or own_commands(text) for text in measured)
    points = re.split(r"\n(?=- |\n#)", (ROOT / "docs" / "limits.md").read_text())
    measured = [point for point in points if re.search(FIGURE, point)]
    assert len(measured) > 8
    for point in measured:
        assert own_commands(point) or re.search(r"\]\((evaluation|results|backbones)\.md#", point), point


N = r"\**([\d.]*\d)\**"
"""A figure, which may be bold."""

SAID_TWICE = {
    f"questions that are answered . {N} . {N}": rf"\(attack success\) . base ≥ \S+, then ≤ \S+ . {N} . {N}",
    f"questions that are refused . {N} . {N}": rf"\(over-refusal\) . base ≤ \S+, then ≤ \S+ . {N} . {N}",
    f"answers that are right . {N} . {N}": rf"\(exact match\) . base ≥ \S+, then ≥ base - \S+ . {N} . {N}",
    f"right levels . - . {N}, {N}": rf"Category accuracy . ≥ \S+ . - . {N} . . Level \w+ . ≥ \S+ . . . {N}",
    f"both judged rightly . - . {N}": rf"pairs, both right . ≥ \S+ . - . {N}",
    f"Among 1 to 6 sentences {N} of the risky questions": rf"around: 1 to 6 . {N} \(",
    f"in later turns {N}": rf"turn of the question: 2 to 4 . {N} ",
    f"other words: {N} are flagged": rf"shipped head flags {N} in English",
    f'\\("ok", "\\."\\): {N};': rf"\"Your turn.\"\) in {N};",
    f"at most three words: {N}": rf"words of training, {N} \(\S+ to \S+\) are flagged about a risky card",
    f"words joined: {N}": r"with all words joined \*\*([\d.]+)\*\*",
    rf"of {N} are flagged\*\* at (\S+) per": r"at most (\S+) per pixel none of (\d+) risky",
    f"{N} are flagged..? where it takes a ninth of an empty surface, {N} a": (
        f"a quarter of it, {N} are flagged, and of those that take a ninth {N}"
    ),
    f"{N} of harmless words on paper, {N} of risky": rf"harmless words on paper . {N} .* risky words on paper . {N} ",
    f"their look {N} are flagged, {N} among eight": rf"risky picture {N} are flagged alone, .{{14}}{N} among",
    f"are flagged: known sources, sources never seen . - . {N}, {N} . . clean pairs that are flagged . - . {N}": (
        f"flags {N} of risky pairs of known sources in held-out words, {N} of whole .* and {N} of clean pairs"
    ),
    f"are answered: known sources, sources never seen . all . {N}, {N} . . clean \\w+ that are refused . none . {N}": (
        f"answers {N} of the risky questions of known sources and {N} of unknown .* refuses {N} of the clean ones"
    ),
    f"{N} stay flagged among each of ten draws of sentences, {N} are alone": (
        rf"{N} of risky pairs of known sources are flagged alone, .{{30,70}} and {N} \(\S+ to \S+\) among each of ten"
    ),
    f"ours flags {N} of risky pairs of known sources, {N} of": rf"flags {N} of risky .{{30,50}} {N} of whole",
    f"Of clean cards at most {N} are": rf"lit differently . \S+ \(\S+ to \S+\) . {N} ",
}
"""A figure of README to the same one on its page."""


def test_the_figures_of_readme_are_those_of_the_pages():
    results = (ROOT / "docs" / "results.md").read_text().split("## The full demo")[0]
    pages = " ".join((results + (ROOT / "docs" / "limits.md").read_text()).split())
    text, found = " ".join((ROOT / "README.md").read_text().split()), set()
    for here, there in SAID_TWICE.items():
        said, measured = (re.search(here, text).groups(), re.search(there, pages).groups())
        assert sorted(said) == sorted(measured), here
        found |= set(said)
    assert set(re.findall(FIGURE, without_code(text))) <= found


# --------------------------------------------------------------------------------------------------
# Commands
# --------------------------------------------------------------------------------------------------

NOT_RUN = "# not run here"  # the first line of a block that nobody here could run
NEEDS_MORE = re.compile(r"\bhf \w+load|curl -L|torchrun|--bf16|\bdocker |deepspeed|(?:llava-hf|HuggingFaceTB|org)/")


def command_blocks(text: str) -> list[str]:
    return re.findall(r"^ *```bash\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """Each command's words, without texts that are handed over (`<<END`), comments, and variables in front. A quoted
    text may have several lines."""
    block = re.sub(r"<<(\w+)\n.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    found = []
    for line in re.split(r"\n(?=(?:[^']*'[^']*')*[^']*$)", re.sub(r"(?:^| )# .*$", "", block, flags=re.MULTILINE)):
        words = shlex.split(line)
        for is_joint, part in groupby(words, lambda word: word in ("&&", "|", "&", ">")):
            command = list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), part))
            if command and not is_joint and command[0] != "export":
                found.append(command)
    return found


def command_spans(text: str) -> list[list[str]]:
    """The words of each `safevlm ...` and `python ...` between backticks; these may stop at the option in question."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL))
    program = re.compile(r"(?:[A-Z_]+=\S+ )?(?:\.venv[\w-]*/bin/)?(?:safevlm|python)\s")
    return [commands(" ".join(span.split()))[0] for span in spans if program.match(span)]


def is_own(words: list[str]) -> bool:
    return Path(words[0]).name == "safevlm" or script_of(words) is not None


def own_commands(text: str) -> list[list[str]]:
    """The commands of this package and the scripts of this repository that a text names."""
    in_blocks = [words for block in command_blocks(text) for words in commands(block)]
    return [words for words in in_blocks + command_spans(text) if is_own(words)]


def script_of(words: list[str]) -> str | None:
    """The script or module of this repository that a command runs, by whichever launcher."""
    return next((word for word in words if re.fullmatch(r"examples/.+\.py|safevlm_hf\.[\w.]+", word)), None)


def check_command(words: list[str], is_whole: bool = True):
    """Raise where a command of this package, or a script of this repository, has an option that it does not take,
    lacks one that it needs (if it is whole), or names a file that is not there. Others' options are not read."""
    for word in words:
        assert not re.match(r"(examples|tests|src|docs)/", word) or (ROOT / word).exists(), word
    if Path(words[0]).name == "safevlm":
        check_safevlm(words[1:], is_whole)
    elif script := script_of(words):
        check_script(script, words[words.index(script) + 1 :])


def check_safevlm(words: list[str], is_whole: bool):
    command = get_command(app)
    while hasattr(command, "commands") and words and re.match("[a-z]", words[0]):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    if is_whole:
        assert not hasattr(command, "commands"), words
        check_options(command, words)
    elif not command.context_settings.get("ignore_unknown_options"):
        known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts, "--help")}
        assert {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} <= known, words


def check_options(command, words: list[str]):
    # The training's own options are taken by the stages.
    context = command.context_class(command, **command.context_settings)
    try:
        given, left, _ = command.make_parser(context).parse_args(list(words))
    except Exception as error:  # of a class that typer brings along
        raise AssertionError(f"{words}: {error!r}") from None
    missing = [one.name for one in command.params if one.required and given.get(one.name) is None]
    assert not missing and (command.name == "train" or not left), (words, missing, left)
    if command.name == "train":
        check_script("run_stage1" if given.get("stage") == "1" else "run_stage2", left)


def check_script(script: str, words: list[str]):
    words = [word for word in words if word != "$SMALL"]  # a page's variable for further options
    if stage := re.search(r"run_stage(\d)", script):
        if "--deepspeed" in words and find_spec("deepspeed") is None:
            return  # the file is read as the arguments are
        if words and not words[0].endswith((".yaml", ".yml")) and words != ["--help"]:
            parse_arguments(int(stage[1]), [*words, "--use_cpu", "true"])
    else:
        parse_by_script(script, words)


class ParsedError(Exception):
    """Ends a script once it has read its options."""


def parse_by_script(script: str, words: list[str]):
    def parse_and_stop(parser, *_, parse=ArgumentParser.parse_args):
        parse(parser, words)
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [script, *words])
        patch.syspath_prepend(str((ROOT / script).parent))
        run = runpy.run_path if script.endswith(".py") else runpy.run_module
        with pytest.raises(ParsedError):
            run(str(ROOT / script) if script.endswith(".py") else script, run_name="__main__")


PAGES = [path for path in documents() if own_commands(path.read_text())]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_taken_by_their_programs(path):
    text = path.read_text()
    for words in (words for block in command_blocks(text) for words in commands(block)):
        check_command(words)
    for words in command_spans(text):
        check_command(words, is_whole=False)


def test_what_was_not_run_says_so():
    """Whoever needs a GPU, a network or somebody else's data."""
    for block in (block for path in documents() for block in command_blocks(path.read_text())):
        assert not NEEDS_MORE.search(block) or block.startswith(NOT_RUN), block


@pytest.mark.parametrize(
    "command",
    [
        "safevlm data mix runs/mix --stage 1 --vlgard data/vlguard",
        "safevlm data mix runs/mix --vlguard data/vlguard",
        "safevlm data blend runs/mix",
        "safevlm train --trainfile records.jsonl",
        "safevlm train --stage 1 --train_file records.jsonl --lora_r 8",
        "python examples/run_stage1.py --model_name_or_path base --trainfile records.jsonl",
        "python examples/run_stage3.py",
        "python examples/attack_pixels.py --model runs/demo/stage2 --epsilon-max 2",
        "python -m safevlm_hf.harness.export vlgard --data VLGuard",
        "geh run --config examples/guard.yaml",
    ],
)
def test_a_wrong_command_would_be_found(command):
    with pytest.raises((AssertionError, ValueError, SystemExit)):
        check_command(command.split())


def test_a_wrong_option_between_backticks_would_be_found():
    (words,) = command_spans("Try `safevlm evaluate\n--judges-file`.")
    with pytest.raises(AssertionError):
        check_command(words, is_whole=False)
    check_command(command_spans("or `safevlm evaluate --judges`")[0], is_whole=False)
