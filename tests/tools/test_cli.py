# SPDX-License-Identifier: Apache-2.0
import json
import signal
import subprocess
import sys

import pytest

from vllm_ascend_ext import __version__, cli
from vllm_ascend_ext.config import ConfigError
from vllm_ascend_ext.integration.errors import StartupError, UnsupportedCombinationError
from vllm_ascend_ext.tools.demo import run as demo
from vllm_ascend_ext.tools.demo.input import DemoOptions, bundled_model, model_len, read_prompts
from vllm_ascend_ext.tools.demo.report import SCHEMA
from vllm_ascend_ext.tools.forked_ranks import RankError

CONFIG = {
    "num_attention_heads": 4,
    "n_routed_experts": 16,
    "moe_intermediate_size": 64,
    "num_nextn_predict_layers": 2,
    "max_position_embeddings": 2048,
}
DOCUMENT = {
    "schema": SCHEMA,
    "model": "models/tiny",
    "layout": {"tp": 2, "dp": 1, "expert_parallel": True, "num_speculative_tokens": 1},
    "layers": [
        {"name": "model.layers.1.mlp.experts", "draft": False, "load": [5, 7]},
        {"name": "model.layers.2.mlp.experts", "draft": True, "load": [0, 0]},
    ],
}


@pytest.fixture(autouse=True)
def own_process_state(monkeypatch):
    """The demo sets this process's environment and signal handler; here that would reach other tests."""
    monkeypatch.setattr(demo, "prepare_process", lambda *, debug: None)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").touch()
    return folder


