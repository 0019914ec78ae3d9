"""Files on disk: atomic writing, locks, untrusted archives and pickles, downloads, journals, the cache.

`files` writes files atomically and reads JSON; `locks` keeps two processes from writing one file; `archives` reads
NumPy's archives, `torch_files` PyTorch's, and `pickles` and `pickle_files` the pickles in them, without executing
anything; `serializers` turns Chainer's objects into arrays; `journal` makes long work resumable; `cache` keeps what is
expensive to compute from a file; `downloads` fetches files and `unpack` unpacks zip archives; `legacy` maps the names
that earlier versions wrote.
"""
