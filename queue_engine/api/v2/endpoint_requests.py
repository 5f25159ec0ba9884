"""Request models for creating and changing an endpoint, made from the definitions of its settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, AliasChoices, ConfigDict, Field, ValidationInfo, create_model, model_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from queue_engine.api.v2.fields import (
    OptionalWebhook,
    RequestModel,
    WebhookUrl,
    parsed,
    parsed_changes,
)
from queue_engine.domain.catalogue import Catalogue
from queue_engine.domain.clusters import NOT_OFFERED, UNREACHED
from queue_engine.domain.definitions import Defined
from queue_engine.domain.endpoints import (
    ENVIRONMENT_RULE,
    MAX_ENVIRONMENT_BYTES,
    SETTINGS,
    EndpointConfig,
    Expose,
    RateLimit,
    Resource,
    ServiceMode,
    Setting,
)
from queue_engine.domain.field_errors import FieldError, listing, raise_for
from queue_engine.domain.field_types import LINE, NO_NUL, Port, matching
from queue_engine.domain.retry import RetryOn
from queue_engine.rules.webhook_urls import Webhook

MAX_SHOWN_NAME = 40
MAX_LISTED_CHARACTERS = 1000
"""Length limit of the list of known names in a message, because an operator's catalogue may hold any number."""

