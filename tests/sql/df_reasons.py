"""Why some of the other extension's scripts do not pass, and what psql is started with for those that need it."""

# Their suite starts a server of its own for this one.
OPTIONS = {"17_superuser_guc": "-c pg_durable.enable_superuser_instances=off"}

_INTERNET = "makes requests to the internet, and starts no worker to make them"
_ENGINE = "reads the tables of that extension's engine"
_LIMITS = "is about a limit of connections; here there are as many pumps as are started"

REASONS = {
    "00_requires_shared_preload": "expects an extension that has to be preloaded; nothing is preloaded here",
    "03_loops": (
        "its last case expects that a loop without a wait makes at most 15 rounds in 3 seconds: here it makes thousands"
    ),
    "04_variables_and_results": "its third case of variables " + _INTERNET,
    "05_monitoring_and_explain": (
        "its last case expects that only a superuser may set `pg_durable.list_instances_max_limit`"
    ),
    "06_http_and_ssrf": _INTERNET,
    "07_signals": (
        "its third case sends a signal and waits for what follows in one transaction; here a signal is sent when "
        "its transaction commits"
    ),
    "12_extension_lifecycle": "creates and drops the extension `pg_durable`",
    "13_user_isolation": (
        "its sixth case expects that a `security definer` function starts instances as its owner; here they are "
        "its caller's"
    ),
    "14_database": "creates and drops the extension `pg_durable`, and runs steps in other databases",
    "15_rls": (
        "its seventh case writes `df.instances`, which is a view; that each user sees its own has passed before that"
    ),
    "17_superuser_guc": "its third case forges the submitter by writing `df.instances`, which is a view",
    "18_delegated_grants": (
        "its last cases have a role granted usage by one that is no administrator: its steps wait for "
        "`durable.admit_submitter`"
    ),
    "21_typed_results": "its tenth case expects `bytea` to be refused; here every type comes through",
    "25_start_fail_fast": (
        "writes a table of the engine to make it fail; a start here writes rows, and nothing else can fail"
    ),
    "26_terminal_event_payload_ids": _ENGINE,
    "45_connection_limit_timeout": _LIMITS,
    "46_connection_limit_startup_validation": _LIMITS,
    "47_http_dsl_disabled": "expects that `df.http` has not been compiled in",
    "48_http_allow_all": _INTERNET,
    "51_node_composite_pk": "looks for the primary key of `df.nodes`, which is a view",
    "52_node_id_collision_across_instances": "writes `df.instances` and `df.nodes`, which are views",
    "54_reconcile_orphans": _ENGINE,
    "57_loop_in_join_race_branch": "its third case compares the ids of the engine's inner runs; a loop here has none",
    "61_loop_child_start_failure": (
        "drops the role of an instance under way and expects it to fail; here it is paused, until somebody admits"
        " a role of that name or cancels it"
    ),
    "63_race_losing_loop_cancelled": (
        "expects the loop that lost a race to be failed, with the id of an inner run; here it is skipped"
    ),
    "66_new_transaction_launch_limit": (
        "is about a limit of starts in transactions of their own, which there is none of"
    ),
}
