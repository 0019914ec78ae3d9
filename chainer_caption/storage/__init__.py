"""Files on disk: atomic writing and JSON (`files`), `locks`, untrusted archives of NumPy (`archives`), PyTorch
(`torch_files`) and `pickles`, `journal`s of long work, the `cache`, `downloads`, and names earlier versions wrote."""