VariableName = Annotated[
    str,
    Field(min_length=1, max_length=255, json_schema_extra={"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}),
    matching(r"[A-Za-z_][A-Za-z0-9_]*", "must be letters, digits and _, and not begin with a digit"),
]


_EXAMPLE: JsonDict = {
    "name": "summarizer",
    "image": "registry.example/summarizer:3",
    "resources": [{"region": "us-east-3", "gpuType": "NVIDIA_RTX_4090_24G", "gpuCount": 1}],
    "workers": 2,
    "containerVolumeInGb": 20,
    "initializationCommand": "python serve.py",
    "environmentVars": [{"key": "MODEL", "value": "small"}],
    "expose": {"port": 8000, "protocol": "http"},
    "serviceMode": "QUEUE",
}
RetryOnWords = Annotated[list[Annotated[RetryOn, Field(strict=False)]], Field(max_length=len(RetryOn))]
RetryDelays = Annotated[
    list[Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]], Field(min_length=1, max_length=20)
]


@dataclass(frozen=True)
class _Context:
    """The values that the validators of a body get."""

    catalogue: Catalogue
    variable_names: set[str] = field(default_factory=set)


def _known_gpu_type(text: str, info: ValidationInfo[_Context]) -> str:
    """Return the GPU type in the catalogue's spelling."""
    known = info.context.catalogue.canonical(text)
    if known is None:
        raise ValueError(_one_of(info.context.catalogue.names))
    return known


def _known_region(text: str, info: ValidationInfo[_Context]) -> str:
    """Return the region in the catalogue's spelling."""
    known = info.context.catalogue.canonical_region(text)
    if known is None:
        raise ValueError(_one_of(info.context.catalogue.regions))
    return known


def _one_of(names: Sequence[str]) -> str:
    return f"must be one of {listing(names, ', ', MAX_LISTED_CHARACTERS)}"


def _given_once(name: str, info: ValidationInfo[_Context]) -> str:
    if name in info.context.variable_names:
        raise ValueError(f"{name} is given twice")
    info.context.variable_names.add(name)
    return name


def _protocol(text: str) -> str:
    if text.upper() not in ("HTTP", "TCP"):
        raise ValueError("must be http or tcp")
    return text.upper()


class ResourceRequest(RequestModel):
    """A region and GPU type on which workers may run."""

    region: Annotated[str, Field(min_length=1, max_length=64), LINE, AfterValidator(_known_region)] = Field(
        description="Region, such as `us-east-3`"
    )
    gpu_type: Annotated[str, Field(min_length=1, max_length=64), LINE, AfterValidator(_known_gpu_type)] = Field(
        description="A GPU type of the catalogue, in any case; `CPU` for workers without a GPU"
    )
    gpu_count: Annotated[int, Field(ge=1, le=64)] = Field(description="GPUs for each worker")


def _key_or_name(schema: dict[str, Any]) -> None:
    schema["properties"]["name"] = schema["properties"]["key"]
    schema["required"] = ["value"]
    schema["anyOf"] = [{"required": ["key"]}, {"required": ["name"]}]


def _value_may_be_kept(schema: dict[str, Any]) -> None:
    _key_or_name(schema)
    del schema["required"], schema["properties"]["value"]["default"]


class _Variable(RequestModel):
    """An environment variable of the container. The name may be given as `key` or as `name`."""

    key: Annotated[VariableName, AfterValidator(_given_once)] = Field(  # type: ignore[pydantic-alias]
        validation_alias=AliasChoices("key", "name"), description="Name"
    )
    secret: bool | None = Field(
        True, description="false: the value is not masked in workers' logs; null means the default"
    )


_Value = Annotated[str, Field(max_length=32 * 1024), NO_NUL]
_VALUE = "Value; never returned, and masked in workers' logs if it has 6 characters or more"


class VariableRequest(_Variable):
    """An environment variable of the container. The name may be given as `key` or as `name`."""

    model_config = ConfigDict(json_schema_extra=_key_or_name)

    value: _Value = Field(description=_VALUE)


class VariableChange(_Variable):
    """An environment variable after a change. The name may be given as `key` or as `name`."""

    model_config = ConfigDict(json_schema_extra=_value_may_be_kept)

    @model_validator(mode="before")
    @classmethod
    def _keeps_what_it_says(cls, given: Any) -> Any:
        """Refuse a variable that may not be meant to keep its value, because a member of it is not known."""
        if isinstance(given, dict) and "value" not in given:
            if unknown := sorted(set(given) - {"key", "name", "secret"}):
                raise ValueError(f"has no value, and the unknown member {unknown[0][:MAX_SHOWN_NAME]!r}")
            if {"key", "name"} <= set(given):
                raise ValueError("has both key and name")
        return given

    # The default is none of the type, so that null is refused.
    value: _Value = Field(  # type: ignore[assignment]
        None,
        description=f"{_VALUE}. Without it, the variable keeps its stored value, secret unless `secret` is false",
    )

    @property
    def new_value(self) -> str | None:
        """The value; None if the variable keeps its stored one."""
        return self.value if "value" in self.model_fields_set else None


V = TypeVar("V", VariableRequest, VariableChange)


def _small_together(variables: list[V]) -> list[V]:
    # A value that is kept is None. Its size is checked when the stored values are known.
    if sum(len(one.key) + len((one.value or "").encode()) for one in variables) > MAX_ENVIRONMENT_BYTES:
        raise ValueError(ENVIRONMENT_RULE)
    return variables


Variables = Annotated[list[VariableRequest], Field(max_length=500), AfterValidator(_small_together)]
ChangedVariables = Annotated[list[VariableChange], Field(max_length=500), AfterValidator(_small_together)]


class ExposeRequest(RequestModel):
    """The port on which the container listens."""

    port: Port = Field(description="1–65535")
    protocol: Annotated[str, AfterValidator(_protocol)] = Field(description="`http` or `tcp`, in any case")


class RateLimitRequest(RequestModel):
    """A token bucket, which is full at first. Each attempt that begins takes a token."""

    per_second: Annotated[float, Field(ge=0.01, le=10_000, allow_inf_nan=False)] = Field(
        description="Tokens that are added in a second"
    )
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = Field(description="Number of tokens that the bucket holds")


@dataclass(frozen=True)
class _Shape:
    """Form of a structured setting in a request."""

    given: Any
    """Type of the given value, for pydantic; not null."""
    read: Callable[[Any], Any]
    """Function that returns the setting for a given value."""
    absent: Any = None
    """Default of a setting that a creation may leave out; None stands for `given`."""
    created: Any = None
    """Type in a creation, if it is not `given` or null."""


_SHAPES = {
    "resources": _Shape(
        Annotated[list[ResourceRequest], Field(min_length=1, max_length=100)],
        lambda given: tuple(Resource(one.region, one.gpu_type, one.gpu_count) for one in given),
    ),
    "plain_variables": _Shape(
        ChangedVariables,
        lambda given: frozenset(one.key for one in given if one.secret is False),
        absent=[],
        created=Variables,
    ),
    "expose": _Shape(ExposeRequest, lambda given: Expose(given.port, given.protocol)),
    "rate_limit": _Shape(RateLimitRequest, lambda given: RateLimit(given.per_second, given.burst)),
    "webhook": _Shape(WebhookUrl, lambda given: given.url, created=OptionalWebhook),
    "retry_on": _Shape(RetryOnWords, frozenset),
    "retry_delays_seconds": _Shape(RetryDelays, tuple),
}


def _members_of_creation() -> dict[str, Any]:
    return {one.asked: _created(one) for one in SETTINGS}


def _created(setting: Defined[Setting]) -> tuple[Any, Any]:
    """Return the annotation and the pydantic field of a setting in a creation."""
    text, shape = setting.definition.text, _SHAPES.get(setting.name)
    rule = shape.given if shape else setting.rule
    if setting.required:
        return rule, Field(description=text)
    if shape is None:
        return rule, Field(setting.default, description=text)
    return shape.created or rule | None, Field(shape.absent, description=text)


def _members_of_change() -> dict[str, Any]:
    return {one.asked: _changed(one) for one in SETTINGS if not one.definition.fixed}


def _changed(setting: Defined[Setting]) -> tuple[Any, Any]:
    """Return the annotation and the pydantic field of a setting in a change.

    Null clears it or restores its default. A required setting allows neither, so null breaks its rule.
    """
    text, also, shape = setting.definition.text, setting.definition.also_asked, _SHAPES.get(setting.name)
    rule = shape.given if shape else setting.rule
    annotation = rule if setting.required or (setting.nullable and not shape) else rule | None
    if not also:
        return annotation, Field(None, description=text)
    names = AliasChoices(to_camel(setting.asked), also)
    return annotation, Field(None, validation_alias=names, description=f"{text}; `{also}` is accepted as another name")


def _without_default(schema: dict[str, Any]) -> None:
    for one in SETTINGS:
        if one.required and not one.definition.fixed:
            del schema["properties"][to_camel(one.asked)]["default"]


def _read(setting: Defined[Setting], given: Any) -> Any:
    """Return the setting for the value `given` in a request."""
    given = setting.or_default(given)
    shape = _SHAPES.get(setting.name)
    return given if shape is None or given is setting.default else shape.read(given)


if TYPE_CHECKING:

    class _Creation(RequestModel):
        """Types of the members that the code uses, for mypy. The members themselves are made from the definitions."""

        ready_path: str | None = None
        expose: ExposeRequest | None = None
        webhook: Webhook | None = None
        environment_vars: list[VariableRequest] | None = None
        container_registry_auth_id: int | None = None

    class _Change(RequestModel):
        """The same in a change."""

        ready_path: str | None = None
        expose: ExposeRequest | None = None
        webhook: Webhook | None = None
        environment_vars: list[VariableChange] | None = None
        container_registry_auth_id: int | None = None

else:
    _Creation = create_model("_Creation", __base__=RequestModel, **_members_of_creation())
    _Change = create_model("_Change", __base__=RequestModel, **_members_of_change())


class CreateEndpoint(_Creation):
    """A new endpoint: its image, resources, number of workers and settings."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    @classmethod
    def parse(cls, values: dict[str, Any], catalogue: Catalogue) -> tuple[CreateEndpoint, list[FieldError]]:
        """Return the new endpoint and its field errors, as `parsed` does."""
        made, errors = parsed(cls, values, lambda: _Context(catalogue))
        errors += _errors_together(made.ready_path, made.expose, errors)
        # An invalid required field leaves no attribute.
        resources, mode = getattr(made, "resources", ()), getattr(made, "service_mode", None)
        return made, errors + _not_offered(resources, catalogue) + _unreached_regions(resources, mode, catalogue)

    def config(self) -> EndpointConfig:
        """Return the configuration to store."""
        settings = {one.name: _read(one, getattr(self, one.asked)) for one in SETTINGS}
        return EndpointConfig(environment=environment_of(self.environment_vars or ()), **settings)


class UpdateEndpoint(_Change):
    """Changes of an endpoint. An omitted member keeps its value.

    Null clears a member or restores its default. Null is refused for the first four members, which are required.
    """

    model_config = ConfigDict(json_schema_extra=_without_default)

    @classmethod
    def parse(
        cls, values: dict[str, Any], catalogue: Catalogue, before: EndpointConfig, stored: Collection[str] = ()
    ) -> tuple[UpdateEndpoint, list[FieldError]]:
        """Return the changes and the field errors of both the changes and `before`, as `parsed_changes` does.

        `stored` are the names of the stored environment variables.
        """
        changes, errors = parsed_changes(cls, values, lambda: _Context(catalogue))
        errors += _values_missing(changes.environment_vars or (), stored)
        after = changes._applied_to(before)
        errors += _errors_together(after.ready_path, after.expose, errors)
        resources = after.resources if "resources" in changes.model_fields_set else ()
        errors += _not_offered(resources, catalogue)
        return changes, errors + _unreached_regions(resources, before.service_mode, catalogue)

    def environment(self) -> dict[str, str | None] | None:
        """Return the new environment; None when it does not change. A value of None is the stored one."""
        if "environment_vars" not in self.model_fields_set:
            return None
        return {one.key: one.new_value for one in self.environment_vars or ()}

    def edited(self, before: EndpointConfig) -> EndpointConfig:
        """Return `before` with these changes. Raises InvalidRequest for fields that are not valid together."""
        after = self._applied_to(before)
        raise_for(_errors_together(after.ready_path, after.expose))
        return after

    def _applied_to(self, before: EndpointConfig) -> EndpointConfig:
        given = (one for one in SETTINGS if one.asked in self.model_fields_set)
        return replace(before, **{one.name: _read(one, getattr(self, one.asked)) for one in given})


@dataclass(frozen=True)
class SettingSchema:
    """A setting as a creation takes it."""

    name: str
    """Its name in requests."""
    shown: str
    """Its name in responses."""
    text: str
    required: bool
    fixed: bool
    renews_workers: bool
    default: Any
    """As JSON; None: none."""
    schema: dict[str, Any]
    """JSON Schema of its values, without references."""


@cache
def creation_schema() -> tuple[SettingSchema, ...]:
    """Return the settings of a creation, in the order of their definition. The schemas in it must not be changed."""
    document = CreateEndpoint.model_json_schema(by_alias=True)
    members, definitions = document["properties"], document.get("$defs", {})
    return tuple(
        SettingSchema(
            name=(name := to_camel(one.asked)),
            shown=to_camel(one.shown),
            text=one.definition.text,
            required=one.required,
            fixed=one.definition.fixed,
            renews_workers=one.definition.renews_workers and not one.definition.fixed,
            default=_as_json(one),
            schema=_plain_schema(members[name], definitions),
        )
        for one in SETTINGS
    )


def _as_json(setting: Defined[Setting]) -> Any:
    """Return the default of a setting as a request would have it."""
    default = setting.default
    if setting.required or default is None:
        return None
    if isinstance(default, frozenset):
        return sorted(default)
    return list(default) if isinstance(default, tuple) else default


def _plain_schema(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema with definitions in place of references, without null and without texts of the whole member."""
    if isinstance(schema, list):
        return [_plain_schema(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _plain_schema(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    given = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if len(given) == 1 and len(schema["anyOf"]) > 1:
        return _plain_schema(given[0], definitions)
    return {
        name: {member: _plain_schema(one, definitions) for member, one in value.items()}
        if name == "properties"
        else _plain_schema(value, definitions)
        for name, value in schema.items()
        if name not in ("title", "description", "default", "examples")
    }


def _errors_together(
    ready_path: str | None, expose: Expose | ExposeRequest | None, errors: Sequence[FieldError] = ()
) -> list[FieldError]:
    """Return the errors of fields that are valid one by one and not together. Skip rules about fields that are in
    `errors`.
    """
    if ready_path is None or expose is not None or any(name.startswith("expose") for name, _ in errors):
        return []
    return [("readyPath", "requires expose, because it is requested on that port")]


def _values_missing(variables: Sequence[VariableChange], stored: Collection[str]) -> list[FieldError]:
    """Return an error for each variable that has no value, neither here nor in the store."""
    return [
        (f"environmentVars[{index}].value", "is required, because the variable is not stored")
        for index, one in enumerate(variables)
        if one.new_value is None and one.key not in stored
    ]


def _not_offered(resources: Sequence[ResourceRequest | Resource], catalogue: Catalogue) -> list[FieldError]:
    """Return an error for each resource whose GPU type is not one of its region."""
    return [
        (
            f"resources[{index}].gpuType",
            NOT_OFFERED.format(region=one.region, gpu_type=one.gpu_type, offered=", ".join(offered)),
        )
        for index, one in enumerate(resources)
        if (offered := catalogue.offered.get(one.region)) is not None and one.gpu_type not in offered
    ]


def _unreached_regions(
    resources: Sequence[ResourceRequest | Resource], mode: ServiceMode | None, catalogue: Catalogue
) -> list[FieldError]:
    """Return an error for each region of an ALB endpoint to whose workers the API cannot connect."""
    if mode is not ServiceMode.ALB:
        return []
    return [
        (f"resources[{index}].region", UNREACHED.format(region=one.region))
        for index, one in enumerate(resources)
        if one.region in catalogue.unreached_regions
    ]


def environment_of(variables: Sequence[VariableRequest]) -> dict[str, str]:
    """Return the values by name."""
    return {variable.key: variable.value for variable in variables}
