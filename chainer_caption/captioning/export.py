"""Export: a trained model as ONNX files, with a program that captions with them, without Chainer."""
from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx

import chainer_caption
from chainer_caption.captioning.captioner import Captioner
from chainer_caption.captioning.export_page import check_package, write_page
from chainer_caption.captioning.onnx_precision import with_precision
from chainer_caption.errors import InputError
from chainer_caption.features.encoders import get_encoder, is_fine_tuned
from chainer_caption.features.inference import open_session
from chainer_caption.features.onnx_graph import encoder_graph
from chainer_caption.features.preprocessing import PREPROCESSINGS
from chainer_caption.models.bundle import CONFIG, VOCABULARY, WEIGHTS
from chainer_caption.models.onnx_graph import decoder_graphs
from chainer_caption.report.html import resource
from chainer_caption.storage.files import Path, atomic_write, unreadable, unwritable, write_json

FORMAT = 1
ENCODER, START, STEP, PREPROCESSING = 'encoder.onnx', 'decoder_start.onnx', 'decoder_step.onnx', 'preprocessing.json'
LICENSE = 'LICENSE'


def export(captioner: Captioner, link: Any, folder: Path, precision: str = 'float32', web: Path | None = None,
           overwrite: bool = False) -> None:
    """Writes a captioner, of one model with its encoder, to a folder, which is created if necessary.

    Args:
        captioner, link: The captioner, on the CPU, and the Chain of its encoder, on any device.
        folder: Gets `encoder.onnx`, which maps prepared images to features; `decoder_start.onnx` and
            `decoder_step.onnx` (see `models.onnx_graph`); `vocabulary.json`, `preprocessing.json`, `config.json` with
            the default search; the model directory's LICENSE, if it has one; and `caption.py`.
        precision: Of the weights, one of `onnx_precision.PRECISIONS`.
        web: The folder of npm's onnxruntime-web, of which the parts that are needed are copied, to make the folder a
            page that captions in the browser.
        overwrite: Replace an earlier export.

    Raises:
        InputError: The folder holds another model or cannot be written, the encoder or the architecture has no ONNX
            form, or `web` is another folder.
    """
    folder = pathlib.Path(folder)
    if (folder / WEIGHTS).exists():
        raise InputError(f'{folder}: holds a model directory; export to another folder')
    if (folder / CONFIG).exists() and not overwrite:
        raise InputError(f'{folder}: there is a model in it already; --overwrite replaces it')
    if web is not None:
        check_package(web)
    bundle, extractor = captioner.bundle, captioner.extractor
    preprocessing, text = PREPROCESSINGS[extractor.preprocessing], _read(pathlib.Path(captioner.names[0]) / LICENSE)
    try:
        encoder = encoder_graph(link, preprocessing.size)
    except ValueError as e:
        raise InputError(f'the encoder {extractor.encoder} cannot be exported: {e}') from e
    start, step = decoder_graphs(bundle.model)
    _check_decoder(captioner, start, step)
    of_model = {'model': bundle.model.architecture, 'licence': text or 'not stated'}
    name = extractor.encoder
    of_encoder = {'encoder': name, 'preprocessing': extractor.preprocessing, 'weights':
                  'those of the model' if is_fine_tuned(name) else get_encoder(name).source.split(' (')[0]}
    search = captioner.search()
    config = {'format': FORMAT, 'exported_by': f'chainer_caption {chainer_caption.__version__}', 'precision': precision,
              **of_model, 'licence': LICENSE if text else None, 'tokenizer': bundle.tokenizer, **of_encoder,
              'search': {key: getattr(search, key) for key in ('width', 'top', 'length_normalization', 'max_length')}}
    texts = {'caption.py': _template('caption.py'), **({LICENSE: text} if text else {})}
    if (recipe := preprocessing.to_json())['filter'] == 'matlab':
        texts['imresize.py'] = _template('imresize.py')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without its configuration the folder holds no model: it is written last.
        (folder / CONFIG).unlink(missing_ok=True)
        for path, graph, facts in ((ENCODER, encoder, of_encoder), (START, start, of_model), (STEP, step, of_model)):
            _write(folder / path, with_precision(graph, precision), {**facts, 'precision': precision})
        for path, content in texts.items():
            with atomic_write(folder / path, 'w') as f:
                f.write(content)
        if web is not None:
            write_page(folder, web, {'Model': pathlib.Path(captioner.names[0]).resolve().name, 'Encoder': name,
                                     'Preprocessing': extractor.preprocessing, 'Search': str(search)})
        write_json(folder / VOCABULARY, bundle.vocabulary.to_json(), indent=None)
        write_json(folder / PREPROCESSING, recipe)
        write_json(folder / CONFIG, config)
    except OSError as e:
        raise unwritable(e.filename or folder, e) from e


def _read(path: pathlib.Path) -> str | None:
    """The text of a file; None where there is none."""
    try:
        return path.read_text('utf-8', errors='replace') if path.exists() else None
    except OSError as e:
        raise unreadable(path, e) from e


def _template(name: str) -> str:
    return resource(f'exported/{name}', __package__)


def _write(path: pathlib.Path, graph: onnx.ModelProto, facts: dict[str, str]) -> None:
    graph.producer_version = chainer_caption.__version__
    onnx.helper.set_model_props(graph, facts)
    onnx.checker.check_model(graph)
    with atomic_write(path) as f:
        f.write(graph.SerializeToString())


def _check_decoder(captioner: Captioner, start: onnx.ModelProto, step: onnx.ModelProto) -> None:
    """Checks that the graphs do what the decoder does, which own architectures state twice: InputError if not."""
    rng, model, decoder = np.random.default_rng(0), captioner.bundle.model, captioner.decoder
    first, following = (open_session(graph.SerializeToString()) for graph in (start, step))
    features = rng.random((3, model.feature_size), np.float32)
    expected, state = decoder.start(features), first.run(None, {'features': features})
    parents, tokens = np.arange(3), np.zeros(3, int)
    for _ in range(3):
        expected, scores = decoder.step(expected, parents, tokens)
        *state, log_probs = following.run(None, {**{f'state{i}': array for i, array in enumerate(state)},
                                                 'parents': parents, 'tokens': tokens})
        scores = scores + decoder.bias
        scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        if not np.allclose(log_probs, scores, rtol=1e-3, atol=1e-3):
            raise InputError(f'the ONNX form of the architecture {model.architecture} differs from its decoder')
        parents, tokens = np.array([0, 0, 1, 2]), rng.integers(0, model.vocabulary_size, 4)
