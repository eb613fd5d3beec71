"""The merge methods: one file each, and their registry. A new method is a file and a line here."""

from fusion_slerp.methods.breadcrumbs import BREADCRUMBS
from fusion_slerp.methods.breadcrumbs_ties import BREADCRUMBS_TIES
from fusion_slerp.methods.dare_linear import DARE_LINEAR
from fusion_slerp.methods.dare_ties import DARE_TIES
from fusion_slerp.methods.della import DELLA
from fusion_slerp.methods.della_linear import DELLA_LINEAR
from fusion_slerp.methods.karcher import KARCHER
from fusion_slerp.methods.linear import LINEAR
from fusion_slerp.methods.method import Method
from fusion_slerp.methods.model_stock import MODEL_STOCK
from fusion_slerp.methods.multislerp import MULTISLERP
from fusion_slerp.methods.nearswap import NEARSWAP
from fusion_slerp.methods.passthrough import PASSTHROUGH
from fusion_slerp.methods.ram import RAM
from fusion_slerp.methods.ramplus import RAMPLUS
from fusion_slerp.methods.sce import SCE
from fusion_slerp.methods.slerp import SLERP
from fusion_slerp.methods.task_arithmetic import TASK_ARITHMETIC
from fusion_slerp.methods.ties import TIES
from fusion_slerp.methods.warp import WARP

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        SLERP,
        LINEAR,
        TASK_ARITHMETIC,
        MULTISLERP,
        KARCHER,
        MODEL_STOCK,
        WARP,
        TIES,
        BREADCRUMBS,
        BREADCRUMBS_TIES,
        SCE,
        RAM,
        RAMPLUS,
        NEARSWAP,
        DARE_LINEAR,
        DARE_TIES,
        DELLA,
        DELLA_LINEAR,
        PASSTHROUGH,
    )
}
"""By name; the first is the default."""

DEFAULT = SLERP.name
