"""OpenAPI 3.1 description of the service."""
from typing import Any

import chainer_caption
from chainer_caption.service.limits import Limits
from chainer_caption.service.options import OPTIONS, Option

_TYPES = {bool: 'boolean', int: 'integer', float: 'number'}

_TEXT, _NUMBER, _ROWS = {'type': 'string'}, {'type': ['number', 'null']}, {
    'type': 'array', 'items': {'$ref': '#/components/schemas/Row'}}
_SHARE = {'type': 'number', 'minimum': 0, 'maximum': 1}

_SCHEMAS = {
    'Caption': {
        'type': 'object',
        'properties': {
            'caption': _TEXT, 'tokens': {'type': 'array', 'items': _TEXT},
            'log_prob': {**_NUMBER, 'description': 'Sum of the log-probabilities of the words and the end, nats.'},
            'log_prob_per_token': {**_NUMBER, 'description': 'log_prob / (words + end), nats.'},
            'finished': {'type': 'boolean', 'description': 'False: cut at the maximum length.'}},
        'required': ['caption', 'tokens', 'log_prob', 'log_prob_per_token', 'finished']},
    'Row': {
        'type': 'object',
        'description': 'One image: its captions, best first, or why it has none.',
        'properties': {
            'filename': _TEXT, 'error': _TEXT,
            'familiarity': {**_SHARE, 'description': 'How near the image is to the training images: the share of those '
                                                     'held out that are less near. Absent if the model has none.'},
            'confidence': {**_SHARE, 'description': 'Probability that the first caption is good (CIDEr at least 0.5). '
                                                    'Absent if the model has none.'},
            'skipped': {**_TEXT, 'description': 'Why captions are left out: the confidence is below `min_confidence`.'},
            'captions': {'type': 'array', 'items': {'$ref': '#/components/schemas/Caption'}}},
        'required': ['filename'], 'oneOf': [{'required': ['captions']}, {'required': ['error']}]},
    'Error': {'type': 'object', 'properties': {'error': _TEXT, 'rows': _ROWS}, 'required': ['error']},
}


def describe(limits: Limits) -> dict[str, Any]:
    """The description, as JSON values."""
    binary = {'type': 'string', 'format': 'binary'}
    images = {'type': 'array', 'items': binary, 'maxItems': limits.images}
    size = f'At most {limits.body_bytes:,} bytes, {limits.request_pixels:,} pixels together, and ' \
           f'{limits.request_steps:,} search steps (images x beam width x max_length).'
    busy = {'Retry-After': {'description': 'When to try again, in seconds.', 'schema': {'type': 'integer'}}}
    return {
        'openapi': '3.1.0',
        'info': {'title': 'chainer_caption', 'version': chainer_caption.__version__,
                 'description': 'Captions images. Images are not kept, and not sent elsewhere.'},
        'paths': {
            '/v1/captions': {'post': {
                'operationId': 'caption', 'summary': 'Caption images.', 'security': [{}, {'token': []}],
                'parameters': [_parameter(name, option) for name, option in OPTIONS.items()],
                'requestBody': {'required': True, 'description': size, 'content': {
                    'multipart/form-data': {'schema': {'type': 'object', 'properties': {'images': images}}},
                    'image/*': {'schema': binary}}},
                'responses': {
                    '200': _answer('A row for each image, in the order of the request.', _ROWS),
                    '400': _error('An option or the form is wrong, or there is no image.'),
                    '401': _error('The token is missing or wrong.'),
                    '403': _error('`Host` or `Origin` is not allowed.'),
                    '408': _error(f'The request was incomplete after {limits.body_seconds:g} s.'),
                    '413': _error(f'The request is too large. {size}'),
                    '415': _error('JSON, or a compressed body.'),
                    '422': _error('None of the images could be captioned; `rows` holds the reasons.'),
                    '503': {**_error('Too many images are waiting.'), 'headers': busy}}}},
            '/healthz': _get('health', 'Whether the service runs, and how many images wait for captions.', _answer(
                'It runs.', {'type': 'object', 'required': ['status', 'waiting'],
                             'properties': {'status': {'const': 'ok'}, 'waiting': {'type': 'integer'}}})),
            '/openapi.json': _get('describe', 'This description.', _answer('OpenAPI 3.1.', {'type': 'object'})),
            '/': _get('page', 'A page to drop images on.', _answer('The page.', _TEXT, 'text/html'))},
        'components': {'schemas': _SCHEMAS, 'securitySchemes': {'token': {'type': 'http', 'scheme': 'bearer'}}},
    }


def _parameter(name: str, option: Option) -> dict[str, Any]:
    limits = {'minimum': option.least, 'maximum': option.most} if option.least is not None else {}
    only = {'beams': ' Not with `sample`.', 'samples': ' Only with `sample`.'}.get(option.of or '', '')
    return {'name': name, 'in': 'query', 'description': option.about + only,
            'schema': {'type': _TYPES[option.kind], **limits}}


def _get(name: str, summary: str, answer: dict[str, Any]) -> dict[str, Any]:
    return {'get': {'operationId': name, 'summary': summary, 'responses': {'200': answer}}}


def _answer(description: str, schema: dict[str, Any], kind: str = 'application/json') -> dict[str, Any]:
    return {'description': description, 'content': {kind: {'schema': schema}}}


def _error(description: str) -> dict[str, Any]:
    return _answer(description, {'$ref': '#/components/schemas/Error'})
