"""What stands on the disk: files written whole or not at all, archives of strangers, downloads, journals, the cache.

`files` has JSON and the writing of files; `archives` reads NumPy's archives, `torch_files` PyTorch's and `pickles` what
is within those, without running anything in them; `serializers` makes arrays of what Chainer's objects hold; `journal`
is for work that takes long; `cache` keeps what opening a file costs; `downloads` fetches files, and `unpack` unpacks
zip archives.
"""
