"""Answers of the service: rows as generate.py's, or one line about what is wrong with the request."""
import base64
import contextlib
import gzip
import re

import pytest
from damaged import BOMB
from PIL import Image
from serving import IMAGES, ask, assert_same, form, running

from chainer_caption import InputError
from chainer_caption.report.rows import row_of
from chainer_caption.service.guard import Guard
from chainer_caption.service.options import OPTIONS

GOOD = IMAGES[0].read_bytes()
TOKEN = 'correct-horse-battery'


@pytest.fixture(scope='module')
def port(served_captioner):
    with running(served_captioner, body_bytes=2 ** 20, images=4) as port:
        yield port


@pytest.fixture(scope='module')
def guarded(served_captioner):
    """The port of a service that needs a token."""
    with running(served_captioner, token=TOKEN, hosts=['captions.example']) as port:
        yield port


def expected(captioner, names, **options):
    """Rows of the first images by a captioner without a service, under these names."""
    results = captioner.caption(IMAGES[:len(names)], **options)
    return [{**row_of(result), 'filename': name} for result, name in zip(results, names, strict=True)]


def test_an_image_as_the_body(port, served_captioner):
    status, headers, rows = ask(port, body=GOOD)
    assert (status, headers['content-type']) == (200, 'application/json')
    assert_same(rows, expected(served_captioner, ['image']))


def test_the_files_of_a_form_in_their_order_and_a_bad_one_harms_none(port, served_captioner):
    files = [(path.name, path.read_bytes()) for path in IMAGES[:3]]
    broken = 'bró\u202een "1.png', GOOD[:999]
    body, kind = form(files[0], (broken[0].replace('"', '%22'), broken[1]), *files[1:])
    status, _, rows = ask(port, body=body, content_type=kind)
    assert status == 200
    bad = rows.pop(1)
    assert bad.keys() == {'filename', 'error'} and 'truncated' in bad['error'] and bad['filename'].startswith('bró')
    assert_same(rows, expected(served_captioner, [name for name, _ in files]))


@pytest.mark.parametrize(('query', 'options'), [
    ('top=2&beam_width=3&max_length=4', {'top': 2, 'width': 3, 'max_length': 4}),
    ('beam_width=4&beam_groups=2&diversity_penalty=1.5', {'width': 4, 'beam_groups': 2, 'diversity_penalty': 1.5}),
    ('beam_width=3&length_normalization=0.7&min_length=2&no_repeat_ngram=1&allow_unk=true',
     {'width': 3, 'length_normalization': 0.7, 'min_length': 2, 'no_repeat_ngram': 1, 'allow_unk': True})])
def test_options_of_the_search(query, options, port, served_captioner):
    _, _, rows = ask(port, f'/v1/captions?{query}', GOOD)
    assert_same(rows, expected(served_captioner, ['image'], **options))


def test_samples_depend_on_the_seed(port):
    def samples(seed):
        return ask(port, f'/v1/captions?sample=true&top=3&top_p=0.9&temperature=2&seed={seed}', GOOD)[2]
    assert samples(1) == samples(1) != samples(2)


@pytest.mark.parametrize(('query', 'error'), [
    ('width=3', 'width: no such option; there are top,'),
    ('top=1&top=2', 'top: given twice'),
    ('top=one', 'top: must be a whole number'),
    ('top=0', 'top: must be a whole number from 1 to 100'),
    ('beam_width=1000000', 'beam_width: must be a whole number from 1 to 100'),
    ('length_normalization=nan', 'length_normalization: must be a number from 0 to 100'),
    ('sample=yes', 'sample: must be true or false'),
    ('top=7&beam_width=3', 'top 7: must be at least 1 and at most the beam width, 3'),
    ('min_length=9&max_length=3', 'min_length 9: must not be negative'),
    ('seed=1', 'seed: only with sample=true'),
    ('sample=true&beam_width=3', 'beam_width: not with sample=true'),
    ('diversity_penalty=1', 'diversity_penalty: only with beam_groups'),
    ('beam_width=5&beam_groups=2', 'beam_groups 2: must divide the beam width, 5')])
