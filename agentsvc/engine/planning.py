"""What a run will do: decided in two steps, both before its first request.

draft    when the call comes: which agent, which models, which options. What can be refused is refused here
plan     when the run has its session's turn: only then is the history whole
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentsvc.domain.events import Annotation
from agentsvc.domain.messages import Message
from agentsvc.domain.quick import quick, replace
from agentsvc.domain.runs import RunRequest
from agentsvc.engine import complexity, prompt, refusals
from agentsvc.engine.catalog import Catalog, Layers, Prepared
from agentsvc.engine.complexity import AutoConfig
from agentsvc.engine.loop import Plan
from agentsvc.engine.price_list import BUILT_IN
from agentsvc.engine.prices import PriceTable
from agentsvc.engine.routing import Candidate
from agentsvc.engine.sessions import Conversation

MODEL_CHOICE = "model_choice"
"""The annotation that says why ``auto`` chose as it did, with emit_metadata."""


@quick
@dataclass(frozen=True, slots=True)
class Draft:
    """What a call leads to. ``notes`` follow run_started."""

    prepared: Prepared
    layers: Layers
    first: Candidate
    fallbacks: tuple[Candidate, ...]
    notes: tuple[Annotation, ...] = ()


class Planner:
    """``max_steps``: of a call that does not say; ``auto``: which models ``model: auto`` chooses from."""

    def __init__(
        self, catalog: Catalog, max_steps: int, prices: PriceTable | None = None, auto: AutoConfig | None = None
    ) -> None:
        self._catalog = catalog
        self._max_steps = max_steps
        self._prices = prices or BUILT_IN
        self._auto = auto or AutoConfig()

    def draft(self, prepared: Prepared, request: RunRequest, conversation: Conversation) -> Draft:
        """Everything but the history.

        Raises:
            AgentsvcError: PROVIDER_NOT_CONFIGURED, CAPABILITY_MISSING, INVALID_FIELD.
        """
        options = request.options
        notes: tuple[Annotation, ...] = ()
        layers = prepared.layers_of(options)
        if complexity.asked(prepared.agent.llm_config, options):
            before = _history(request, layers, conversation)
            choice = complexity.choose(self._auto, complexity.facts(request, before, len(prepared.tools.tools)))
            options = choice.over(options)
            if layers.streaming.emit_metadata:
                notes = (Annotation(MODEL_CHOICE, choice.reason),)
        first, fallbacks = self._catalog.choose(prepared, options), self._catalog.fallbacks(prepared, options)
        if first.model.provider != prepared.first.model.provider:  # whose own fields the agent's provider_options are
            generation = replace(layers.generation, provider_options=options.generation.provider_options)
            layers = replace(layers, generation=generation)
        for candidate in (first, *fallbacks):
            refusals.check_capabilities(candidate.model, prepared, request)
            if layers.budget.cost_micros is not None:
                self._prices.limited(candidate.model.provider, candidate.name, layers.budget.cost_currency or "")
        return Draft(prepared, layers, first, fallbacks, notes)

    def plan(self, draft: Draft, request: RunRequest, conversation: Conversation, run_id: str) -> Plan:
        """The whole."""
        prepared, layers = draft.prepared, draft.layers
        history = _history(request, layers, conversation)
        return Plan(
            model=draft.first.model,
            request=prompt.assemble(prepared, layers, request, draft.first.name, history),
            tools=prepared.tools,
            streaming=layers.streaming,
            max_steps=request.options.max_steps or self._max_steps,
            budget=layers.budget,
            run_id=run_id,
            user_id=request.user_id,
            metadata=request.metadata,
            prices=self._prices,
            fallbacks=draft.fallbacks,
        )


def _history(request: RunRequest, layers: Layers, conversation: Conversation) -> Sequence[Message]:
    """The caller's own, or what the session remembers."""
    return prompt.recent(conversation.messages, layers.memory) if request.history is None else request.history
