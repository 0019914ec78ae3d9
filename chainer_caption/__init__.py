"""Train image captioners and caption pictures, on Chainer."""