def test_options_that_are_wrong(query, error, port):
    status, _, answer = ask(port, f'/v1/captions?{query}', GOOD)
    assert status == 400 and answer.keys() == {'error'} and answer['error'].startswith(error), answer


def error(*args, **options):
    status, _, answer = ask(*args, **options)
    return status, answer['error'] if status != 200 else None


def test_bodies_that_are_wrong(port):
    body, kind = form(('a.png', GOOD))
    assert ask(port, body=b'')[0] == 400
    assert ask(port, body=form(('', b''))[0], content_type=kind)[0] == 400
    assert 'incomplete' in error(port, body=body[:-4], content_type=kind)[1]
    assert 'boundary' in error(port, body=body, content_type='multipart/form-data')[1]
    assert ask(port, body=b'nonsense', content_type='multipart/form-data; boundary=x')[0] == 400
    unnamed = body.replace(b'; filename="a.png"', b'')
    assert error(port, body=unnamed, content_type=kind) == (
        400, "the part 'p' of the form has no file name: send images as files (curl -F image=@dog.jpg), and options in "
             'the URL (?top=1)')
    many, kind = form(*[('a.png', GOOD)] * 5)
    assert error(port, body=many, content_type=kind)[1] == 'Too many files. Maximum number of files is 4.'
    assert error(port, body=bytes(2 ** 20 + 1)) == (413, 'a request may have 1,048,576 bytes')
    chunks = iter([bytes(2 ** 19)] * 3)                 # without Content-Length
    assert ask(port, body=chunks)[0] == 413


def test_bodies_of_other_types(port):
    json = b'{"image": "' + base64.b64encode(GOOD) + b'"}'
    status, message = error(port, body=json, content_type='application/json; charset=utf-8')
    assert status == 415 and 'send the bytes of an image' in message
    status, headers, _ = ask(port, body=gzip.compress(GOOD), content_encoding='gzip')
    assert (status, headers['accept-encoding']) == (415, 'identity')
    assert error(port, body=json)[0] == 422
    body, kind = form(('a.png', b'no image'), ('b.png', GOOD[:500]))
    status, _, answer = ask(port, body=body, content_type=kind)
    assert status == 422 and answer['error'].startswith('none of the 2 images could be captioned; a.png: not an image')
    assert [row.keys() for row in answer['rows']] == [{'filename', 'error'}] * 2


def test_search_steps_of_a_request_have_a_limit(served_captioner):
    body, kind = form(('a.png', GOOD), ('b.png', GOOD))
    with running(served_captioner, image_steps=1500, request_steps=2500) as port:
        def steps(query, **options):
            return error(port, f'/v1/captions?{query}', **options)
        assert ask(port, body=GOOD)[0] == 200
        assert steps('beam_width=20&max_length=60', body=body, content_type=kind) == (200, None)
        assert steps('beam_width=21', body=body, content_type=kind)[0] == 413
        assert steps('beam_width=100', body=GOOD) == (
            413, '6,000 search steps (images x beam width x max_length, or x 10 x top with sample) are more than the '
                 'limit of 1,500 for an image')
        assert steps('sample=true&top=3', body=GOOD)[0] == 413


