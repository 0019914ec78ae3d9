"""The page of an exported model, which captions in the browser with npm's onnxruntime-web: static files alone."""
from __future__ import annotations

import pathlib
import shutil
from collections.abc import Mapping

from chainer_caption.errors import InputError
from chainer_caption.report.html import caption_page, resource
from chainer_caption.storage.files import Path, atomic_write, read_json

# Of onnxruntime-web: its module, and the WebAssembly with the loader, which run in every browser.
_RUNTIME = ('dist/ort.wasm.min.mjs', 'dist/ort-wasm-simd-threaded.mjs', 'dist/ort-wasm-simd-threaded.wasm',
            'package.json')

# Nothing is loaded from elsewhere, and nothing sent.
_POLICY = ("default-src 'none'; connect-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
           "style-src 'self'; img-src blob: data:; media-src blob:; base-uri 'none'; form-action 'none'")
_HEAD = f'''<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page.css">
<script src="page.js"></script>'''


def check_package(package: Path) -> None:
    """Checks that a folder is npm's onnxruntime-web; InputError if not."""
    folder = pathlib.Path(package)
    description = read_json(folder / 'package.json') if (folder / 'package.json').is_file() else None
    name = description.get('name') if isinstance(description, dict) else None
    missing = [path for path in _RUNTIME if not (folder / path).is_file()]
    if name != 'onnxruntime-web' or missing:
        why = f'lacks {missing[0]}' if missing else f'is {name!r}'
        raise InputError(f'{package}: not the npm package onnxruntime-web, 1.20 or later ({why}); npm install '
                         'onnxruntime-web makes node_modules/onnxruntime-web')


def write_page(folder: pathlib.Path, package: Path, facts: Mapping[str, str]) -> None:
    """Writes the page and the files of a checked package into the folder of an export; `facts` are shown. Raises
    OSError."""
    (folder / 'ort').mkdir(exist_ok=True)
    for path in _RUNTIME:
        shutil.copyfile(pathlib.Path(package) / path, folder / 'ort' / pathlib.Path(path).name)
    texts = {'index.html': caption_page(_HEAD, facts, 'Captions are made in this browser. Images do not leave this '
                                        'device.'),
             'page.css': resource('gallery.css') + resource('page.css'),
             'page.js': resource('cards.js') + resource('page.js') + _template('page.js'),
             **{name: _template(name) for name in ('caption.js', 'prepare.js', 'worker.js')}}
    for name, text in texts.items():
        with atomic_write(folder / name, 'w') as f:
            f.write(text)


def _template(name: str) -> str:
    return resource(f'exported/web/{name}', __package__)
