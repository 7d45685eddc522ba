from importlib.util import find_spec

collect_ignore = [] if find_spec("transformers") else ["oracle"]
