"""The library's folders under another name, for modules that import neither torch nor transformers.

Importing `safevlm_hf`, or any module in it, registers all models, which takes seconds. Under this name nothing is
registered: `from safevlm_cli.torch_free.modeling.safety_policy import SafetyPolicy`. The modules are copies, as a
checkpoint's code is, so their classes are not those of `safevlm_hf`. They must import each other relatively.
"""

from importlib.util import find_spec


_library = find_spec("safevlm_hf")
assert _library is not None  # both packages are installed together
__path__ = _library.submodule_search_locations  # this makes a package of the module
