"""`python -m chainer_caption NAME …`: the command line."""
import sys

from chainer_caption.cli import main

sys.exit(main())
