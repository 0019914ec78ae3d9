"""A service in this process, a model for it, and requests."""
import contextlib
import http.client
import json
import math
import pathlib
import threading
import uuid

import numpy as np

from chainer_caption import Bundle, Vocabulary
from chainer_caption.data.vocabulary import EOS
from chainer_caption.models import ShowAndTell
from chainer_caption.service.limits import Limits
from chainer_caption.service.server import listen, open_server

UNSEEN = pathlib.Path(__file__).resolve().parents[1] / 'features' / 'demo' / 'unseen'
# Time to wait for an answer, in seconds.
PATIENCE = 150
IMAGES = sorted(UNSEEN.glob('*.png'))


def make_model(folder):
    """Writes a model directory: an untrained model for the small encoder of the demo dataset."""
    vocabulary = Vocabulary.from_counts({f'word{i}': 9 for i in range(20)}, 9)
    model = ShowAndTell(4096, len(vocabulary), 16)
    rng = np.random.default_rng(0)
    for parameter in model.params():
        parameter.array[...] = rng.normal(0, 1.5, parameter.shape)
    model.image_vec.W.array /= 64                       # or rounding would change words
    model.out_word.b.array[EOS] = 1                     # or it would never stop
    Bundle(model, vocabulary, {'encoder': 'demo', 'preprocessing': 'demo'}).save(folder)
    return folder


@contextlib.contextmanager
def running(captioner, token=None, hosts=(), origins=(), certfile=None, facts=None, **limits):
    """Serves in a thread of this process; yields the port."""
    with listen('127.0.0.1', 0) as listening, open_server(
            captioner, Limits(**limits), facts or {'Model': 'small'}, hosts, origins, token, certfile) as server:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def ask(port, path='/v1/captions', body=None, method=None, **headers):
    """Sends a request; returns the status, the headers and the body of the answer, JSON parsed."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method or ('GET' if body is None else 'POST'), path, body,
                           {name.replace('_', '-'): value for name, value in headers.items()})
        answer = connection.getresponse()
        data = answer.read()
        is_json = answer.headers.get('content-type') == 'application/json'
        return answer.status, answer.headers, json.loads(data) if is_json else data


def form(*files, boundary=None):
    """Files, pairs of a name and bytes, as a body and the value of its `Content-Type`."""
    boundary = boundary or uuid.uuid4().hex
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="p"; filename="{name}"\r\n\r\n'.encode() + data
             + b'\r\n' for name, data in files]
    return b''.join(parts) + f'--{boundary}--\r\n'.encode(), f'multipart/form-data; boundary={boundary}'


def assert_same(rows, expected):
    """Asserts that rows have the same names, errors and words, and scores that differ by rounding alone."""
    assert [without_scores(row) for row in rows] == [without_scores(row) for row in expected]
    for row, other in zip(rows, expected, strict=True):
        for caption, alike in zip(row.get('captions', ()), other.get('captions', ()), strict=True):
            for score in 'log_prob', 'log_prob_per_token':
                assert math.isclose(caption[score], alike[score], abs_tol=1e-5), (caption, alike)


def without_scores(row):
    captions = [{**caption, 'log_prob': None, 'log_prob_per_token': None} for caption in row.get('captions', ())]
    return {**row, 'captions': captions}
