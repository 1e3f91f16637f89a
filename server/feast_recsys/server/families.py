"""Everything that a server counts, by the names that Prometheus sees."""

from __future__ import annotations

from feast_recsys.server.tally import Family

REQUESTS = Family("counter", "feast_recsys_requests", "Calls answered.", ("rpc", "recommender", "code"))
REQUEST_SECONDS = Family("histogram", "feast_recsys_request_seconds", "Time from decoding to encoding.", ("rpc",))
STAGE_SECONDS = Family("histogram", "feast_recsys_stage_seconds", "Time in one stage of a call.", ("rpc", "stage"))
DEFAULTS = Family("counter", "feast_recsys_defaults", "Values replaced by the default.", ("feature", "status"))
DEGRADED = Family("counter", "feast_recsys_degraded_replies", "Replies that say they are degraded.", ("reason",))
STORE_FAILURES = Family("counter", "feast_recsys_store_failures", "Reads of the online store that failed.", ("kind",))
FILTERS = Family("counter", "feast_recsys_filters", "Filters of requests, by whether they were known.", ("result",))
BUNDLE_SWAPS = Family("counter", "feast_recsys_bundle_swaps", "Bundles taken into service, once per worker.")
BUNDLE_FAILURES = Family("counter", "feast_recsys_bundle_failures", "Bundles refused, once per attempt.")
PLAN_REFRESH_FAILURES = Family(
    "counter", "feast_recsys_plan_refresh_failures", "Refreshes that kept the old read plans."
)
BUNDLE_INFO = Family("gauge", "feast_recsys_bundle_info", "1 for the bundle in service.", ("bundle_id",))
BUNDLE_AS_OF = Family(
    "gauge", "feast_recsys_bundle_as_of_seconds", "Unix time at which the bundle's features were read."
)
BUNDLE_AGE = Family("gauge", "feast_recsys_bundle_age_seconds", "Time since then.")
WORKERS = Family("gauge", "feast_recsys_workers", "Worker processes that are running.")
WORKER_RESTARTS = Family("counter", "feast_recsys_worker_restarts", "Worker processes that ended and were replaced.")

FAMILIES = {
    family.name: family
    for family in (
        REQUESTS,
        REQUEST_SECONDS,
        STAGE_SECONDS,
        DEFAULTS,
        DEGRADED,
        STORE_FAILURES,
        FILTERS,
        BUNDLE_SWAPS,
        BUNDLE_FAILURES,
        PLAN_REFRESH_FAILURES,
        BUNDLE_INFO,
        BUNDLE_AS_OF,
        WORKERS,
        WORKER_RESTARTS,
    )
}
"""What is counted, by name; BUNDLE_AGE is computed when somebody asks."""
