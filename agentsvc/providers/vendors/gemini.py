"""Gemini, generateContent. Signatures go back with the parts they came on. https://ai.google.dev/api/generate-content"""

from agentsvc.domain.providers import Capabilities
from agentsvc.providers.dialect import Provider
from agentsvc.providers.gemini import Gemini

gemini = Provider.of(
    "gemini",
    "Gemini",
    Gemini,
    base_url="https://generativelanguage.googleapis.com",
    key_env=("GOOGLE_API_KEY",),
    base_url_env=("GOOGLE_GEMINI_BASE_URL",),
    default_model="gemini-2.5-flash",
    capabilities=Capabilities(reasoning=True, images=True, files=True, response_schema=True),
    extra_env={"api_version": ("GEMINI_API_VERSION",)},
)
