"""What the service does, for programs: its description as OpenAPI 3.1."""
import chainer_caption
from chainer_caption.service.options import OPTIONS

_TYPES = {bool: 'boolean', int: 'integer', float: 'number'}

_SCHEMAS = {
    'Caption': {
        'type': 'object',
        'properties': {
            'caption': {'type': 'string'},
            'tokens': {'type': 'array', 'items': {'type': 'string'}},
            'log_prob': {'type': ['number', 'null'], 'description': 'The sum over its words and its end, nats.'},
            'log_prob_per_token': {'type': ['number', 'null'], 'description': 'That over words plus end, nats.'},
            'finished': {'type': 'boolean', 'description': 'False: it was cut at the greatest length.'}},
        'required': ['caption', 'tokens', 'log_prob', 'log_prob_per_token', 'finished']},
    'Row': {
        'type': 'object',
        'description': 'What became of one image: captions, best first, or why there are none.',
        'properties': {
            'filename': {'type': 'string'},
            'captions': {'type': 'array', 'items': {'$ref': '#/components/schemas/Caption'}},
            'error': {'type': 'string'}},
        'required': ['filename'],
        'oneOf': [{'required': ['captions']}, {'required': ['error']}]},
    'Error': {'type': 'object', 'properties': {'error': {'type': 'string'}}, 'required': ['error']},
}


def describe(limits):
    """The description, as JSON values.

    Args:
        limits (Limits): What the service takes at most.
    """
    rows = {'type': 'array', 'items': {'$ref': '#/components/schemas/Row'}}
    images = {'type': 'array', 'items': {'type': 'string', 'format': 'binary'}, 'maxItems': limits.images}
    return {
        'openapi': '3.1.0',
        'info': {'title': 'chainer_caption', 'version': chainer_caption.__version__,
                 'description': 'Captions of images. Nothing is kept, and nothing is sent elsewhere.'},
        'paths': {
            '/v1/captions': {'post': {
                'operationId': 'caption',
                'summary': 'Captions images.',
                'parameters': [_parameter(name, option) for name, option in OPTIONS.items()],
                'requestBody': {
                    'required': True,
                    'description': f'{limits.body_bytes:,} bytes at most.',
                    'content': {
                        'multipart/form-data': {'schema': {'type': 'object', 'properties': {'images': images}}},
                        'image/*': {'schema': {'type': 'string', 'format': 'binary'}}}},
                'responses': {
                    '200': _answer('A row for each image, in their order, also for one.', rows),
                    '400': _error('An option or the form is wrong, or there is no image.'),
                    '401': _error('The token is missing or wrong, where the service wants one.'),
                    '403': _error('`Host` or `Origin` is foreign.'),
                    '408': _error(f'The request was not here as a whole after {limits.body_seconds:g} s.'),
                    '413': _error('The request is too large.'),
                    '503': {**_error('Too many images are waiting.'), 'headers': {'Retry-After': {
                        'description': 'After how many seconds to try again.', 'schema': {'type': 'integer'}}}}},
                'security': [{}, {'token': []}]}},
            '/healthz': {'get': {
                'operationId': 'health',
                'summary': 'Says that the service is there, and how many images wait for captions.',
                'responses': {'200': _answer('It is.', {
                    'type': 'object', 'required': ['status', 'waiting'],
                    'properties': {'status': {'const': 'ok'}, 'waiting': {'type': 'integer'}}})}}},
            '/openapi.json': {'get': {
                'operationId': 'describe', 'summary': 'This description.',
                'responses': {'200': _answer('OpenAPI 3.1.', {'type': 'object'})}}},
            '/': {'get': {
                'operationId': 'page', 'summary': 'A page to drop images on.',
                'responses': {'200': {'description': 'The page.',
                                      'content': {'text/html': {'schema': {'type': 'string'}}}}}}}},
        'components': {'schemas': _SCHEMAS, 'securitySchemes': {'token': {'type': 'http', 'scheme': 'bearer'}}},
    }


def _parameter(name, option):
    limits = {'minimum': option.least, 'maximum': option.most} if option.least is not None else {}
    only = {'beams': ' Not with `sample`.', 'samples': ' With `sample` alone.'}.get(option.of, '')
    return {'name': name, 'in': 'query', 'description': option.about + only,
            'schema': {'type': _TYPES[option.kind], **limits}}


def _answer(description, schema):
    return {'description': description, 'content': {'application/json': {'schema': schema}}}


def _error(description):
    return _answer(description, {'$ref': '#/components/schemas/Error'})
