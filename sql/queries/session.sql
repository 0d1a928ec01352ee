-- What the engine's own sessions run first.
--
-- Their statements are short and known, and the engine has deadlines of its own for them: what an administrator has set
-- for the role or the database with people in mind (a session that idles, a statement of a report) does not fit them.
-- Each setting may be set by anybody. The first value tells which run of which server this is.

-- name: own_session
select extract(epoch from pg_postmaster_start_time())::text as server,
       set_config('idle_session_timeout', '0', false),
       set_config('idle_in_transaction_session_timeout', '60s', false),
       set_config('statement_timeout', '@statement_timeout_ms@', false),
       set_config('lock_timeout', '0', false),
       case when current_setting('server_version_num')::int >= 170000
            then set_config('transaction_timeout', '0', false) end

-- name: any_session
select extract(epoch from pg_postmaster_start_time())::text as server

-- name: step_session
-- The user's statements run in it, so the administrator's limits hold; but between two steps it idles by design.
select extract(epoch from pg_postmaster_start_time())::text as server,
       set_config('idle_session_timeout', '0', false)
