"""Huawei Cloud MaaS (ModelArts Studio). Region and plan are part of the address, so the operator says it, as in
``https://api.modelarts-maas.com/v2``; models are those a customer has enabled.

https://support.huaweicloud.com/usermanual-maas/maas-modelarts-0080.html
"""

from functools import partial

from agentsvc.domain.errors import Reason
from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent

huawei = Provider.of(
    "huawei",
    "Huawei MaaS",
    partial(OpenAIChat, accent=Accent(max_tokens="max_tokens", response_format="json_object")),
    key_env=("HUAWEI_MAAS_API_KEY", "MAAS_API_KEY"),
    base_url_env=("HUAWEI_MAAS_BASE_URL", "MAAS_BASE_URL"),
    capabilities=Capabilities(reasoning=True, images=True, response_schema=True),
    extra_env={"model": ("HUAWEI_MODEL",)},
    # Where the status says something else (a key without "Bearer" is a 400, moderation a 403) or there is none.
    codes={
        "modelarts.81002": Reason.PROVIDER_AUTH,
        "modelarts.81003": Reason.PROVIDER_AUTH,
        "modelarts.81015": Reason.PROVIDER_AUTH,
        "modelarts.81004": Reason.PROVIDER_PERMISSION,
        "modelarts.81009": Reason.PROVIDER_NOT_FOUND,
        "modelarts.81005": Reason.PROVIDER_QUOTA,
        "modelarts.81011": Reason.CONTENT_FILTER,
        "modelarts.81101": Reason.PROVIDER_RATE_LIMIT,
        "modelarts.81103": Reason.PROVIDER_RATE_LIMIT,
    },
)