def run(capsys, *arguments):
    """Exit status, stdout and stderr of one command."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    return status, output.out, output.err


def assert_one_line(err, *parts):
    assert err.startswith("vllm-ascend-ext: error: ") and err.count("\n") == 1 and err.endswith("\n")
    for part in parts:
        assert part in err


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"vllm-ascend-ext {__version__}\n", "")


def test_help_imports_nothing_heavy():
    code = "import sys; from vllm_ascend_ext import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'vllm', 'rich', 'pydantic'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "COMMAND"),
        (["serve"], "invalid choice: 'serve'"),
        (["demo", "--tp", "two"], "--tp: invalid int value: 'two'"),
        (["demo", "--dtype", "fp8"], "--dtype"),
        (["demo", "--model", "no/such/model"], "no/such/model: no such folder"),
        (["heatmap", "report.json"], "OUT.png"),
    ],
)
def test_wrong_arguments(capsys, arguments, part):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert_one_line(err, part)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--tp", 0], ["--tp 0", "at least 1"]),
        (["--dp", -1], ["--dp -1", "at least 1"]),
        (["--max-tokens", 0], ["--max-tokens 0"]),
        (["--max-tokens", 4000], ["2048 positions", "lower --max-tokens"]),
        (["--k", -1], ["--k -1"]),
        (["--k", 17], ["--k 17", "to 16"]),
        (["--k", 3], ["multiple of 2"]),
        (["--tp", 3], ["4 attention heads", "choose another --tp"]),
        (["--tp", 1, "--dp", 3], ["16 experts", "3 ranks", "--no-ep"]),
        (["--tp", 1, "--dp", 3, "--no-ep"], ["moe_intermediate_size", "--ep"]),
        (["--tp", 4, "--dp", 32], ["64 ranks"]),
        (["--prompts", "no/such/file"], ["no/such/file: cannot be read"]),
        (["--heatmap", "."], ["heat map .: cannot be written"]),
        (["--heatmap", "/proc/none/a.png"], ["/proc/none/a.png: cannot be written"]),
    ],
)
def test_impossible_demo(capsys, model, arguments, parts):
    status, out, err = run(capsys, "demo", "--model", model, *arguments)
    assert (status, out) == (2, "")
    assert_one_line(err, *parts)


@pytest.mark.parametrize(
    ("config", "arguments", "part"),
    [
        ("{", [], "config.json cannot be read"),
        ("[]", [], "not a JSON object"),
        ({"num_nextn_predict_layers": 0}, [], "choose --k 0"),
        ({"n_routed_experts": 0}, [], "no routed experts"),
        ({"num_attention_heads": "four"}, [], "num_attention_heads is 'four'"),
    ],
)
def test_unfit_model(capsys, model, config, arguments, part):
    text = config if isinstance(config, str) else json.dumps(CONFIG | config)
    (model / "config.json").write_text(text)
    status, _, err = run(capsys, "demo", "--model", model, *arguments)
    assert status == 2
    assert_one_line(err, part)


def test_incomplete_model(capsys, model):
    (model / "model.safetensors").unlink()
    assert_one_line(run(capsys, "demo", "--model", model)[2], "no *.safetensors")
    (model / "config.json").unlink()
    assert_one_line(run(capsys, "demo", "--model", model)[2], "no config.json")


def test_missing_bundled_model_names_the_argument(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("vllm_ascend_ext.__file__", str(tmp_path / "vllm_ascend_ext" / "__init__.py"))
    assert bundled_model() is None
    status, _, err = run(capsys, "demo")
    assert status == 2
    assert_one_line(err, "--model DIR")


def test_prompt_files(capsys, model, tmp_path):
    lines, listing = tmp_path / "prompts.txt", tmp_path / "prompts.json"
    lines.write_text("def a():\n\nclass B:\n")
    assert read_prompts(lines) == ("def a():", "class B:")
    listing.write_text(json.dumps(["a\nb", "c"]))
    assert read_prompts(listing) == ("a\nb", "c")
    for text in ("[1]", "{}", '["a"', "[]"):
        listing.write_text(text)
        status, _, err = run(capsys, "demo", "--model", model, "--prompts", listing)
        assert status == 2
        assert_one_line(err, "prompts.json")
    lines.write_bytes(b"\xff\xfe")
    assert_one_line(run(capsys, "demo", "--model", model, "--prompts", lines)[2], "cannot be read")


def test_model_len_leaves_room_and_stays_within_the_model(model):
    short = DemoOptions(model, prompts=("a",), max_tokens=8)
    long = DemoOptions(model, prompts=("a", "b" * 600), max_tokens=100)
    assert model_len(CONFIG, short) == 512 and model_len(CONFIG, long) >= 702
    assert model_len(CONFIG | {"max_position_embeddings": 64}, short) == 64


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RankError("rank 1: RuntimeError: broken\n  | deep"), 1, "rank 1: RuntimeError: broken (--debug"),
        (StartupError("vLLM is not installed"), 1, "vLLM is not installed"),
        (UnsupportedCombinationError("a with b"), 2, "a with b"),
        (ConfigError("one\ntwo"), 2, "one; two"),
        (KeyError("x"), 1, "KeyError: 'x'"),
        (OSError("disk full"), 1, "disk full"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_failed_runs(capsys, monkeypatch, model, error, status, line, debug):
    def fail(*_):
        raise error

    monkeypatch.setattr(demo, "run_demo", fail)
    got, out, err = run(capsys, "demo", "--model", model, *(["--debug"] if debug else []))
    assert (got, out) == (status, "")
    assert ("Traceback" in err) == debug
    assert_one_line(err.splitlines(keepends=True)[-1], line)
    assert debug or err.count("\n") == 1


def test_interrupt(capsys, monkeypatch, model):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", interrupted)
    assert run(capsys, "demo", "--model", model) == (130, "", "vllm-ascend-ext: interrupted\n")


def test_heatmap(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    report, picture = tmp_path / "report.json", tmp_path / "new" / "picture.png"
    report.write_text(json.dumps(DOCUMENT))
    assert run(capsys, "heatmap", report, picture) == (
        0,
        f"{picture}\n{picture.with_suffix('.html')}\n",
        "",
    )
    assert picture.with_suffix(".html").read_text().startswith("<!doctype html>")
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "cannot be read"),
        ("nonsense", "not JSON"),
        ("\ud800", "not JSON"),
        ([], "not a report"),
        ({"a": 1}, "not a report"),
        (DOCUMENT | {"schema": 99}, "schema 99"),
        (DOCUMENT | {"layers": []}, "no layers"),
        (DOCUMENT | {"layers": ["x"]}, "layers[0].load"),
        (DOCUMENT | {"layers": [DOCUMENT["layers"][0] | {"load": [1, -1]}]}, "layers[0].load"),
        (DOCUMENT | {"layers": [DOCUMENT["layers"][0], DOCUMENT["layers"][1] | {"load": [1]}]}, "layers[1]"),
        (DOCUMENT | {"layers": [{"load": [1]}]}, "no name"),
        (DOCUMENT | {"layout": {"tp": 1}}, "layout has no dp"),
    ],
)
def test_bad_reports(capsys, tmp_path, content, part):
    report = tmp_path / "report.json"
    if isinstance(content, str):
        report.write_bytes(content.encode(errors="surrogatepass"))
    elif content is not None:
        report.write_text(json.dumps(content))
    status, out, err = run(capsys, "heatmap", report, tmp_path / "picture.png")
    assert (status, out) == (2, "")
    assert_one_line(err, "report.json", part)
    assert not (tmp_path / "picture.png").exists()


def test_plan(capsys):
    status, out, err = run(capsys, "plan", 16384, *[32] * 7, "--rule", "cost", "--machine", "mi355x")
    assert (status, err) == (0, "")
    assert out.startswith("variable: variable is the fastest of max_len ")
    assert "\n* variable    16608        0" in out
    widths = ["--hidden", 10, "--element-bytes", 4, "--experts", 2]
    status, out, _ = run(capsys, "plan", 3, 1, "--tp", 2, *widths, "--json")
    document = json.loads(out)
    assert status == 0 and document["mode"] == "max_len" and document["attn_tp_size"] == 2
    sum_len = document["candidates"][1]
    assert sum_len["padded"] == [4, 2] and sum_len["offsets"] == [0, 2, 4, 5] and sum_len["num_pad_rows"] == 2
    assert sum_len["gather_bytes"] == [2 * 3 * 6 * 48 // 4] * 4 and sum_len["seconds"] is None


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-1", 2], "not the rows of 2 replicas"),
        ([1, 2, "--tp", 0], "sizes must be positive"),
        ([1, 2, "--hidden", 0], "widths must be positive"),
        ([1, 2, "--rule", "cost"], "needs the description of a machine"),
        ([1, 2, "--machine", "cray"], "h20, mi355x"),
        ([1, 2, "--graph", "--mode", "sum_len"], "graph has fixed ones"),
    ],
)
def test_impossible_plans(capsys, arguments, part):
    status, out, err = run(capsys, "plan", *arguments)
    assert (status, out) == (2, "")
    assert_one_line(err, part)
