"""The library's folders under another name, for modules that import neither torch nor transformers.

Importing `safevlm_hf`, or any module in it, registers all models, which takes seconds. Under this name nothing is
registered: `from safevlm_cli.torch_free.modeling.safety_policy import SafetyPolicy`. The modules are copies, as a
checkpoint's code is, so their classes are not those of `safevlm_hf`. They must import each other relatively.
"""

from importlib.util import find_spec


__path__ = find_spec("safevlm_hf").submodule_search_locations  # this makes a package of the module
