"""YAML of unknown origin: no aliases, which can unfold to gigabytes, and no key twice."""

from typing import Any

import yaml

from safevlm_hf.modeling.json_files import unique_keys


class _StrictLoader(yaml.SafeLoader):
    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        # Every level is built at once: a check of half-built mappings would see nothing.
        return unique_keys(self.construct_pairs(node, deep=True))


def _construct_mapping(loader: _StrictLoader, node: yaml.Node) -> dict:
    return loader.construct_mapping(node)


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def parse_yaml(text: str | bytes, where: str) -> Any:
    """Reads YAML.

    Args:
        where: the file, as the error names it.

    Raises:
        ValueError: it is no YAML, or has an alias, a key twice, a type of its own, or too many levels.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: expected YAML, but {' '.join(str(error).split())}") from None
