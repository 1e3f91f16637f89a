from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ComparisonType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPARISON_TYPE_UNSPECIFIED: _ClassVar[ComparisonType]
    COMPARISON_TYPE_EQ: _ClassVar[ComparisonType]
    COMPARISON_TYPE_NE: _ClassVar[ComparisonType]
    COMPARISON_TYPE_GT: _ClassVar[ComparisonType]
    COMPARISON_TYPE_GTE: _ClassVar[ComparisonType]
    COMPARISON_TYPE_LT: _ClassVar[ComparisonType]
    COMPARISON_TYPE_LTE: _ClassVar[ComparisonType]
    COMPARISON_TYPE_IN: _ClassVar[ComparisonType]
    COMPARISON_TYPE_NIN: _ClassVar[ComparisonType]

class CompoundType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPOUND_TYPE_UNSPECIFIED: _ClassVar[CompoundType]
    COMPOUND_TYPE_AND: _ClassVar[CompoundType]
    COMPOUND_TYPE_OR: _ClassVar[CompoundType]
    COMPOUND_TYPE_NOT: _ClassVar[CompoundType]

class UserStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USER_STATUS_UNSPECIFIED: _ClassVar[UserStatus]
    USER_STATUS_KNOWN: _ClassVar[UserStatus]
    USER_STATUS_UNKNOWN: _ClassVar[UserStatus]
COMPARISON_TYPE_UNSPECIFIED: ComparisonType
COMPARISON_TYPE_EQ: ComparisonType
COMPARISON_TYPE_NE: ComparisonType
COMPARISON_TYPE_GT: ComparisonType
COMPARISON_TYPE_GTE: ComparisonType
COMPARISON_TYPE_LT: ComparisonType
COMPARISON_TYPE_LTE: ComparisonType
COMPARISON_TYPE_IN: ComparisonType
COMPARISON_TYPE_NIN: ComparisonType
COMPOUND_TYPE_UNSPECIFIED: CompoundType
COMPOUND_TYPE_AND: CompoundType
COMPOUND_TYPE_OR: CompoundType
COMPOUND_TYPE_NOT: CompoundType
USER_STATUS_UNSPECIFIED: UserStatus
USER_STATUS_KNOWN: UserStatus
USER_STATUS_UNKNOWN: UserStatus

class RetrieveRequest(_message.Message):
    __slots__ = ("recommender", "user_id", "top_k", "context", "filter", "exclude_item_ids", "exclude_seen", "bundle_id", "entity_keys", "seed_item_ids", "sources")
    class ContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    class EntityKeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RECOMMENDER_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_KEYS_FIELD_NUMBER: _ClassVar[int]
    SEED_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    recommender: str
    user_id: str
    top_k: int
    context: _containers.MessageMap[str, Value]
    filter: Filter
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    exclude_seen: bool
    bundle_id: str
    entity_keys: _containers.ScalarMap[str, str]
    seed_item_ids: _containers.RepeatedScalarFieldContainer[str]
    sources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, recommender: _Optional[str] = ..., user_id: _Optional[str] = ..., top_k: _Optional[int] = ..., context: _Optional[_Mapping[str, Value]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., exclude_seen: bool = ..., bundle_id: _Optional[str] = ..., entity_keys: _Optional[_Mapping[str, str]] = ..., seed_item_ids: _Optional[_Iterable[str]] = ..., sources: _Optional[_Iterable[str]] = ...) -> None: ...

