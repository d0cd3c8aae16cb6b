"""The documentation's site: pages made from the code, links of docstrings, llms.txt, and how pages look in Chromium."""

import functools
import http.server
import itertools
import re
import runpy
import shutil
import threading

import pytest
import yaml
from typer.main import get_command

from cfcam_gpu import cli

from .browser import chromium
from .needs import module
from .pages import ROOT

DOCS = ROOT / "docs"
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):")


def hook(name):
    """A hook's variables."""
    return runpy.run_path(str(DOCS / "hooks" / f"{name}.py"))


def commands():
    for name, command in get_command(cli.app).commands.items():
        for inner, one in getattr(command, "commands", {"": command}).items():
            yield f"cfcam-gpu {name} {inner}".removesuffix(" SUITE").strip(), one


def test_every_command_is_on_its_page_with_its_options_and_its_exit_status():
    sections = {part.partition("\n")[0][3:]: part for part in hook("commands")["described"]()}
    expected = dict(commands())
    assert sections.keys() == expected.keys()
    for name, command in expected.items():
        text = sections[name]
        for parameter in command.params:
            assert (
                "--help" in parameter.opts
                or re.search(rf"^`.*{parameter.opts[-1]}\b", text, re.MULTILINE)
                or (
                    parameter.param_type_name == "argument"
                    and f"`{parameter.metavar or parameter.name.upper()}" in text
                )
            ), (name, parameter.opts)
        assert (command.epilog is None) == ("**Exit status:**" not in text), name
        assert re.search(r"x&gt;=|&lt;=x|<(?:str|int|list)|default: \(", text) is None, name  # words, and no code


@pytest.mark.slow
def test_every_path_and_refusal_of_the_service_is_on_its_page_with_an_answer(peer):
    peer("efficientnet_lite_pytorch")
    text = "\n\n".join(hook("http")["described"]())
    paths = {"GET /health", "GET /live", "GET /ready", "GET /metrics", "POST /explain"}
    assert paths <= set(re.findall(r"^## (.*)$", text, re.MULTILINE))
    refusals = dict(part.split("\n", 1) for part in text.split("\n### ")[1:])
    assert list(refusals) == ["400", "403", "408", "411", "413", "422", "429", "431", "500", "503"]
    for part in refusals.values():
        assert re.search(r"```\ncurl .*\n```\n\n```json\n\{\n  \"error\": ", part), part
    assert '"class": "tiger cat"' in text
    assert "| `explanations[].top[].probability` |" in text


def test_roles_of_docstrings_become_links():
    griffe = module("griffe", "PEERS")
    extensions = griffe.load_extensions(str(DOCS / "hooks" / "roles.py"))
    found = griffe.load("cfcam_gpu.engines", search_paths=[str(ROOT)], extensions=extensions)
    text = found["choose"].docstring.value
    assert '<autoref optional identifier="cfcam_gpu.engines.resolve"><code>resolve</code></autoref>' in text
    assert ROLE.search(text) is None


def of_navigation(entries):
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from of_navigation(value) if isinstance(value, list) else [value]


class _Loader(yaml.SafeLoader):
    """mkdocs.yml as it is; what is for Python there is passed over."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def test_llms_txt_has_the_pages_of_the_navigation():
    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    assert re.match(r"# .+\n\n> ", text)
    listed = re.findall(r"^- \[.+?\]\(docs/(.+?)\): \S", text, re.MULTILINE)
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"]
    pages = {page for page in of_navigation(navigation) if page == "api/index.md" or not page.startswith("api/")}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def built(out, **changed):
    """The site, in a folder."""
    module("material", "PEERS")
    build = module("mkdocs.commands.build", "PEERS").build
    load_config = module("mkdocs.config", "PEERS").load_config
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(out), **changed)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return out


#: Elements of a page that reach beyond the window, though nothing around them scrolls.
BEYOND = """width => [...document.querySelectorAll("article *")].filter(one => {
    if (one.getBoundingClientRect().right <= width + 1) return false;
    for (let at = one; at; at = at.parentElement)
        if (["auto", "scroll", "hidden"].includes(getComputedStyle(at).overflowX)) return false;
    return true;
}).map(one => one.outerHTML.slice(0, 200))"""
#: The least contrast of a page's links and text with what is behind them (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
    const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
    const rgb = (...colors) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = color => color.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = one => {
        const behind = [];
        for (let at = one; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
        const [a, b] = [light(rgb(...behind, getComputedStyle(one).color)), light(rgb(...behind))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    };
    const shown = ["p", "li", "td", "code", "a:not(.headerlink)"].map(one => "article " + one)
        .flatMap(one => [...document.querySelectorAll(one)].slice(0, 40));
    return Math.min(...shown.map(contrast));
}"""


CASES = tuple(itertools.product((390, 1400), ("light", "dark")))


def check(site, pages, cases=CASES):
    """Every page in windows of these widths and colours: it is no wider than the window, and its text can be read."""
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, chromium() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for width, scheme in cases:
            page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
            for name in pages:
                page.goto(f"http://127.0.0.1:{server.server_port}/{name}")
                case = name, width, scheme
                assert page.evaluate("document.documentElement.scrollWidth") <= width, case
                assert page.evaluate(BEYOND, width) == [], case
                assert page.evaluate(CONTRAST) >= 4.5, case
                dark = page.evaluate("document.body.dataset.mdColorScheme") == "slate"
                assert dark == (scheme == "dark"), case
        server.shutdown()


@pytest.mark.slow
def test_pages_fit_their_window_and_can_be_read(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("commands.md", "cost.md", "extra.css"):
        shutil.copy(DOCS / name, docs)
    site = built(tmp_path / "site", docs_dir=str(docs), nav=["commands.md", "cost.md"])
    check(site, ["commands/", "cost/"], CASES[::3])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_page_fits_its_window_and_shows_no_role(tmp_path, peer):
    peer("efficientnet_lite_pytorch")
    site = built(tmp_path / "site", strict=True)
    pages = sorted(page.parent.relative_to(site).as_posix() + "/" for page in site.rglob("index.html"))
    assert len(pages) > 30
    for page in pages:
        assert ROLE.search((site / page / "index.html").read_text(encoding="utf-8")) is None, page
    listed = re.findall(r"\]\(([\w/.]+/)\)", (site / "llms.txt").read_text(encoding="utf-8"))
    assert len(listed) > 20
    assert all((site / page / "index.html").is_file() for page in listed)
    check(site, pages)
