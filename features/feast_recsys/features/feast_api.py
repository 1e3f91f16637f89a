"""Everything of Feast that this room uses, imported so that the process stays as it was.

Importing Feast sets two `PROMETHEUS_*` variables where they are unset, and so turns prometheus_client, when it is
imported later, here or in a child process, to files shared between processes. Therefore prometheus_client comes
first and the variables go again. No other module of this room imports Feast.
"""

# ruff: noqa: E402 -- the order of these imports is the purpose of the module

from __future__ import annotations

import logging
import os
import warnings

import prometheus_client  # noqa: F401 -- reads the variables when it is imported

_VARIABLES = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
_SET_BY_OTHERS = frozenset(_VARIABLES) & frozenset(os.environ)

from feast import FeatureStore, FeatureView, FeatureViewState, FileSource, OnDemandFeatureView, ValueType
from feast.data_format import ParquetFormat
from feast.errors import FeastObjectNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME, DUMMY_ENTITY_VAL
from feast.field import Field
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.online_stores.helpers import _mmh3 as redis_hash_field  # noqa: PLC2701 -- there is no public one
from feast.infra.online_stores.helpers import compute_table_id, compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus as FeastStatus
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyMessage
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _convert_arrow_to_proto as convert_rows  # noqa: PLC2701 -- there is no public one

for _name in set(_VARIABLES) - _SET_BY_OTHERS:
    os.environ.pop(_name, None)

# Feast says at each opening that `serve_features_while_materializing` has no effect on a file registry. It has: without
# it a process that materializes can't be read from, and a test shows it.
logging.getLogger("feast.repo_config").addFilter(lambda record: "typically has no effect" not in record.getMessage())

# Feast imports its store for Milvus wherever pymilvus is installed, whatever the repository uses.
warnings.filterwarnings("ignore", 'Field name "vector_enabled"', UserWarning)

__all__ = [
    "DUMMY_ENTITY_ID",
    "DUMMY_ENTITY_NAME",
    "DUMMY_ENTITY_VAL",
    "EntityKeyMessage",
    "FeastObjectNotFoundException",
    "FeastStatus",
    "FeatureStore",
    "FeatureView",
    "FeatureViewState",
    "Field",
    "FileSource",
    "GetOnlineFeaturesResponse",
    "OnDemandFeatureView",
    "OnlineStore",
    "ParquetFormat",
    "RetrievalJob",
    "Value",
    "ValueType",
    "compute_table_id",
    "compute_versioned_name",
    "convert_rows",
    "redis_hash_field",
]
