"""export: a trained model as ONNX files and a program of a hundred lines, without Chainer; or as a web page."""
import argparse

from chainer_caption.cli import common

EXAMPLES = '''\
  export.py -o exported                     the pretrained model; then: python exported/caption.py dog.jpg
  export.py model -o exported --precision float16
  npm install onnxruntime-web
  export.py model -o site --web node_modules/onnxruntime-web
  python -m http.server -d site             then open http://localhost:8000'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('model', nargs='?', metavar='MODEL',
        help='model directory that train wrote (default: the pretrained model, trained on Flickr8k)')
    add('-o', '--output', required=True, metavar='FOLDER', help='folder to write')
    add('--overwrite', action='store_true', help='replace an earlier export in FOLDER')
    add('--precision', default='float32', choices=('float32', 'float16'), metavar='P',
        help='of the weights in the files: %(choices)s, which halves them (default: %(default)s)')
    add('--web', metavar='PACKAGE', help="make FOLDER a web page that captions in the browser; PACKAGE is npm's "
        'onnxruntime-web, a folder, which is copied into it')
    common.add_encoder_weights(parser)
    common.add_provenance(parser, "made the model's features, if the model does not record it")


def run(args: argparse.Namespace) -> int:
    from chainer_caption.captioning.captioner import Captioner
    from chainer_caption.captioning.export import export
    from chainer_caption.features.extractor import load_encoder
    captioner = Captioner.load(args.model, '@numpy', args.encoder_weights, args.encoder, args.preprocessing,
                               say=common.say)
    link, *_ = load_encoder(captioner.extractor.encoder, args.encoder_weights or captioner.bundle.encoder_path)
    export(captioner, link, args.output, args.precision, args.web, args.overwrite)
    return 0
