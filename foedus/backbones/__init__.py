"""Pre-trained backbones: frozen extractors of images and text, and columns of tables.

`describe` says what identifies a study's backbone, `open_backbone` opens it. Importing this
package imports neither torch nor timm nor transformers: a site that trains on cached features
needs none of them.
"""

from foedus.backbones.centre import Centre, Direction, public_standardiser
from foedus.backbones.moments import Moments, Standardiser
from foedus.backbones.registry import describe, initial, list_backbones, open_backbone, open_tunable
from foedus.backbones.spec import BackboneSpec, Embedder, Listed
from foedus.backbones.tabular import column_names, encode

__all__ = [
    "BackboneSpec",
    "Centre",
    "Direction",
    "Embedder",
    "Listed",
    "Moments",
    "Standardiser",
    "column_names",
    "describe",
    "encode",
    "initial",
    "list_backbones",
    "open_backbone",
    "open_tunable",
    "public_standardiser",
]
