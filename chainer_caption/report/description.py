"""The description of a dataset as text."""
from chainer_caption.report.rows import one_line
from chainer_caption.report.tables import table


def description_text(description):
    """What `chainer_caption.data.describe.describe` found, as lines for a terminal."""
    lengths, features, faults = description['lengths'], description['features'], description['faults']
    tokens = 'words' if description['tokenizer'] == 'words' else 'characters'
    within = ', '.join(f'{p} % within {value:g}' for p, value in lengths['percentiles'].items() if int(p) >= 50)
    captions = f'captions: {lengths["mean"]:.1f} {tokens} in the mean, {within}, the longest {lengths["longest"]}\n' \
        if within else 'captions: none\n'
    norms = features['norms']
    return '\n'.join([
        _splits(description['splits'], tokens), captions, _vocabularies(description['vocabulary'], tokens),
        f'features: {features["size"]:,} numbers an image, {features["zeros"]:.1%} of them zero; norms '
        f'{norms["least"]:.1f} to {norms["most"]:.1f}, {norms["mean"]:.1f} in the mean; {features["constant"]:,} '
        f'constant rows, {features["duplicate"]:,} duplicates\n',
        'faults found:\n' + ''.join(f'  {one_line(fault["line"])}\n' for fault in faults)
        if faults else 'no faults found\n'])


def _splits(splits, tokens):
    rows = []
    for split, own in splits.items():
        per = own['captions_per_image']
        rows.append([split, *(f'{own[key]:,}' for key in ('images', 'captions', 'words')),
                     *(f'{per[key]:g}' for key in ('least', 'most')), f'{per["mean"]:.2f}'])
    return table(rows, ['split', 'images', 'captions', tokens, 'least an image', 'most', 'mean'])


def _vocabularies(vocabularies, tokens):
    splits = [split for split in ('val', 'test') if any(split in entry for entry in vocabularies)]
    rows = [[str(entry['min_count']), f'{entry["size"]:,}',
             *(f'{entry[split][key]:.2%}' for split in splits for key in ('coverage', 'unk'))]
            for entry in vocabularies]
    # Coverage is of distinct tokens; UNK is what becomes of the others wherever they stand.
    return table(rows, ['seen at least', 'vocabulary',
                        *(name for split in splits for name in (f'{split} {tokens} covered', f'{split} UNK'))])