def test_pixels_of_a_request_have_a_limit(served_captioner):
    with Image.open(IMAGES[0]) as image:
        pixels = image.width * image.height
    with running(served_captioner, image_pixels=pixels * 2 // 15) as port:      # 1.33 images a request
        assert ask(port, body=GOOD)[0] == 200
        body, kind = form(('a.png', GOOD), ('b.png', GOOD))
        status, message = error(port, body=body, content_type=kind)
        assert status == 413 and 'pixels together, the limit for a request' in message


def test_a_bomb_is_refused_by_its_header(port):
    status, message = error(port, body=BOMB)
    assert status == 422 and message.startswith('20000 x 10000 pixels are more than the limit')


def test_other_addresses_and_methods(port):
    assert ask(port, '/healthz')[::2] == (200, {'status': 'ok', 'waiting': 0})
    assert ask(port, '/nothing')[::2] == (404, {'error': 'Not Found'})
    assert ask(port, '/v1/captions')[::2] == (405, {'error': 'Method Not Allowed'})
    assert ask(port, '/healthz', b'x')[0] == 405


@pytest.mark.parametrize(('host', 'origin', 'status'), [
    ('127.0.0.1', None, 200), ('127.0.0.1:{port}', 'http://127.0.0.1:{port}', 200), ('LOCALHOST:9', None, 200),
    ('localhost', 'https://localhost', 200),
    ('example.com', None, 403), ('127.0.0.1.example.com', None, 403), ('localhost@example.com', None, 403),
    ('10.0.0.1', None, 403), ('', None, 403), ('[', None, 403), ('captions.example', None, 403),
    ('127.0.0.1:{port}', 'http://example.com', 403), ('127.0.0.1:{port}', 'null', 403),
    ('127.0.0.1:{port}', 'http://127.0.0.1:1', 403), ('127.0.0.1:{port}', 'http://localhost:{port}', 403)])
def test_host_and_origin(host, origin, status, port):
    headers = {'Host': host.format(port=port)} | ({} if origin is None else {'Origin': origin.format(port=port)})
    got, answered, _ = ask(port, '/v1/captions?top=1&beam_width=1', GOOD, **headers)
    assert got == status
    assert not [name for name in answered if name.lower().startswith('access-control')]


def test_allowed_hosts_and_a_token(guarded):
    def status(path='/v1/captions?beam_width=1', body=GOOD, **headers):
        return ask(guarded, path, body, **headers)[0]
    assert status() == status(Authorization='Bearer wrong') == status(Authorization=TOKEN) == 401
    assert status(Authorization=f'Basic {TOKEN}') == status(Authorization='Bearer \xfc') == 401
    assert status(Authorization=f'Bearer {TOKEN}') == 200
    assert status(Authorization=f'Bearer {TOKEN}', Host='captions.example:80') == 200
    assert status(Authorization=f'Bearer {TOKEN}', Host='other.example') == 403
    assert status('/healthz', None) == status('/', None) == 200


def test_allowed_origins(served_captioner):
    with running(served_captioner, origins=['https://Captions.example:443/', 'http://[::1]:81']) as port:
        def status(**headers):
            return ask(port, '/v1/captions?beam_width=1', GOOD, **headers)[0]
        for host in f'127.0.0.1:{port}', 'captions.example', '[::1]:81':
            assert status(Host=host, Origin='https://captions.example') == 200
            assert status(Host=host, Origin='http://[::1]:81') == 200
            assert status(Host=host, Origin='https://other.example') == 403
        assert status(Host='other.example', Origin='https://captions.example') == 403
    for origin in 'captions.example', 'https://captions.example/page', 'ftp://captions.example', 'https://a:b':
        with pytest.raises(InputError, match=f'^allowed_origin {origin}: must be SCHEME://HOST'):
            Guard(None, origins=[origin])


def test_every_answer_is_for_this_site_alone(port):
    for path in '/', '/healthz', '/openapi.json', '/nothing':
        _, headers, _ = ask(port, path)
        assert headers['x-content-type-options'] == 'nosniff'
        assert headers['cross-origin-resource-policy'] == 'same-origin'
        assert headers['cache-control'] == 'no-store'


def test_the_page_needs_and_allows_nothing_but_itself(port):
    _, headers, page = ask(port, '/')
    page = page.decode()
    policy = headers['content-security-policy']
    assert re.fullmatch(r"default-src 'none'; connect-src 'self'; img-src blob:; media-src blob:; "
                        r"style-src 'sha256-[\w+/]{43}='; script-src 'sha256-[\w+/]{43}='; "
                        r"base-uri 'none'; form-action 'none'; frame-ancestors 'none'", policy)
    assert not re.search(r'(src|href|url|import)\s*[=(]\s*["\']?(https?:|//)', page)
    assert '<dd>small</dd>' in page and 'nowhere else' in page


def test_facts_are_escaped(served_captioner):
    with running(served_captioner, facts={'Model': '<script>'}) as port:
        assert b'<dd>&lt;script&gt;</dd>' in ask(port, '/')[2]


# The description

def resolved(schema, document):
    while '$ref' in schema:
        place = document
        for name in schema['$ref'].removeprefix('#/').split('/'):
            place = place[name]
        schema = place
    return schema


def check(value, schema, document):
    """Asserts that a JSON value fits a schema, of the few keywords that ours uses."""
    schema = resolved(schema, document)
    kinds = {'object': dict, 'array': list, 'string': str, 'number': float, 'integer': int, 'boolean': bool,
             'null': type(None)}
    types = schema.get('type')
    if types is not None:
        assert isinstance(value, tuple(kinds[kind] for kind in ([types] if isinstance(types, str) else types))), value
    assert value == schema.get('const', value)
    if isinstance(value, list):
        for item in value:
            check(item, schema.get('items', {}), document)
    if isinstance(value, dict):
        assert set(schema.get('required', [])) <= value.keys()
        if 'properties' in schema:
            assert value.keys() <= schema['properties'].keys()
        for name, part in schema.get('properties', {}).items():
            if name in value:
                check(value[name], part, document)
        if 'oneOf' in schema:
            assert sum({*one['required']} <= value.keys() for one in schema['oneOf']) == 1


def test_the_description_names_every_address_and_every_answer_fits_it(port):
    _, _, document = ask(port, '/openapi.json')
    assert document['openapi'].startswith('3.1')
    files, kind = form(('a.png', GOOD), ('b.png', b'nothing'))
    operations = {(method, path) for path, methods in document['paths'].items() for method in methods}
    assert operations == {('get', '/'), ('get', '/healthz'), ('get', '/openapi.json'), ('post', '/v1/captions')}
    for method, path in operations:
        asked = {'body': files, 'content_type': kind} if method == 'post' else {}
        for status, _, answer in [ask(port, path, **asked), *([ask(port, path, body=b'')] if asked else [])]:
            content = document['paths'][path][method]['responses'][str(status)]['content']
            if 'application/json' in content:
                check(answer, content['application/json']['schema'], document)
        # Nothing else is answered there.
        assert ask(port, path, method='DELETE')[0] == 405


def test_the_description_has_the_limits_of_the_options(port):
    _, _, document = ask(port, '/openapi.json')
    parameters = document['paths']['/v1/captions']['post']['parameters']
    assert [parameter['name'] for parameter in parameters] == list(OPTIONS)
    for parameter in parameters:
        name, schema = parameter['name'], parameter['schema']
        for value in (schema[key] for key in ('minimum', 'maximum') if key in schema):
            outside = value - 1 if value == schema['minimum'] else value + 1
            status, _, answer = ask(port, f'/v1/captions?{name}={outside}', GOOD)
            assert status == 400 and answer['error'].startswith(f'{name}: must be'), answer


# When something fails

class Failing:
    """A captioner that fails where images are captioned."""

    def __init__(self, captioner, error):
        self._captioner, self._error, self.failing = captioner, error, False
        self.extractor = captioner.extractor

    def search(self, **options):
        return self._captioner.search(**options)

    def caption_prepared(self, batch, search):
        if self.failing:
            raise self._error
        return self._captioner.caption_prepared(batch, search)


@pytest.mark.parametrize(('error', 'answer'), [
    (InputError('Out of memory; lower --beam-width'), {'error': 'Out of memory; lower --beam-width'}),
    (ZeroDivisionError('by nothing'), b'Internal Server Error')])
def test_a_search_that_fails_is_answered_and_the_next_one_works(error, answer, served_captioner, caplog):
    failing = Failing(served_captioner, error)
    with running(failing) as port:
        failing.failing = True
        assert ask(port, body=GOOD)[::2] == (500, answer)
        failing.failing = False
        assert ask(port, body=GOOD)[0] == 200
    assert ('by nothing' in caplog.text) == isinstance(error, ZeroDivisionError)


def test_captions_of_any_words_are_json(served_captioner):
    @contextlib.contextmanager
    def strange_words():
        words = served_captioner.bundle.vocabulary.words
        kept = words[3:]
        words[3:] = ['\ud800"\u2028<\x9b'] * len(kept)
        yield
        words[3:] = kept
    with strange_words(), running(served_captioner) as port:
        status, _, rows = ask(port, '/v1/captions?min_length=1&beam_width=1', GOOD)
        assert status == 200 and {*rows[0]['captions'][0]['tokens']} == {'\ud800"\u2028<\x9b'}