class RetrieveResponse(_message.Message):
    __slots__ = ("item_ids", "scores", "info", "unknown_item_ids", "sources")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedScalarFieldContainer[float]
    info: ResponseInfo
    unknown_item_ids: _containers.RepeatedScalarFieldContainer[str]
    sources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[float]] = ..., info: _Optional[_Union[ResponseInfo, _Mapping]] = ..., unknown_item_ids: _Optional[_Iterable[str]] = ..., sources: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchRetrieveRequest(_message.Message):
    __slots__ = ("recommender", "user_ids", "top_k", "context", "filter", "exclude_item_ids", "exclude_seen", "bundle_id", "entity_keys", "sources")
    class ContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    class EntityKeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RECOMMENDER_FIELD_NUMBER: _ClassVar[int]
    USER_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_KEYS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    recommender: str
    user_ids: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    context: _containers.MessageMap[str, Value]
    filter: Filter
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    exclude_seen: bool
    bundle_id: str
    entity_keys: _containers.ScalarMap[str, str]
    sources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, recommender: _Optional[str] = ..., user_ids: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., context: _Optional[_Mapping[str, Value]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., exclude_seen: bool = ..., bundle_id: _Optional[str] = ..., entity_keys: _Optional[_Mapping[str, str]] = ..., sources: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchRetrieveResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[RetrieveResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[RetrieveResponse, _Mapping]]] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("recommender", "user_id", "item_ids", "top_k", "context", "candidate_features", "bundle_id", "entity_keys", "reranking")
    class ContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    class CandidateFeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FeatureColumn
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FeatureColumn, _Mapping]] = ...) -> None: ...
    class EntityKeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RECOMMENDER_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FEATURES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_KEYS_FIELD_NUMBER: _ClassVar[int]
    RERANKING_FIELD_NUMBER: _ClassVar[int]
    recommender: str
    user_id: str
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    context: _containers.MessageMap[str, Value]
    candidate_features: _containers.MessageMap[str, FeatureColumn]
    bundle_id: str
    entity_keys: _containers.ScalarMap[str, str]
    reranking: Reranking
    def __init__(self, recommender: _Optional[str] = ..., user_id: _Optional[str] = ..., item_ids: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., context: _Optional[_Mapping[str, Value]] = ..., candidate_features: _Optional[_Mapping[str, FeatureColumn]] = ..., bundle_id: _Optional[str] = ..., entity_keys: _Optional[_Mapping[str, str]] = ..., reranking: _Optional[_Union[Reranking, _Mapping]] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("item_ids", "scores", "unknown_item_ids", "info")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedScalarFieldContainer[float]
    unknown_item_ids: _containers.RepeatedScalarFieldContainer[str]
    info: ResponseInfo
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[float]] = ..., unknown_item_ids: _Optional[_Iterable[str]] = ..., info: _Optional[_Union[ResponseInfo, _Mapping]] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("recommender", "user_id", "top_k", "candidate_count", "context", "filter", "exclude_item_ids", "exclude_seen", "bundle_id", "entity_keys", "reranking", "sources")
    class ContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    class EntityKeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RECOMMENDER_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_KEYS_FIELD_NUMBER: _ClassVar[int]
    RERANKING_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    recommender: str
    user_id: str
    top_k: int
    candidate_count: int
    context: _containers.MessageMap[str, Value]
    filter: Filter
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    exclude_seen: bool
    bundle_id: str
    entity_keys: _containers.ScalarMap[str, str]
    reranking: Reranking
    sources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, recommender: _Optional[str] = ..., user_id: _Optional[str] = ..., top_k: _Optional[int] = ..., candidate_count: _Optional[int] = ..., context: _Optional[_Mapping[str, Value]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., exclude_seen: bool = ..., bundle_id: _Optional[str] = ..., entity_keys: _Optional[_Mapping[str, str]] = ..., reranking: _Optional[_Union[Reranking, _Mapping]] = ..., sources: _Optional[_Iterable[str]] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("item_ids", "scores", "retrieval_scores", "info", "sources")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    RETRIEVAL_SCORES_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedScalarFieldContainer[float]
    retrieval_scores: _containers.RepeatedScalarFieldContainer[float]
    info: ResponseInfo
    sources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[float]] = ..., retrieval_scores: _Optional[_Iterable[float]] = ..., info: _Optional[_Union[ResponseInfo, _Mapping]] = ..., sources: _Optional[_Iterable[str]] = ...) -> None: ...

