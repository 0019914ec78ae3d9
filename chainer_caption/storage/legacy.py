"""Names in files of version 1.0.0, mapped to today's names when they are read."""
from collections.abc import Mapping
from typing import Any

# Keys of JSON objects: config.json, dataset.json, the record beside a feature matrix, the record of an extraction.
_KEYS = {'network': 'encoder', 'profile': 'preprocessing', 'unit': 'tokenizer', 'places': 'max_positions',
         'release': 'dataset', 'pictures': 'images', 'list of pictures': 'list of images', 'word_weight': 'xe_weight',
         'image_weights': 'encoder_weights', 'network_learning_rate': 'encoder_learning_rate'}
_NESTED = 'features', 'training'                        # objects within config.json whose keys are mapped, too
ENCODER_FILES = 'network.npz', 'network-next.npz'       #: the fine-tuned encoder's files in a model directory


def current_keys(record: Any) -> Any:
    """A copy of a JSON object with today's keys; any other JSON value as it is."""
    if not isinstance(record, dict):
        return record
    found = {key if _KEYS.get(key, key) in record else _KEYS.get(key, key): value for key, value in record.items()}
    if found.get('objective') == 'words':
        found['objective'] = 'cross-entropy'
    return {key: current_keys(value) if key in _NESTED else value for key, value in found.items()}


def current_array_names(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a `weights.npz` or a snapshot, of a fine-tuned encoder, under today's names."""
    return {'encoder' if name == 'network' else name.replace('/network/', '/encoder/', 1): array
            for name, array in arrays.items()}
