"""The description of a dataset as text."""
from typing import Any

from chainer_caption.report.rows import one_line
from chainer_caption.report.tables import table


def description_text(description: dict[str, Any]) -> str:
    """What `chainer_caption.data.describe.describe` returns, as lines for a terminal."""
    lengths, features, faults = description['lengths'], description['features'], description['faults']
    tokens = 'words' if description['tokenizer'] == 'words' else 'characters'
    within = ', '.join(f'{p} % within {value:g}' for p, value in lengths['percentiles'].items() if int(p) >= 50)
    captions = f'captions: {lengths["mean"]:.1f} {tokens} on average, {within}, the longest {lengths["longest"]}\n' \
        if within else 'captions: none\n'
    norms, grids = features['norms'], description['grids']
    size = f'{features["size"]:,} numbers ' + (
        'an image' if features['locations'] is None else f'at each of {features["locations"]} locations')
    beside = f'grids: {grids["size"]:,} numbers at each of {grids["locations"]} locations\n' if grids else ''
    return '\n'.join([
        _splits(description['splits'], tokens), captions, _vocabularies(description['vocabulary'], tokens),
        f'features: {size}, {features["zeros"]:.1%} of them zero; norms {norms["least"]:.1f} to {norms["most"]:.1f}, '
        f'{norms["mean"]:.1f} on average; {features["constant"]:,} constant rows, {features["duplicate"]:,} '
        f'duplicates\n{beside}',
        'faults found:\n' + ''.join(f'  {one_line(fault["line"])}\n' for fault in faults)
        if faults else 'no faults found\n'])


def _splits(splits: dict[str, Any], tokens: str) -> str:
    rows = [[split, *(f'{own[key]:,}' for key in ('images', 'captions', 'words')),
             *(f'{own["captions_per_image"][key]:g}' for key in ('least', 'most')),
             f'{own["captions_per_image"]["mean"]:.2f}'] for split, own in splits.items()]
    return table(rows, ['split', 'images', 'captions', tokens, 'least an image', 'most', 'mean'])


def _vocabularies(vocabularies: list[dict[str, Any]], tokens: str) -> str:
    splits = [split for split in ('val', 'test') if any(split in entry for entry in vocabularies)]
    rows = [[str(entry['min_count']), f'{entry["size"]:,}', *(
        f'{entry[split][key]:.2%}' for split in splits for key in ('coverage', 'unk'))] for entry in vocabularies]
    # Coverage is of distinct tokens; UNK is the share of all tokens.
    return table(rows, ['min count', 'vocabulary',
                        *(name for split in splits for name in (f'{split} {tokens} covered', f'{split} UNK'))])
