"""A third platform: the same file in Node.js, natively and as WebAssembly, and in a real browser's page."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import plcourse.export
from plcourse import Run
from plcourse.export.artifacts import Artifacts

VERSION = "1.30.0"
PACKAGES = [f"onnxruntime-node@{VERSION}", f"onnxruntime-web@{VERSION}"]
RUN = Path(__file__).parent / "web" / "run.mjs"
PAGE = Path(plcourse.export.__file__).parent / "page.html"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime for Node.js and for the web; skipped where there is no Node.js or no registry."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    # the package ships the CPU library; its install script would fetch the one for CUDA
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm cannot install onnxruntime: {done.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.mark.parametrize("runtime", ["node", "web"])
@pytest.mark.parametrize("name", ["onnx", "onnx_int8", "onnx_int8_dynamic"])
def test_node_gives_what_python_gives(exported: Run, node: Path, tmp_path: Path, runtime: str, name: str) -> None:
    path = Artifacts(exported).path(name)
    image = np.random.default_rng(3).integers(0, 256, (5, 1, 19, 11), np.uint8)
    (tmp_path / "input.json").write_text(json.dumps({"dims": image.shape, "data": image.reshape(-1).tolist()}))
    command = ["node", str(RUN), str(path), str(tmp_path / "input.json"), runtime]
    done = subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    outputs: Any = onnxruntime.InferenceSession(path).run(None, {"image": image})
    (expected,) = outputs
    found = np.reshape(json.loads(done.stdout), expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5 if name == "onnx" else 0.02)
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_the_page_of_the_guide_answers_in_a_browser(exported: Run, node: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    for source in (node / "node_modules/onnxruntime-web/dist").glob("ort*wasm*"):
        shutil.copy(source, tmp_path)
    shutil.copy(Artifacts(exported).path("onnx"), tmp_path / "model.onnx")
    shutil.copy(PAGE, tmp_path / "index.html")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = f"http://127.0.0.1:{server.server_port}/index.html"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000", "--dump-dom"]
        command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", page]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=180, env={**os.environ, "HOME": str(tmp_path)}
        )
        server.shutdown()
    answer = re.search(r"(\d) with probability ([\d.]+)", done.stdout)
    assert answer, done.stdout + done.stderr
    image = np.zeros((1, 1, 28, 28), np.uint8)
    image[0, 0, 5:23, 12:16] = 255
    outputs: Any = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"image": image})
    (expected,) = outputs
    assert int(answer[1]) == expected.argmax()
    assert float(answer[2]) == pytest.approx(expected.max(), abs=1e-5)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, WebAssembly with its media type, and prints nothing."""

    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/wasm",
        ".mjs": "text/javascript",
    }

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name in the base)
        pass