class Reranking(_message.Message):
    __slots__ = ("relevance_weight", "caps", "pinned_item_ids", "blocked_item_ids")
    RELEVANCE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CAPS_FIELD_NUMBER: _ClassVar[int]
    PINNED_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    relevance_weight: float
    caps: _containers.RepeatedCompositeFieldContainer[Cap]
    pinned_item_ids: _containers.RepeatedScalarFieldContainer[str]
    blocked_item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, relevance_weight: _Optional[float] = ..., caps: _Optional[_Iterable[_Union[Cap, _Mapping]]] = ..., pinned_item_ids: _Optional[_Iterable[str]] = ..., blocked_item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Cap(_message.Message):
    __slots__ = ("key", "max_items")
    KEY_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    key: str
    max_items: int
    def __init__(self, key: _Optional[str] = ..., max_items: _Optional[int] = ...) -> None: ...

class ResponseInfo(_message.Message):
    __slots__ = ("bundle_id", "as_of", "user_status", "degraded_reasons")
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    USER_STATUS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_REASONS_FIELD_NUMBER: _ClassVar[int]
    bundle_id: str
    as_of: _timestamp_pb2.Timestamp
    user_status: UserStatus
    degraded_reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, bundle_id: _Optional[str] = ..., as_of: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., user_status: _Optional[_Union[UserStatus, str]] = ..., degraded_reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("string_value", "int64_value", "double_value", "bool_value", "string_list", "int64_list", "double_list", "bool_list")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT64_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_LIST_FIELD_NUMBER: _ClassVar[int]
    INT64_LIST_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_LIST_FIELD_NUMBER: _ClassVar[int]
    BOOL_LIST_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    int64_value: int
    double_value: float
    bool_value: bool
    string_list: StringList
    int64_list: Int64List
    double_list: DoubleList
    bool_list: BoolList
    def __init__(self, string_value: _Optional[str] = ..., int64_value: _Optional[int] = ..., double_value: _Optional[float] = ..., bool_value: bool = ..., string_list: _Optional[_Union[StringList, _Mapping]] = ..., int64_list: _Optional[_Union[Int64List, _Mapping]] = ..., double_list: _Optional[_Union[DoubleList, _Mapping]] = ..., bool_list: _Optional[_Union[BoolList, _Mapping]] = ...) -> None: ...

class FeatureColumn(_message.Message):
    __slots__ = ("string_values", "int64_values", "float_values", "bool_values")
    STRING_VALUES_FIELD_NUMBER: _ClassVar[int]
    INT64_VALUES_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VALUES_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUES_FIELD_NUMBER: _ClassVar[int]
    string_values: StringList
    int64_values: Int64List
    float_values: FloatList
    bool_values: BoolList
    def __init__(self, string_values: _Optional[_Union[StringList, _Mapping]] = ..., int64_values: _Optional[_Union[Int64List, _Mapping]] = ..., float_values: _Optional[_Union[FloatList, _Mapping]] = ..., bool_values: _Optional[_Union[BoolList, _Mapping]] = ...) -> None: ...

class StringList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class Int64List(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class DoubleList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class FloatList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class BoolList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, values: _Optional[_Iterable[bool]] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("comparison", "compound")
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    COMPOUND_FIELD_NUMBER: _ClassVar[int]
    comparison: ComparisonFilter
    compound: CompoundFilter
    def __init__(self, comparison: _Optional[_Union[ComparisonFilter, _Mapping]] = ..., compound: _Optional[_Union[CompoundFilter, _Mapping]] = ...) -> None: ...

class ComparisonFilter(_message.Message):
    __slots__ = ("type", "key", "value")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    type: ComparisonType
    key: str
    value: Value
    def __init__(self, type: _Optional[_Union[ComparisonType, str]] = ..., key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...

class CompoundFilter(_message.Message):
    __slots__ = ("type", "filters")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    type: CompoundType
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, type: _Optional[_Union[CompoundType, str]] = ..., filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...
