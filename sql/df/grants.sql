-- Run after the functions are made: usage of the schema is what lets somebody in, but for these.
revoke execute on function df.http, df.http_multipart, df.metrics, df.grant_usage, df.revoke_usage from public;
revoke execute on function
    df._define, df._start_apart, df._status, df._output, df._list, df._list_limit, df._need, df._find,
    df._forget
    from public;
